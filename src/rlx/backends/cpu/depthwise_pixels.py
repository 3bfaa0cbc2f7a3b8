"""Depthwise convolutions of images that lie channels last: a vector of channels at a time.

A grid index is one output row of a block of channels. For each vector of channels the weights of all kernel positions
stay at hand while the row's pixels go by, a few at a time, so that what neighbouring pixels share is loaded once.
Pixels whose kernel reaches over the image's edge take a path whose loads are masked: they read zeros there.

Order of sums: kernel positions in row-major order, the same for every pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from llvmlite import ir

from rlx.backends.cpu.gemm_view import convert, split_index
from rlx.backends.cpu.pixel_convolution import PixelConvolution
from rlx.codegen.kernel import Cost, Memory, TemplateKernel, Var
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I1, I64, Value, constant, register_type, vector

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
    def _pitch(self) -> int:
        """Weights of one kernel position: whole vectors."""
        return self._vectors * self.lanes

    @property
    def packed_bytes(self) -> int:
        return prod(self.plane.kernel) * self._pitch * self.dtype.itemsize

    def pack(self) -> TemplateKernel:
        """The setup kernel: the weights of each kernel position, one a grid index, channels as neighbours."""
        spec = self.spec
        strides = [s for s in spec.w.strides if isinstance(s, int)]

        def emit(e: FunctionEmitter) -> None:
            with e.loop(e.begin, e.end) as tap, e.loop(I64(0), I64(self._pitch)) as channel:
                offset = e.integer_mul(channel, I64(strides[0]))
                for place, stride in zip(split_index(e, tap, spec.kernel), strides[2:], strict=True):
                    offset = e.integer_add(offset, e.integer_mul(place, I64(stride)))
                inside = e.builder.icmp_signed("<", channel, I64(spec.features))
                value = e.load_one(e.element_pointer(e.args[spec.w.name], spec.w_dtype, offset), spec.w_dtype, inside)
                to = e.integer_add(e.integer_mul(tap, I64(self._pitch)), channel)
                value = convert(e, value, spec.w_dtype, self.dtype, 1)
                e.store_one(e.element_pointer(e.args["packed"], self.dtype, to), self.dtype, value)

        return TemplateKernel(
            label="pack_depthwise",
            args=(spec.w, Memory("packed", self.dtype, (1,), writable=True)),
            grid=prod(self.plane.kernel),
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
            stop = e.intrinsic("smin", e.integer_add(start, I64(per_block * self.lanes)), I64(self._pitch))
            top = e.integer_add(e.integer_mul(y, I64(plane.steps[0])), I64(-plane.low[0]))
            rows = [e.integer_add(top, I64(t * plane.dilation[0])) for t in range(plane.kernel[0])]
            insides = [b.icmp_unsigned("<", row, I64(plane.size[0])) for row in rows]
            whole: ir.Value = I1(1)
            for inside in insides:
                whole = b.and_(whole, inside)
            first, last = self._inner
            low, high = b.select(whole, I64(first), I64(plane.out[1])), b.select(whole, I64(last), I64(plane.out[1]))
            origin = e.integer_mul(image, I64(plane.strides[0]))
            with e.loop(start, stop, self.lanes) as channel:
                rest = self.spec.features % self.lanes
                mask = e.mask_for(b.sub(I64(self.spec.features), channel), self.lanes) if rest else None
                pixels = _Pixels(self, e, packed, image, origin, y, rows, insides, channel, mask)
                together = b.and_(b.sub(high, low), I64(-_PIXELS))
                behind = b.add(low, together)
                with e.loop(low, behind, _PIXELS) as x:
                    pixels.compute(x, _PIXELS, masked=False)
                with e.loop(behind, high) as x:
                    pixels.compute(x, 1, masked=False)
                with e.loop(I64(0), I64(2)) as side:
                    is_left = b.icmp_signed("==", side, I64(0))
                    begin = b.select(is_left, I64(0), high)
                    with e.loop(begin, b.select(is_left, low, I64(plane.out[1]))) as x:
                        pixels.compute(x, 1, masked=True)

    @property
    def _inner(self) -> tuple[int, int]:
        """The output pixels of a row whose kernel stays inside the image: first, and behind the last."""
        plane = self.plane
        step, low = plane.steps[1], plane.low[1]
        reach = (plane.kernel[1] - 1) * plane.dilation[1]
        first = min(max(0, -(-low // step)), plane.out[1])
        last = min(max(first, (plane.size[1] - 1 - reach + low) // step + 1), plane.out[1])
        return first, last


@dataclass(frozen=True, eq=False)
class _Pixels:
    """One vector of channels of one output row."""

    kernel: DepthwisePixels
    e: FunctionEmitter
    packed: str
    image: ir.Value
    origin: ir.Value
    y: ir.Value
    rows: list[ir.Value]
    insides: list[ir.Value]
    channel: ir.Value
    mask: ir.Value | None

    def compute(self, x: ir.Value, count: int, *, masked: bool) -> None:
        """`count` pixels from x on; masked: any kernel position may fall outside."""
        e, kernel, plane = self.e, self.kernel, self.kernel.plane
        dtype, lanes = kernel.dtype, kernel.lanes
        sums: list[ir.Value] = [constant(vector(register_type(dtype), lanes), 0)] * count
        left = e.integer_add(e.integer_mul(x, I64(plane.steps[1])), I64(-plane.low[1]))
        for row in range(plane.kernel[0]):
            seen: dict[int, ir.Value] = {}
            for tap in range(plane.kernel[1]):
                offset = e.integer_add(I64((row * plane.kernel[1] + tap) * kernel._pitch), self.channel)
                weight = e.load_lanes(e.element_pointer(e.args[self.packed], dtype, offset), dtype, lanes)
                for pixel in range(count):
                    place = pixel * plane.steps[1] + tap * plane.dilation[1]
                    if place not in seen:
                        seen[place] = self._load(row, e.integer_add(left, I64(place)), masked=masked)
                    sums[pixel] = e.fma(seen[place], weight, sums[pixel])
        index = kernel.epilogue.index
        for pixel, total in enumerate(sums):
            at = [self.y, e.integer_add(x, I64(pixel))][-len(kernel.spec.out) :]
            env: dict[Var, Value] = dict(zip(index, [self.image, self.channel, *at], strict=True))
            env[kernel.epilogue.acc] = total
            for store in kernel.epilogue.stores:
                e.store(store, env, lanes=lanes, along=index[1], mask=self.mask)

    def _load(self, row: int, column: ir.Value, *, masked: bool) -> ir.Value:
        e, plane, lanes = self.e, self.kernel.plane, self.kernel.lanes
        _, down, right, _ = plane.strides
        mask, line = self.mask, self.rows[row]
        if masked:
            inside = e.builder.and_(self.insides[row], e.builder.icmp_unsigned("<", column, I64(plane.size[1])))
            # Lanes that are masked off cost a fault's time where no memory is: read within the image all the same.
            line, column = (e.builder.select(inside, at, I64(0)) for at in (line, column))
            inside = e.splat(inside, lanes)
            mask = inside if mask is None else e.builder.and_(mask, inside)
        offset = e.integer_add(self.origin, e.integer_add(self.channel, e.integer_mul(line, I64(down))))
        offset = e.integer_add(offset, e.integer_mul(column, I64(right)))
        value = e.load_lanes(e.element_pointer(e.args[plane.name], plane.source, offset), plane.source, lanes, mask)
        return convert(e, value, plane.source, plane.dtype, lanes)
