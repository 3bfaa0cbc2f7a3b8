"""Vectors of the input elements that a convolution's neighbouring output pixels read, zero outside the image.

Output pixel x and kernel position t of a dimension meet at position x * stride + t * rhs_dilation - low padding of the
image as lhs_dilation has spread it out. No element outside the image is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from rlx.backends.cpu.gemm_view import convert
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64, constant, lane_constants, vector
from rlx.codegen.lower.templates import ConvSpec
from rlx.ir.dtypes import DType


@dataclass(frozen=True, eq=False)
class ImageReader:
    """Reads x of `spec`, whose strides are constants, as `lanes` elements of `dtype` at a time."""

    spec: ConvSpec
    dtype: DType
    lanes: int

    @property
    def strides(self) -> tuple[int, ...]:
        """Of x over (N, C, *S)."""
        return tuple(s for s in self.spec.x.strides if isinstance(s, int))

    @property
    def _neighbours(self) -> int:
        """Vectors of neighbouring elements that one vector of pixels is drawn from; 0 where it must be gathered."""
        step = self.spec.strides[-1]
        plain = step <= 2 and self.spec.lhs_dilation[-1] == 1 and self.strides[-1] == 1
        return step if plain else 0

    def position(self, e: FunctionEmitter, axis: int, out: ir.Value, tap: ir.Value) -> ir.Value:
        """Where an output pixel and a kernel position meet along one spatial dimension."""
        spec = self.spec
        at = e.integer_mul(out, I64(spec.strides[axis]))
        at = e.integer_add(at, e.integer_mul(tap, I64(spec.rhs_dilation[axis])))
        return e.integer_add(at, I64(-spec.padding[axis][0]))

    def place(self, e: FunctionEmitter, axis: int, at: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The index of the image element at a position, and whether there is one."""
        b, spread = e.builder, self.spec.lhs_dilation[axis]
        if spread == 1:
            return at, b.icmp_unsigned("<", at, I64(self.spec.size[axis]))
        quotient = b.sdiv(at, I64(spread))
        even = b.icmp_signed("==", b.mul(quotient, I64(spread)), at)
        return quotient, b.and_(even, b.icmp_unsigned("<", quotient, I64(self.spec.size[axis])))

    def inside(self, e: FunctionEmitter, at: ir.Value) -> list[ir.Value]:
        """Masks for `load`: which lanes lie in the image, the first pixel's at position `at` of the last dimension."""
        spec, b, lanes = self.spec, e.builder, self.lanes
        wide = vector(I64, lanes)
        width = constant(wide, spec.size[-1])
        if self._neighbours:
            masks = []
            for piece in range(self._neighbours):
                first = e.splat(e.integer_add(at, I64(piece * lanes)), lanes)
                positions = b.add(first, lane_constants(I64, range(lanes)))
                masks.append(b.icmp_unsigned("<", positions, width))
            return masks
        spread = spec.lhs_dilation[-1]
        positions = self._positions(e, at)
        quotients = b.sdiv(positions, constant(wide, spread)) if spread > 1 else positions
        fits = b.icmp_unsigned("<", quotients, width)
        if spread == 1:
            return [fits]
        even = b.icmp_signed("==", b.mul(quotients, constant(wide, spread)), positions)
        return [b.and_(even, fits)]

    def load(
        self,
        e: FunctionEmitter,
        base: ir.Value,
        offset: ir.Value,
        at: ir.Value,
        masks: Sequence[ir.Value],
        row_inside: ir.Value,
    ) -> ir.Value:
        """The vector of pixels whose first is at position `at` of the row that begins `offset` elements from base."""
        b, lanes, source = e.builder, self.lanes, self.spec.x_dtype
        masks = [b.and_(m, e.splat(row_inside, lanes)) for m in masks]
        if self._neighbours:
            start = e.integer_add(offset, at)
            pieces = []
            for i, mask in enumerate(masks):
                pointer = e.element_pointer(base, source, e.integer_add(start, I64(i * lanes)))
                pieces.append(convert(e, e.load_lanes(pointer, source, lanes, mask), source, self.dtype, lanes))
            return pieces[0] if len(pieces) == 1 else e.shuffle(pieces[0], range(0, 2 * lanes, 2), pieces[1])
        wide, spread = vector(I64, lanes), self.spec.lhs_dilation[-1]
        columns = self._positions(e, at)
        if spread > 1:
            columns = b.sdiv(columns, constant(wide, spread))
        offsets = b.add(b.mul(columns, constant(wide, self.strides[-1])), e.splat(offset, lanes))
        value = e.gather(e.lane_pointers(base, source, offsets), source, masks[0], None)
        return convert(e, value, source, self.dtype, lanes)

    def _positions(self, e: FunctionEmitter, at: ir.Value) -> ir.Value:
        step = self.spec.strides[-1]
        return e.builder.add(e.splat(at, self.lanes), lane_constants(I64, range(0, step * self.lanes, step)))
