"""Depthwise convolutions of images that lie channels last: a vector of channels at a time.

A grid index is one output row of a block of channels. For each vector of channels the weights of all kernel positions
stay at hand while the row's pixels go by, a few at a time, so that what neighbouring pixels share is loaded once.
Where a kernel reaches over the image's edge, what falls beside is left out: rows by the bounds of a loop, columns by
code of its own for each kind of pixel.

Order of sums: kernel positions in row-major order, the same for every pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from llvmlite import ir

from rlx.backends.cpu.conv_band import Plane
from rlx.backends.cpu.gemm_view import convert, split_index
from rlx.backends.cpu.pixel_convolution import PixelConvolution
from rlx.codegen.kernel import Cost, Memory, TemplateKernel, Var
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64, Value, constant, real, register_type, vector

#: Neighbouring pixels that are computed together.
_PIXELS = 4
#: Grid indices that a convolution should have at least, so that threads share them evenly.
_ITEMS = 16


@dataclass(frozen=True, eq=False)
class DepthwisePixels(PixelConvolution):
    """The kernel for a depthwise spec whose image and result lie channels last, over `plane`."""

    @property
    def _vectors(self) -> int:
        return -(-self.spec.features // self.lanes)

    @property
    def _items(self) -> tuple[int, int, int]:
        rows = self.spec.batch * self.plane.out[0]
        return self.spec.batch, self.plane.out[0], min(self._vectors, -(-_ITEMS // rows))

    @property
    def grid(self) -> int:
        return prod(self._items)

    @property
    def _channels(self) -> int:
        """Those of whole vectors."""
        return self._vectors * self.lanes

    @property
    def _taps(self) -> int:
        """Kernel positions."""
        return prod(self.plane.kernel)

    @property
    def packed_bytes(self) -> int:
        return self._taps * self._channels * self.dtype.itemsize

    def pack(self) -> TemplateKernel:
        """The setup kernel: for each vector of channels the weights of all positions, one position a grid index."""
        spec = self.spec
        strides = [s for s in spec.w.strides if isinstance(s, int)]

        def emit(e: FunctionEmitter) -> None:
            with e.loop(e.begin, e.end) as tap, e.loop(I64(0), I64(self._channels)) as channel:
                offset = e.integer_mul(channel, I64(strides[0]))
                for place, stride in zip(split_index(e, tap, spec.kernel), strides[2:], strict=True):
                    offset = e.integer_add(offset, e.integer_mul(place, I64(stride)))
                inside = e.builder.icmp_signed("<", channel, I64(spec.features))
                value = e.load_one(e.element_pointer(e.args[spec.w.name], spec.w_dtype, offset), spec.w_dtype, inside)
                lane = e.builder.and_(channel, I64(self.lanes - 1))
                to = e.integer_add(e.integer_mul(e.builder.sub(channel, lane), I64(self._taps)), lane)
                to = e.integer_add(to, e.integer_mul(tap, I64(self.lanes)))
                value = convert(e, value, spec.w_dtype, self.dtype, 1)
                e.store_one(e.element_pointer(e.args["packed"], self.dtype, to), self.dtype, value)

        return TemplateKernel(
            label="pack_depthwise",
            args=(spec.w, Memory("packed", self.dtype, (1,), writable=True)),
            grid=self._taps,
            identity=f"pack_depthwise {self.target.name} {spec.w_dtype}->{self.dtype} {spec.features}x{spec.kernel} "
            f"{spec.w.strides}",
            emit=emit,
            cost=Cost(bytes=2.0 * self.packed_bytes),
        )

    def emit(self, e: FunctionEmitter, packed: str) -> None:
        """The kernel's body; `packed` names the weights."""
        b, plane = e.builder, self.plane
        _, _, blocks = self._items
        per_block = -(-self._vectors // blocks)
        with e.loop(e.begin, e.end) as index:
            image, y, block = split_index(e, index, self._items)
            start = e.integer_mul(block, I64(per_block * self.lanes))
            stop = e.intrinsic("smin", e.integer_add(start, I64(per_block * self.lanes)), I64(self._channels))
            origin = e.integer_mul(image, I64(plane.strides[0]))
            rows = _Rows(e, plane, y)
            with e.loop(start, stop, self.lanes) as channel:
                rest = self.spec.features % self.lanes
                mask = e.mask_for(b.sub(I64(self.spec.features), channel), self.lanes) if rest else None
                pixels = _Pixels(self, e, packed, image, origin, rows, channel, mask)
                for run in column_runs(plane):
                    together = (run.stop - run.start) // _PIXELS * _PIXELS
                    behind = run.start + together
                    if together:
                        with e.loop(I64(run.start), I64(behind), _PIXELS) as x:
                            pixels.compute(x, _PIXELS, run.taps)
                    if behind < run.stop:
                        pixels.compute(I64(behind), run.stop - behind, run.taps)


@dataclass(frozen=True)
class ColumnRun:
    """Output columns from `start` to `stop` whose kernels meet the image at the same columns: taps (from, to)."""

    start: int
    stop: int
    taps: tuple[int, int]


def column_runs(plane: Plane) -> list[ColumnRun]:
    """The runs of an output row, in order."""
    size, step, low, apart = plane.size[1], plane.steps[1], plane.low[1], plane.dilation[1]
    taps, out = range(plane.kernel[1]), plane.out[1]
    meets = {-((tap * apart - low) // step) for tap in taps}  # the first output that sees the image there
    leaves = {-((tap * apart - low - size) // step) for tap in taps}  # the first that no longer does
    cuts = sorted({0, out, *(cut for cut in meets | leaves if 0 < cut < out)})
    runs = []
    for start, stop in itertools.pairwise(cuts):
        seen = [tap for tap in taps if 0 <= start * step - low + tap * apart < size]
        runs.append(ColumnRun(start, stop, (seen[0], seen[-1] + 1) if seen else (0, 0)))
    return runs


@dataclass(frozen=True, eq=False)
class _Rows:
    """The kernel's rows that meet the image where output row `y` is computed."""

    e: FunctionEmitter
    plane: Plane
    y: ir.Value

    @contextmanager
    def each(self) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Yields a row of the kernel and the image's row that it lies on (i64); what is emitted inside is the body."""
        e, b, plane = self.e, self.e.builder, self.plane
        taps, step, apart = plane.kernel[0], plane.steps[0], plane.dilation[0]
        top = e.integer_add(e.integer_mul(self.y, I64(step)), I64(-plane.low[0]))
        if taps == 1 and plane.low[0] == 0 and (plane.out[0] - 1) * step < plane.size[0]:
            # No loop: LLVM would drop it, and then order the sums pixel by pixel, each a chain that waits for itself.
            yield I64(0), top
            return

        def above(row: ir.Value) -> ir.Value:
            """How many of the kernel's rows, were there no end of them, lie above an image's row."""
            distance = e.intrinsic("smax", b.sub(e.integer_add(row, I64(apart - 1)), top), I64(0))
            return b.udiv(distance, I64(apart))

        last = e.intrinsic("smin", above(I64(plane.size[0])), I64(taps))
        with e.loop(above(I64(0)), last) as row:
            yield row, e.integer_add(top, e.integer_mul(row, I64(apart)))


@dataclass(frozen=True, eq=False)
class _Pixels:
    """One vector of channels of one output row."""

    kernel: DepthwisePixels
    e: FunctionEmitter
    packed: str
    image: ir.Value
    origin: ir.Value
    rows: _Rows
    channel: ir.Value
    mask: ir.Value | None

    def compute(self, x: ir.Value, count: int, taps: tuple[int, int]) -> None:
        """`count` pixels from x on, whose kernels meet the image at columns taps (from, to)."""
        e, kernel, plane = self.e, self.kernel, self.kernel.plane
        dtype, lanes = kernel.dtype, kernel.lanes
        sums = [e.cell(constant(vector(register_type(dtype), lanes), 0)) for _ in range(count)]
        left = e.integer_add(e.integer_mul(x, I64(plane.steps[1])), I64(-plane.low[1]))
        with self.rows.each() as (row, line):
            weights = e.integer_mul(row, I64(plane.kernel[1] * lanes))
            weights = e.integer_add(weights, e.integer_mul(self.channel, I64(kernel._taps)))
            seen: dict[int, ir.Value] = {}
            for tap in range(*taps):
                offset = e.integer_add(weights, I64(tap * lanes))
                weight = e.load_lanes(e.element_pointer(e.args[self.packed], dtype, offset), dtype, lanes)
                for pixel, total in enumerate(sums):
                    place = pixel * plane.steps[1] + tap * plane.dilation[1]
                    if place not in seen:
                        seen[place] = self._load(line, e.integer_add(left, I64(place)))
                    e.write_cell(total, e.fma(seen[place], weight, real(e.read_cell(total))))
        index = kernel.epilogue.index
        for pixel, total in enumerate(sums):
            at = [self.rows.y, e.integer_add(x, I64(pixel))][-len(kernel.spec.out) :]
            env: dict[Var, Value] = dict(zip(index, [self.image, self.channel, *at], strict=True))
            env[kernel.epilogue.acc] = e.read_cell(total)
            for store in kernel.epilogue.stores:
                e.store(store, env, lanes=lanes, along=index[1], mask=self.mask)

    def _load(self, line: ir.Value, column: ir.Value) -> ir.Value:
        e, plane, lanes = self.e, self.kernel.plane, self.kernel.lanes
        _, down, right, _ = plane.strides
        offset = e.integer_add(self.origin, e.integer_add(self.channel, e.integer_mul(line, I64(down))))
        offset = e.integer_add(offset, e.integer_mul(column, I64(right)))
        value = e.load_lanes(
            e.element_pointer(e.args[plane.name], plane.source, offset), plane.source, lanes, self.mask
        )
        return convert(e, value, plane.source, plane.dtype, lanes)
