"""Channels-last convolutions: output pixels by output features, input channels innermost.

    for each image, band of output rows, block of features                  (the grid)
        bring the band's input into place                                   (conv_band)
        for each panel of features in the block, rectangle of pixels in the band
            sums = weights of the panel times the pixels' inputs            (conv_tile)
            run the epilogue over the sums, a vector of features at a time

Weights are packed once, in setup: for each panel of features a row a kernel position and channel, or word of channels
(see `gemm_tile`). A panel stays in the second-level cache while all pixels of a band meet it, and the band stays there
for all panels. The order of sums depends on nothing but the convolution (conv_tile), so any split of the grid gives the
same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from llvmlite import ir

from rlx.backends.cpu.conv_band import Band, BandCopied, BandInPlace, Plane, walk
from rlx.backends.cpu.conv_edges import Span, fewest_words, leaves_out_padding, runs, spans
from rlx.backends.cpu.conv_epilogue import PixelBlock, PixelWriter
from rlx.backends.cpu.conv_tile import LINE, PixelTile, pixel_tile_function
from rlx.backends.cpu.gemm_pack import pack_panel, pack_words
from rlx.backends.cpu.gemm_tile import registers, words_of_products
from rlx.backends.cpu.gemm_view import MatrixView, dims, split_index
from rlx.backends.cpu.pixel_convolution import PanelConvolution
from rlx.codegen.kernel import Cost, Memory, TemplateKernel
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64
from rlx.codegen.lower.axes import Uses
from rlx.codegen.lower.templates import ConvSpec, Epilogue
from rlx.codegen.target import Target

#: Independent accumulators that keep the multiply-add units busy.
_CHAINS = 8
#: What a broadcast and a load of weights add next to a multiply-add of one vector.
_BROADCAST, _WEIGHTS = 0.1, 0.3
#: Multiply-adds' worth of time that one vector of sums takes to begin and end; and what each other one of its tile
#: adds: the more of them end at once, the less of that passes while the next tile's products run.
_VECTOR_END, _ENDS_TOGETHER = 4.0, 0.2
#: Multiply-adds' worth of time that copying one vector of input takes.
_COPY = 20.0
#: Numbers of threads that splits are balanced for.
_THREADS = (2, 4, 8)
#: What a grid index costs at its start, in tiles; and bringing all weights into the second-level cache, in pixels.
_ITEM, _REFILL = 0.1, 2.0


@dataclass(frozen=True)
class PixelPlan:
    """How a convolution is cut.

    rows, columns, vectors: the tile: pixels down, pixels along, vectors of features.
    band: output rows of a grid index. panels: panels of features of a grid index.
    """

    rows: int
    columns: int
    vectors: int
    band: int
    panels: int

    def __str__(self) -> str:
        tile = f"tile {self.rows}x{self.columns} pixels by {self.vectors} vectors"
        return f"{tile}, bands of {self.band}, blocks of {self.panels}"

    def document(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @staticmethod
    def of(document: Mapping[str, Any]) -> PixelPlan:
        """What `document` gave. Raises ValueError for anything else."""
        try:
            plan = PixelPlan(**document)
        except TypeError:
            raise ValueError("not a plan of a convolution") from None
        if not all(type(value) is int for value in document.values()):
            raise ValueError("not a plan of a convolution")
        return plan


def is_channels_last(spec: ConvSpec, epilogue: Epilogue) -> bool:
    """Whether the result lies channels last, and `PixelKernel` can compute the convolution."""
    feature = epilogue.index[1]
    stores = [s for s in epilogue.stores if s.memory.dtype.bits >= 8]
    addresses = Uses.of(epilogue.stores).addresses
    written = [sum(c for atom, c in terms if atom is feature) for memory, terms in addresses if memory.writable]
    return (
        len(spec.out) in (1, 2)
        and len(stores) == len(epilogue.stores)
        and all(step == 1 for step in written)
        and spec.features > 1
        and spec.w_constant
        and spec.acc_dtype.is_float
        and all(d == 1 for d in spec.lhs_dilation)
    )


def channels_together(target: Target, spec: ConvSpec) -> int:
    """How many neighbouring channels one multiply-add takes."""
    return words_of_products(target, spec.x_dtype, spec.acc_dtype) if spec.x_dtype is spec.w_dtype else 1


def plane_of(spec: ConvSpec, together: int = 1) -> Plane:
    """The convolution over two dimensions; where a kernel of one position skips pixels, the view does instead.

    together: channels of a word, which hold the image's elements as they are.
    """
    strides = [s for s in spec.x.strides if isinstance(s, int)]
    missing = 2 - len(spec.out)
    space = [0] * missing + strides[2:]
    size, steps = [1] * missing + list(spec.size), [1] * missing + list(spec.strides)
    kernel, out = [1] * missing + list(spec.kernel), [1] * missing + list(spec.out)
    low = [0] * missing + [pair[0] for pair in spec.padding]
    dilation = [1] * missing + list(spec.rhs_dilation)
    for axis in range(2):
        inside = low[axis] == 0 and (out[axis] - 1) * steps[axis] < size[axis]
        if kernel[axis] == 1 and inside:
            space[axis], size[axis], steps[axis] = space[axis] * steps[axis], out[axis], 1
    channels = spec.channels // spec.groups
    return Plane(
        spec.x.name,
        spec.x_dtype,
        spec.acc_dtype if together == 1 else spec.x_dtype,
        channels,
        (strides[0], space[0], space[1], strides[1] if channels > 1 else 1),
        _pair(size),
        _pair(kernel),
        _pair(out),
        _pair(steps),
        _pair(low),
        _pair(dilation),
        together,
    )


def _pair(values: list[int]) -> tuple[int, int]:
    first, second = values
    return first, second


@dataclass(frozen=True, eq=False)
class PixelKernel(PanelConvolution):
    """The kernel for a spec of one group that `is_channels_last` accepts; its second argument is the packed weights."""

    plan: PixelPlan
    band: Band

    @property
    def depth(self) -> int:
        """Words, and rows of weights, of one sum."""
        return self.plane.words * prod(self.plane.taps)

    @property
    def _items(self) -> tuple[int, int, int]:
        bands, blocks = -(-self.plane.out[0] // self.plan.band), -(-self.panels // self.plan.panels)
        return self.spec.batch, bands, blocks

    @property
    def grid(self) -> int:
        return prod(self._items)

    @property
    def _sums_bytes(self) -> int:
        return -(-self.plan.rows * self.plan.columns * self.width * self.dtype.itemsize // 64) * 64

    @property
    def scratch_bytes(self) -> int:
        return self._sums_bytes + self.band.scratch_bytes

    @property
    def packed_bytes(self) -> int:
        return self.panels * self.depth * self.width * self.dtype.itemsize

    # -- weights -------------------------------------------------------------------------------------------------

    def pack(self) -> TemplateKernel:
        """The setup kernel: one grid index a panel."""
        spec = self.spec
        packed = Memory("packed", self.dtype, (1,), writable=True)
        return TemplateKernel(
            label="pack_pixels",
            args=(spec.w, packed),
            grid=self.panels,
            identity=f"pack_pixels {self.target.name} {spec.w_dtype}->{self.dtype} {spec.features}"
            f"x{self.plane.channels}x{spec.kernel} {spec.w.strides} {self.width} {self.plane.together}",
            emit=self._emit_pack,
            cost=Cost(bytes=2.0 * self.packed_bytes),
        )

    def _emit_pack(self, e: FunctionEmitter) -> None:
        spec, channels = self.spec, self.plane.channels
        strides = [s for s in spec.w.strides if isinstance(s, int)]
        kernel, steps = spec.kernel, strides[2:]
        rows, columns = dims((channels,), strides[1:2]), dims((spec.features,), strides[:1])
        if self.plane.joins_pixels:
            rows, kernel = dims((kernel[-1], channels), (steps[-1], strides[1])), kernel[:-1]
        with e.loop(e.begin, e.end) as index:
            into = e.element_pointer(e.args["packed"], self.dtype, e.integer_mul(index, I64(self.depth * self.width)))
            first = e.integer_mul(index, I64(self.width))
            with e.loop(I64(0), I64(prod(kernel))) as tap:
                view = MatrixView(spec.w.name, spec.w_dtype, dims((), ()), rows, columns)
                offset: ir.Value = I64(0)
                for place, stride in zip(split_index(e, tap, kernel), steps, strict=False):
                    offset = e.integer_add(offset, e.integer_mul(place, I64(stride)))
                outer = e.args[spec.w.name]
                e.args[spec.w.name] = e.element_pointer(outer, spec.w_dtype, offset)
                to = e.element_pointer(into, self.dtype, e.integer_mul(tap, I64(self.plane.words * self.width)))
                if self.plane.together > 1:
                    pack_words(e, view, self.plane.together, self.width, I64(0), first, to)
                else:
                    pack_panel(e, view, self.dtype, self.width, I64(0), first, to)
                e.args[spec.w.name] = outer

    # -- the convolution -----------------------------------------------------------------------------------------

    def emit(self, e: FunctionEmitter, packed: str) -> None:
        """The kernel's body; `packed` names the weights."""
        b, plan = e.builder, self.plan
        writer = PixelWriter(self.epilogue, self.spec.out, self.dtype, self.lanes, self.width, self.spec.features)
        band_at = e.element_pointer(e.scratch, self.dtype, I64(self._sums_bytes // self.dtype.itemsize))
        with e.loop(e.begin, e.end) as index:
            image, band, block = split_index(e, index, self._items)
            first = e.integer_mul(band, I64(plan.band))
            count = e.intrinsic("smin", b.sub(I64(self.plane.out[0]), first), I64(plan.band))
            fresh = b.or_(b.icmp_signed("==", index, e.begin), b.icmp_signed("==", block, I64(0)))
            at = self.band.begin(e, band_at, image, first, fresh)
            start = e.integer_mul(block, I64(plan.panels))
            stop = e.intrinsic("smin", e.integer_add(start, I64(plan.panels)), I64(self.panels))
            with e.loop(start, stop) as panel:
                offset = e.integer_mul(panel, I64(self.depth * self.width))
                weights = e.element_pointer(e.args[packed], self.dtype, offset)
                feature = e.integer_mul(panel, I64(self.width))
                for y, x, down, along in self._rectangles(e, first, count):
                    pixel = e.integer_add(e.integer_mul(e.integer_add(first, y), I64(self.plane.out[1])), x)
                    sums = PixelBlock(image, pixel, I64(down.size * along.size), feature)
                    writer.prefetch(e, sums)
                    self._rectangle(e, at, weights, y, x, down, along)
                    writer.write(e, sums, e.scratch)

    def _rectangles(
        self, e: FunctionEmitter, first: ir.Value, count: ir.Value
    ) -> Iterator[tuple[ir.Value, ir.Value, Span, Span]]:
        """Emits the loops over the rectangles in `count` rows from `first` on: (y, x, rows, columns) inside each loop.

        y counts from `first`.
        """
        b = e.builder
        for down in spans(self.plane, 0, self.plan.rows):
            start = e.intrinsic("smax", b.sub(I64(down.start), first), I64(0))
            stop = e.intrinsic("smin", b.sub(I64(down.stop), first), count)
            with e.loop(start, stop, down.size) as y:
                for along in spans(self.plane, 1, self.plan.columns):
                    with e.loop(I64(along.start), I64(along.stop), along.size) as x:
                        yield y, x, down, along

    def _rectangle(
        self,
        e: FunctionEmitter,
        at: ir.Value,
        weights: ir.Value,
        y: ir.Value,
        x: ir.Value,
        down: Span,
        along: Span,
    ) -> None:
        offset = e.integer_add(e.integer_mul(y, I64(self.band.row)), e.integer_mul(x, I64(self.band.pixel)))
        begin = e.element_pointer(at, self.dtype, offset)
        plane, steps = self.plane, self.band.steps
        tile = PixelTile(
            self.dtype,
            down.size,
            self.band.row if down.size > 1 else 0,
            along.size,
            self.band.pixel if along.size > 1 else 0,
            self.plan.vectors,
            walk(plane, steps),
            ahead=self.packed_bytes > self.target.l2 // 2,
            factors=plane.dtype if plane.together > 1 else None,
            half=plane.joins_pixels and plane.run % plane.together > 0,
            runs=runs(plane, steps, down, along),
        )
        later = self._later(e, weights, y, x) if tile.ahead else weights
        e.builder.call(pixel_tile_function(e.module, self.target, tile), [begin, weights, e.scratch, later])

    def _later(self, e: FunctionEmitter, weights: ir.Value, y: ir.Value, x: ir.Value) -> ir.Value:
        """The part of the next panel that the tile at (y, x) asks for: the panel's first tiles share it out."""
        b, plan, size = e.builder, self.plan, self.dtype.itemsize
        panel, part = self.depth * self.width, fewest_words(self.plane, plan.rows, plan.columns) * LINE // size
        before = e.integer_add(e.integer_mul(y, I64(self.plane.out[1])), x)
        number = b.udiv(before, I64(plan.rows * plan.columns))
        number = e.intrinsic("umin", number, I64(max(panel // part - 1, 0)))
        return e.element_pointer(weights, self.dtype, e.integer_add(I64(panel), e.integer_mul(number, I64(part))))


def pixel_kernel(target: Target, spec: ConvSpec, epilogue: Epilogue, plan: PixelPlan | None = None) -> PixelKernel:
    """The kernel under a plan, or under the best by a model of cycles; and how its bands find their input."""
    plane = plane_of(spec, channels_together(target, spec))
    if plan is None:
        plan = plan_tile(target, spec, plane, choose_tile(target, spec, plane))
    lanes = target.lanes(plane.dtype.bits)
    in_place = reads_in_place(plane, plan.rows, plan.columns)
    found: Band = BandInPlace(plane) if in_place else BandCopied(plane, plan.band, lanes)
    return PixelKernel(target, spec, epilogue, plane, plan, found)


def reads_in_place(plane: Plane, rows: int, columns: int) -> bool:
    """Whether tiles of a size find their input where it lies."""
    allowed = plane.holds_words and (plane.is_inside or leaves_out_padding(plane))
    return allowed and plane.stays_in_cache(rows, columns)


def choose_tile(target: Target, spec: ConvSpec, plane: Plane) -> tuple[int, int, int]:
    """Rows, columns and vectors of the cheapest tile."""
    best: tuple[float, tuple[int, int, int]] | None = None
    for cost, tile in tile_costs(target, spec, plane):
        if best is None or cost < best[0] * 0.999:
            best = (cost, tile)
    assert best is not None
    return best[1]


def plan_tile(target: Target, spec: ConvSpec, plane: Plane, tile: tuple[int, int, int]) -> PixelPlan:
    """The plan for a tile: bands that stay in the second-level cache, and even shares for threads.

    Weights that do not stay there are read again for each band, so bands are longer then, where they are not copied.
    """
    rows, columns, vectors = tile
    panels = -(-spec.features // (vectors * target.lanes(spec.acc_dtype.bits)))
    line = plane.reach(1, plane.out[1]) * plane.channels * plane.steps[0] * plane.dtype.itemsize
    weights = panels * vectors * target.vector_bits // 8 * plane.words * prod(plane.taps)
    longer = weights > target.l2 // 2 and reads_in_place(plane, rows, columns)
    most = max(rows, target.l2 // (2 if longer else 4) // line // rows * rows)
    band, block = _choose_items(spec, plane, most, rows, panels)
    return PixelPlan(rows, columns, vectors, band, block)


def most_pixels(target: Target, vectors: int) -> int:
    """Pixels of a tile whose sums, of so many vectors of features, stay in registers."""
    return (registers(target) - 1 - vectors - (not target.has_fma)) // vectors


def tile_costs(target: Target, spec: ConvSpec, plane: Plane) -> Iterator[tuple[float, tuple[int, int, int]]]:
    """Every tile worth a thought, with its cost."""
    height, width = plane.out
    features, lanes = spec.features, target.lanes(spec.acc_dtype.bits)
    depth = plane.words * prod(plane.taps)
    copy = _COPY * prod(plane.size) * plane.words / lanes

    def tile(pixels: int, vectors: int) -> float:
        step = max(pixels * vectors, _CHAINS) + _BROADCAST * pixels + _WEIGHTS * vectors
        sums = pixels * vectors
        return depth * step + (_VECTOR_END + _ENDS_TOGETHER * sums) * sums

    for vectors in range(1, 9):
        if vectors > 1 and (vectors - 1) * lanes >= features:
            break
        panels = -(-features // (vectors * lanes))
        limit = most_pixels(target, vectors)
        shapes = [(1, columns) for columns in range(1, min(width, limit) + 1)]
        shapes += [(rows, width) for rows in range(2, min(height, limit // width) + 1)]
        for rows, columns in shapes:
            cost = (width // columns) * tile(rows * columns, vectors)
            cost += tile(width % columns, vectors) if width % columns else 0.0
            cost *= height // rows
            cost += tile(height % rows * columns, vectors) if height % rows else 0.0
            copied = 0.0 if reads_in_place(plane, rows, columns) else copy
            yield cost * panels + copied, (rows, columns, vectors)


def _choose_items(spec: ConvSpec, plane: Plane, most: int, rows: int, panels: int) -> tuple[int, int]:
    """Rows of a band (`most` at most, a multiple of `rows`) and panels of a block: even shares for threads."""
    height, width = plane.out
    lines = -(-height // rows)
    best: tuple[float, int, int] | None = None
    for band in sorted({-(-lines // n) for n in range(1, lines + 1)}, reverse=True):
        if band * rows > most and band > 1:
            continue
        for block in sorted({-(-panels // n) for n in range(1, min(panels, 16) + 1)}, reverse=True):
            items = spec.batch * -(-lines // band) * -(-panels // block)
            work = band * block + _ITEM
            taken = sum(-(-items // threads) * threads * work for threads in _THREADS) / len(_THREADS)
            cost = taken / (spec.batch * lines * panels) + _REFILL / (band * rows * width)
            if best is None or cost < best[0]:
                best = (cost, band * rows, block)
    assert best is not None
    return min(best[1], height), best[2]
