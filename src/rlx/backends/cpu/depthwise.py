"""Depthwise convolutions: one channel in, one out, so there is nothing to multiply matrices with.

A grid index is a band of output rows of one channel. The band's input rows are copied to scratch memory, padded with
zeros and, where the stride along a row is s, dealt out into s rows of every s-th element; then each kernel position is
one contiguous load and one multiply-add a vector of output pixels, without masks or branches.

Order of sums: kernel positions in row-major order, the same for every pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from llvmlite import ir

from rlx.backends.cpu.gemm_view import convert, split_index
from rlx.backends.cpu.image_reader import ImageReader
from rlx.codegen.kernel import Var
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I1, I64, Value, constant, register_type, vector
from rlx.codegen.lower.templates import ConvSpec, Epilogue
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType

#: Kernel positions that are unrolled at most.
_MOST_TAPS = 64


@dataclass(frozen=True, eq=False)
class DepthwiseKernel:
    """The kernel for a spec that `takes` accepts."""

    target: Target
    spec: ConvSpec
    epilogue: Epilogue
    lanes: int
    band: int

    @property
    def dtype(self) -> DType:
        return self.spec.acc_dtype

    @property
    def _rows(self) -> int:
        """Output rows of a channel; 1 for one-dimensional convolutions."""
        return self.spec.out[0] if len(self.spec.out) == 2 else 1

    @property
    def _bands(self) -> int:
        return -(-self._rows // self.band)

    @property
    def _pitch(self) -> int:
        """Elements of one dealt-out row, with room for the last vector."""
        spec = self.spec
        reach = (spec.kernel[-1] - 1) * spec.rhs_dilation[-1] // spec.strides[-1]
        return (-(-spec.out[-1] // self.lanes) + 1 + -(-reach // self.lanes)) * self.lanes

    @property
    def _input_rows(self) -> int:
        """Input rows that a full band reads."""
        if len(self.spec.out) == 1:
            return 1
        spec = self.spec
        return (self.band - 1) * spec.strides[0] + (spec.kernel[0] - 1) * spec.rhs_dilation[0] + 1

    @property
    def grid(self) -> int:
        return self.spec.batch * self.spec.features * self._bands

    @property
    def scratch_bytes(self) -> int:
        return self._input_rows * self.spec.strides[-1] * self._pitch * self.dtype.itemsize

    def emit(self, e: FunctionEmitter) -> None:
        spec, b = self.spec, e.builder
        reader = ImageReader(spec, self.dtype, self.lanes)
        with e.loop(e.begin, e.end) as index:
            image, channel, band = split_index(e, index, (spec.batch, spec.features, self._bands))
            first = e.integer_mul(band, I64(self.band))
            count = e.intrinsic("smin", b.sub(I64(self._rows), first), I64(self.band))
            self._copy(e, reader, image, channel, first)
            taps = self._taps(e, channel)
            with e.loop(I64(0), count) as row:
                y = e.integer_add(first, row)
                outer = [image, channel, y] if len(spec.out) == 2 else [image, channel]
                whole = spec.out[-1] // self.lanes * self.lanes
                with e.loop(I64(0), I64(whole), self.lanes) as x:
                    self._pixels(e, taps, row, x, outer, None)
                if whole < spec.out[-1]:
                    mask = e.mask_for(I64(spec.out[-1] - whole), self.lanes)
                    self._pixels(e, taps, row, I64(whole), outer, mask)

    def _copy(
        self, e: FunctionEmitter, reader: ImageReader, image: ir.Value, channel: ir.Value, first: ir.Value
    ) -> None:
        """Bring the band's input rows to scratch memory."""
        spec = self.spec
        origin = e.integer_add(
            e.integer_mul(image, I64(reader.strides[0])), e.integer_mul(channel, I64(reader.strides[1]))
        )
        base = e.element_pointer(e.args[spec.x.name], spec.x_dtype, origin)
        with e.loop(I64(0), I64(self._input_rows)) as row:
            offset, row_inside = I64(0), I1(1)
            if len(spec.out) == 2:
                at = e.integer_add(reader.position(e, 0, first, I64(0)), row)
                at, row_inside = reader.place(e, 0, at)
                offset = e.integer_mul(at, I64(reader.strides[2]))
            for phase in range(spec.strides[-1]):
                line = e.integer_add(e.integer_mul(row, I64(spec.strides[-1])), I64(phase))
                line = e.integer_mul(line, I64(self._pitch))
                with e.loop(I64(0), I64(self._pitch), self.lanes) as x:
                    at = e.integer_add(e.integer_mul(x, I64(spec.strides[-1])), I64(phase - spec.padding[-1][0]))
                    value = reader.load(e, base, offset, at, reader.inside(e, at), row_inside)
                    place = e.element_pointer(e.scratch, self.dtype, e.integer_add(line, x))
                    e.store_lanes(place, self.dtype, value, self.lanes)

    def _taps(self, e: FunctionEmitter, channel: ir.Value) -> list[ir.Value]:
        """The channel's weights, each in every lane."""
        spec = self.spec
        strides = [s for s in spec.w.strides if isinstance(s, int)]
        taps = []
        for number in range(prod(spec.kernel)):
            offset = e.integer_mul(channel, I64(strides[0]))
            for axis in reversed(range(len(spec.kernel))):
                offset = e.integer_add(offset, I64(number % spec.kernel[axis] * strides[2 + axis]))
                number //= spec.kernel[axis]
            value = e.load_one(e.element_pointer(e.args[spec.w.name], spec.w_dtype, offset), spec.w_dtype)
            taps.append(e.splat(convert(e, value, spec.w_dtype, self.dtype, 1), self.lanes))
        return taps

    def _pixels(
        self,
        e: FunctionEmitter,
        taps: list[ir.Value],
        row: ir.Value,
        x: ir.Value,
        outer: list[ir.Value],
        mask: ir.Value | None,
    ) -> None:
        """One vector of output pixels."""
        spec, stride = self.spec, self.spec.strides[-1]
        acc: ir.Value = constant(vector(register_type(self.dtype), self.lanes), 0)
        top = e.integer_mul(row, I64(spec.strides[0] * stride * self._pitch)) if len(spec.out) == 2 else I64(0)
        start = e.element_pointer(e.scratch, self.dtype, e.integer_add(top, x))
        for number, tap in enumerate(taps):
            line, column = divmod(number, spec.kernel[-1])
            down = line * spec.rhs_dilation[0] if len(spec.out) == 2 else 0
            right, phase = divmod(column * spec.rhs_dilation[-1], stride)
            offset = (down * stride + phase) * self._pitch + right
            pointer = e.element_pointer(start, self.dtype, I64(offset))
            value = convert(e, e.load_lanes(pointer, self.dtype, self.lanes), self.dtype, self.dtype, self.lanes)
            if self.dtype.is_float:
                acc = e.fma(value, tap, acc)
            else:
                acc = e.builder.add(e.builder.mul(value, tap), acc)
        index = self.epilogue.index
        env: dict[Var, Value] = dict(zip(index, [*outer, x], strict=True))
        env[self.epilogue.acc] = acc
        for store in self.epilogue.stores:
            e.store(store, env, lanes=self.lanes, along=index[-1], mask=mask)


def takes(spec: ConvSpec) -> bool:
    """Whether a spec is a depthwise convolution that this kernel computes."""
    return (
        spec.channels == spec.features == spec.groups
        and len(spec.out) in (1, 2)
        and all(d == 1 for d in spec.lhs_dilation)
        and prod(spec.kernel) <= _MOST_TAPS
        and spec.strides[-1] <= 4
    )


def depthwise_kernel(target: Target, spec: ConvSpec, epilogue: Epilogue) -> DepthwiseKernel:
    """Choose lanes and bands: bands whose input stays in half of the first-level cache."""
    most = target.lanes(spec.acc_dtype.bits)
    lanes = most
    while lanes // 2 >= spec.out[-1] and lanes > 2:
        lanes //= 2
    rows = spec.out[0] if len(spec.out) == 2 else 1
    line = spec.size[-1] * spec.acc_dtype.itemsize * (spec.strides[0] if len(spec.out) == 2 else 1)
    halo = spec.kernel[0] * spec.rhs_dilation[0] if len(spec.out) == 2 else 0
    band = min(rows, max(target.l1d // 2 // line - halo, 2 * halo, 1))
    bands = -(-rows // band)
    return DepthwiseKernel(target, spec, epilogue, lanes, -(-rows // bands))
