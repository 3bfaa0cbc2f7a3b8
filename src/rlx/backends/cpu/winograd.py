"""Convolutions of 3 x 3 by Winograd's minimal filtering, channels last: tiles of pixels through products of matrices.

    for each block of tiles, block of features                       (the grid)
        transform the tiles' inputs: (m + 2)^2 matrices, tiles by channels
        for each panel of features in the block
            for each position: sums = inputs times transformed weights   (gemm_tile)
            for each tile: transform the sums into m x m pixels and run the epilogue over them

Weights are transformed once, in setup, in f64, and rounded once. Transformed inputs stay in the second-level cache
while all panels of a block meet them. Tiles beyond the last are computed from whatever lies there, and thrown away. The
order of sums depends on nothing but the convolution and the filtering, so any split of the grid gives the same bits.

Outside the image pixels are zeros, as they are for the direct sum; but within a tile outputs see inputs that are none
of theirs, with weights that cancel: an infinity or a NaN in the image, or sums that overflow in between, may turn every
output of a tile that holds them into NaN or infinity. See docs/backends.md for errors.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from rlx.backends.cpu.conv_epilogue import PixelBlock, PixelWriter
from rlx.backends.cpu.gemm_operand import when
from rlx.backends.cpu.gemm_tile import TileCode, tile_function
from rlx.backends.cpu.gemm_view import split_index
from rlx.backends.cpu.pixel_convolution import PanelConvolution
from rlx.backends.cpu.winograd_plan import WinogradPlan
from rlx.backends.cpu.winograd_tile import input_function, output_function
from rlx.backends.cpu.winograd_transform import FILTERINGS, Filtering, both_ways
from rlx.codegen.kernel import Cost, Memory, TemplateKernel
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import F64, I8, I64, constant, lane_constants, real, register_type, vector
from rlx.ir.dtypes import DType

_LINE = 64


@dataclass(frozen=True, eq=False)
class WinogradKernel(PanelConvolution):
    """The kernel for a spec that `plan_winograd` accepts; its second argument is the packed weights."""

    plan: WinogradPlan

    @property
    def filtering(self) -> Filtering:
        return FILTERINGS[self.plan.outputs]

    @property
    def _across(self) -> tuple[int, int, int]:
        """Tiles: images, down, along."""
        down, along = (-(-n // self.plan.outputs) for n in self.plane.out)
        return self.spec.batch, down, along

    @property
    def _tiles(self) -> int:
        images, down, along = self._across
        return images * down * along

    @property
    def _items(self) -> tuple[int, int]:
        return -(-self._tiles // self.plan.tiles), -(-self.panels // self.plan.panels)

    @property
    def grid(self) -> int:
        blocks, parts = self._items
        return blocks * parts

    # -- scratch memory: a vector of zeros, a tile's pixels, sums by position, inputs by position ------------------

    @property
    def _input_row(self) -> int:
        """Elements from tile to tile of the transformed inputs of one position."""
        return _spread(self.plane.channels, self.dtype)

    @property
    def _input_position(self) -> int:
        return self.plan.tiles * self._input_row

    @property
    def _sums_position(self) -> int:
        return _spread(self.plan.tiles * self.width, self.dtype)

    @property
    def _pixels_at(self) -> int:
        return max(self.lanes, _LINE // self.dtype.itemsize)

    @property
    def _sums_at(self) -> int:
        return self._pixels_at + _spread(self.plan.outputs**2 * self.width, self.dtype)

    @property
    def _inputs_at(self) -> int:
        return self._sums_at + self.filtering.positions * self._sums_position

    @property
    def scratch_bytes(self) -> int:
        return (self._inputs_at + self.filtering.positions * self._input_position) * self.dtype.itemsize

    # -- weights ---------------------------------------------------------------------------------------------------

    @property
    def _slab(self) -> int:
        """Elements of the weights of one panel and position."""
        return self.plane.channels * self.width

    @property
    def packed_bytes(self) -> int:
        return self.panels * self.filtering.positions * self._slab * self.dtype.itemsize

    def pack(self) -> TemplateKernel:
        """The setup kernel: one grid index a panel and channel."""
        spec = self.spec
        return TemplateKernel(
            label="pack_winograd",
            args=(spec.w, Memory("packed", self.dtype, (1,), writable=True)),
            grid=self.panels * self.plane.channels,
            identity=f"pack_winograd {self.target.name} {self.dtype} {spec.features}x{self.plane.channels} "
            f"{spec.w.strides} {self.width} {self.plan.outputs}",
            emit=self._emit_pack,
            cost=Cost(bytes=2.0 * self.packed_bytes),
        )

    def _emit_pack(self, e: FunctionEmitter) -> None:
        spec, dtype, lanes = self.spec, self.dtype, self.lanes
        strides = [s for s in spec.w.strides if isinstance(s, int)]
        with e.loop(e.begin, e.end) as index:
            panel, channel = split_index(e, index, (self.panels, self.plane.channels))
            source = e.element_pointer(e.args[spec.w.name], dtype, e.integer_mul(channel, I64(strides[1])))
            start = e.integer_mul(panel, I64(self.filtering.positions * self._slab))
            start = e.integer_add(start, e.integer_mul(channel, I64(self.width)))
            with e.loop(I64(0), I64(self.width), lanes) as at:
                feature = e.integer_add(e.integer_mul(panel, I64(self.width)), at)
                each = e.builder.add(e.splat(feature, lanes), lane_constants(I64, range(lanes)))
                each = e.intrinsic("smin", each, constant(each.type, spec.features - 1))
                offsets = e.builder.mul(each, constant(each.type, strides[0]))
                wide = []
                for tap in range(9):
                    moved = e.element_pointer(source, dtype, I64(tap // 3 * strides[2] + tap % 3 * strides[3]))
                    weights = real(e.gather(e.lane_pointers(moved, dtype, offsets), dtype, None, None))
                    wide.append(e.builder.fpext(weights, vector(F64, lanes)))
                square = both_ways(e, self.filtering.kernel, [wide[0:3], wide[3:6], wide[6:9]])
                for position, value in enumerate(v for row in square for v in row):
                    to = e.integer_add(e.integer_add(start, at), I64(position * self._slab))
                    rounded = e.builder.fptrunc(value, vector(register_type(dtype), lanes))
                    e.store_lanes(e.element_pointer(e.args["packed"], dtype, to), dtype, rounded, lanes)

    # -- the convolution -------------------------------------------------------------------------------------------

    def emit(self, e: FunctionEmitter, packed: str) -> None:
        """The kernel's body; `packed` names the weights."""
        b, plan, dtype = e.builder, self.plan, self.dtype
        writer = PixelWriter(self.epilogue, self.spec.out, dtype, self.lanes, self.width, self.spec.features)
        e.store_lanes(e.scratch, dtype, constant(vector(register_type(dtype), self.lanes), 0), self.lanes)
        sums, inputs = (e.element_pointer(e.scratch, dtype, I64(at)) for at in (self._sums_at, self._inputs_at))
        with e.loop(e.begin, e.end) as index:
            block, part = split_index(e, index, self._items)
            first = e.integer_mul(block, I64(plan.tiles))
            count = e.intrinsic("smin", b.sub(I64(self._tiles), first), I64(plan.tiles))
            fresh = b.or_(b.icmp_signed("==", index, e.begin), b.icmp_signed("==", part, I64(0)))
            with when(e, fresh), e.loop(I64(0), count) as tile:
                into = e.element_pointer(inputs, dtype, e.integer_mul(tile, I64(self._input_row)))
                self._transform_input(e, e.integer_add(first, tile), into)
            start = e.integer_mul(part, I64(plan.panels))
            stop = e.intrinsic("smin", e.integer_add(start, I64(plan.panels)), I64(self.panels))
            with e.loop(start, stop) as panel:
                offset = e.integer_mul(panel, I64(self.filtering.positions * self._slab))
                self._multiply(e, inputs, e.element_pointer(e.args[packed], dtype, offset), sums)
                feature = e.integer_mul(panel, I64(self.width))
                with e.loop(I64(0), count) as tile:
                    source = e.element_pointer(sums, dtype, e.integer_mul(tile, I64(self.width)))
                    self._finish(e, writer, e.integer_add(first, tile), source, feature)

    def _place(self, e: FunctionEmitter, tile: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Image and first output pixel (y, x) of a tile."""
        image, down, along = split_index(e, tile, self._across)
        y, x = (e.integer_mul(at, I64(self.plan.outputs)) for at in (down, along))
        return image, y, x

    def _transform_input(self, e: FunctionEmitter, tile: ir.Value, into: ir.Value) -> None:
        b, plane, size = e.builder, self.plane, self.filtering.size
        strides = plane.strides
        image, *first = self._place(e, tile)
        first = [e.integer_add(at, I64(-low)) for at, low in zip(first, plane.low, strict=True)]
        offset, fits = e.integer_mul(image, I64(strides[0])), I64(0)
        for axis, at in enumerate(first):
            offset = e.integer_add(offset, e.integer_mul(at, I64(strides[1 + axis])))
            for i in range(size):
                inside = b.icmp_unsigned("<", e.integer_add(at, I64(i)), I64(plane.size[axis]))
                fits = b.or_(fits, b.shl(b.zext(inside, I64), I64(axis * size + i)))
        corner = e.element_pointer(e.args[plane.name], self.dtype, offset)
        sizes = [I64(n) for n in (plane.channels, *strides[1:3], self._input_position)]
        function = input_function(e.module, self.target, self.dtype, self.filtering)
        b.call(function, [corner, e.scratch, fits, into, *sizes])

    def _multiply(self, e: FunctionEmitter, inputs: ir.Value, weights: ir.Value, sums: ir.Value) -> None:
        """Sums of all positions, each tiles by features of the panel."""
        plan, dtype, depth, size = self.plan, self.dtype, self.plane.channels, self.dtype.itemsize
        calls = -(-plan.tiles // plan.rows)
        near = -(-self.width * size // calls) if self.packed_bytes > self.target.l2 // 4 else 0
        with e.loop(I64(0), I64(self.filtering.positions)) as position:
            a_at = e.element_pointer(inputs, dtype, e.integer_mul(position, I64(self._input_position)))
            b_at = e.element_pointer(weights, dtype, e.integer_mul(position, I64(self._slab)))
            c_at = e.element_pointer(sums, dtype, e.integer_mul(position, I64(self._sums_position)))
            for call in range(calls):
                row = call * plan.rows
                height = min(plan.rows, plan.tiles - row)
                distance = self._input_row if height > 1 else 0
                code = TileCode(dtype, height, plan.vectors, distance, 1, self.width, near=near)
                operands = [
                    e.element_pointer(a_at, dtype, I64(row * self._input_row)),
                    b_at,
                    I64(depth),
                    e.element_pointer(c_at, dtype, I64(row * self.width)),
                ]
                if near:
                    # The next position's weights lie behind these; each call brings its share of them.
                    share = self._slab * size + call * near * depth
                    operands.append(e.builder.gep(b_at, [I64(share)], source_etype=I8))
                e.builder.call(tile_function(e.module, self.target, code), operands)

    def _finish(
        self, e: FunctionEmitter, writer: PixelWriter, tile: ir.Value, source: ir.Value, feature: ir.Value
    ) -> None:
        b, plane, dtype, outputs = e.builder, self.plane, self.dtype, self.plan.outputs
        image, y, x = self._place(e, tile)
        down, along = (
            e.intrinsic("smin", b.sub(I64(n), at), I64(outputs)) for n, at in zip(plane.out, (y, x), strict=True)
        )
        pixels = e.element_pointer(e.scratch, dtype, I64(self._pixels_at))

        def row_of(row: ir.Value) -> PixelBlock:
            first = e.integer_add(e.integer_mul(e.integer_add(y, row), I64(plane.out[1])), x)
            return PixelBlock(image, first, along, feature)

        with e.loop(I64(0), down) as row:
            writer.prefetch(e, row_of(row))
        function = output_function(e.module, self.target, dtype, self.filtering)
        b.call(function, [source, I64(self._sums_position), pixels, I64(self.width)])
        with e.loop(I64(0), down) as row:
            line = e.element_pointer(pixels, dtype, e.integer_mul(row, I64(outputs * self.width)))
            writer.write(e, row_of(row), line)


def _spread(elements: int, dtype: DType) -> int:
    """At least `elements`, an odd number of cache lines: neighbours fall into different sets of the cache."""
    line = _LINE // dtype.itemsize
    return (-(-elements // line) | 1) * line
