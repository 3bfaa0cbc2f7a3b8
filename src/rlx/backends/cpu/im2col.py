"""Images as the right operand of a product: the panel for a run of output pixels, gathered into scratch memory.

Row k = (channel, kernel position) of the panel holds, for each output pixel of the panel, the input element that this
kernel position reads there. Runs of pixels within one output row go through vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from llvmlite import ir

from rlx.backends.cpu.gemm_operand import when
from rlx.backends.cpu.gemm_view import split_index
from rlx.backends.cpu.image_reader import ImageReader
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I1, I64

#: Kernel positions along the last dimension whose masks are kept in registers, side by side.
_SIDE_BY_SIDE = 8


@dataclass(frozen=True, eq=False)
class PanelsOfImage:
    """b for a convolution: matrices are (image, group), columns output pixels in row-major order."""

    reader: ImageReader
    columns: int

    @property
    def k(self) -> int:
        """Rows are one vector apart, so that whole vectors can be stored at a row's end."""
        return self.columns + self.reader.lanes

    @property
    def scratch_bytes(self) -> int:
        spec = self.reader.spec
        depth = spec.channels // spec.groups * prod(spec.kernel)
        return depth * self.k * self.reader.dtype.itemsize

    def panel(
        self,
        e: FunctionEmitter,
        scratch: ir.Value,
        matrix: ir.Value,
        number: ir.Value,
        first: ir.Value,
        fresh: ir.Value,
    ) -> ir.Value:
        with when(e, fresh):
            self._fill(e, scratch, matrix, first)
        return scratch

    def _fill(self, e: FunctionEmitter, scratch: ir.Value, matrix: ir.Value, first: ir.Value) -> None:
        reader, spec = self.reader, self.reader.spec
        image, group = split_index(e, matrix, (spec.batch, spec.groups))
        channels = spec.channels // spec.groups
        origin = e.integer_add(
            e.integer_mul(image, I64(reader.strides[0])), e.integer_mul(group, I64(channels * reader.strides[1]))
        )
        base = e.element_pointer(e.args[spec.x.name], spec.x_dtype, origin)
        width = I64(spec.out[-1])
        end = e.intrinsic("smin", e.integer_add(first, I64(self.columns)), I64(prod(spec.out)))
        behind = e.integer_add(e.builder.udiv(e.builder.sub(end, I64(1)), width), I64(1))
        with e.loop(e.builder.udiv(first, width), behind) as line:
            begun = e.integer_mul(line, width)
            start = e.intrinsic("smax", e.builder.sub(first, begun), I64(0))
            stop = e.intrinsic("smin", e.builder.sub(end, begun), width)
            outer = split_index(e, line, spec.out[:-1])
            with e.loop(start, stop, reader.lanes) as x:
                at = e.builder.sub(e.builder.add(begun, x), first)
                self._pixels(e, base, e.element_pointer(scratch, reader.dtype, at), outer, x)

    def _pixels(
        self, e: FunctionEmitter, base: ir.Value, target: ir.Value, outer: Sequence[ir.Value], x: ir.Value
    ) -> None:
        """All rows of the panel for the vector of pixels (outer..., x .. x + lanes)."""
        reader, spec = self.reader, self.reader.spec
        taps = spec.kernel[-1]
        positions = [reader.position(e, -1, x, I64(t)) for t in range(taps)] if taps <= _SIDE_BY_SIDE else []
        masks = [reader.inside(e, at) for at in positions]

        def row(k: ir.Value, offset: ir.Value, at: ir.Value, masks: Sequence[ir.Value], row_inside: ir.Value) -> None:
            value = reader.load(e, base, offset, at, masks, row_inside)
            place = e.element_pointer(target, reader.dtype, e.integer_mul(k, I64(self.k)))
            e.store_lanes(place, reader.dtype, value, reader.lanes)

        def walk(axis: int, k: ir.Value, offset: ir.Value, row_inside: ir.Value) -> None:
            """The kernel positions of dimension `axis` and those behind it."""
            if axis < len(spec.kernel) - 1:
                with e.loop(I64(0), I64(spec.kernel[axis])) as tap:
                    at, fits = reader.place(e, axis, reader.position(e, axis, outer[axis], tap))
                    following = e.integer_add(k, e.integer_mul(tap, I64(prod(spec.kernel[axis + 1 :]))))
                    reach = e.integer_add(offset, e.integer_mul(at, I64(reader.strides[2 + axis])))
                    walk(axis + 1, following, reach, e.builder.and_(row_inside, fits))
            elif positions:
                for tap, at in enumerate(positions):
                    row(e.integer_add(k, I64(tap)), offset, at, masks[tap], row_inside)
            else:
                with e.loop(I64(0), I64(taps)) as tap:
                    at = reader.position(e, -1, x, tap)
                    row(e.integer_add(k, tap), offset, at, reader.inside(e, at), row_inside)

        with e.loop(I64(0), I64(spec.channels // spec.groups)) as channel:
            k = e.integer_mul(channel, I64(prod(spec.kernel)))
            walk(0, k, e.integer_mul(channel, I64(reader.strides[1])), I1(1))
