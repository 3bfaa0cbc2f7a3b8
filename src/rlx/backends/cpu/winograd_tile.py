"""The transforms of one tile as functions that all kernels of a module share: they take sizes and strides as arguments.

Both go through a tile a vector of lanes (channels, features) at a time. Strides count elements; positions of a
transformed tile are numbered row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from llvmlite import ir

from rlx.backends.cpu.winograd_transform import Filtering, both_ways
from rlx.codegen.llvm.types import I64, PTR, VOID, register_type
from rlx.codegen.llvm.values import ValueEmitter, function_attributes
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType


def input_function(module: ir.Module, target: Target, dtype: DType, filtering: Filtering) -> ir.Function:
    """`void input(ptr corner, ptr zeros, i64 fits, ptr into, i64 channels, i64 row, i64 pixel, i64 position)`.

    corner: the tile's first pixel, which need not be inside the image; rows of the image lie `row` apart, pixels
        `pixel`. fits: bit y: row y is inside; bit size + x: column x. zeros: a vector, for pixels that are not.
    into: receives the positions, `position` apart. channels: whole vectors.
    """

    def emit(tile: _Emitter) -> None:
        corner, zeros, fits, into, channels, row, pixel, position = tile.function.args
        b, size = tile.builder, filtering.size

        def turn(channel: ir.Value, *, inside: bool) -> None:
            square = []
            line = tile.at(corner, channel)
            for y in range(size):
                values, place = [], line
                for x in range(size):
                    chosen = place
                    if not inside:
                        both = I64(1 << y | 1 << size + x)
                        chosen = b.select(b.icmp_signed("==", b.and_(fits, both), both), place, zeros)
                    values.append(tile.load(chosen))
                    place = tile.at(place, pixel)
                square.append(values)
                line = tile.at(line, row)
            tile.store_all(both_ways(tile.values, filtering.input, square), tile.at(into, channel), position)

        whole = b.icmp_signed("==", fits, I64((1 << 2 * size) - 1))
        with b.if_else(whole) as (then, otherwise):
            with then:
                tile.loop(channels, partial(turn, inside=True))
            with otherwise:
                tile.loop(channels, partial(turn, inside=False))

    return _function(module, target, dtype, f"winograd_input_{filtering.outputs}", [1, 1, 0, 1, 0, 0, 0, 0], emit)


def output_function(module: ir.Module, target: Target, dtype: DType, filtering: Filtering) -> ir.Function:
    """`void output(ptr sums, i64 position, ptr pixels, i64 width)`: from positions `position` apart to pixels, row by
    row, without gaps, of `width` features each, whole vectors.
    """

    def emit(tile: _Emitter) -> None:
        sums, position, pixels, width = tile.function.args
        size = filtering.size

        def turn(feature: ir.Value) -> None:
            square, place = [], tile.at(sums, feature)
            for _ in range(size):
                values = []
                for _ in range(size):
                    values.append(tile.load(place))
                    place = tile.at(place, position)
                square.append(values)
            tile.store_all(both_ways(tile.values, filtering.output, square), tile.at(pixels, feature), width)

        tile.loop(width, turn)

    return _function(module, target, dtype, f"winograd_output_{filtering.outputs}", [1, 0, 1, 0], emit)


class _Emitter:
    """Instructions of one function, over vectors of `dtype`."""

    def __init__(self, function: ir.Function, target: Target, dtype: DType) -> None:
        self.function = function
        self.lanes = target.lanes(dtype.bits)
        self.element, self.align = register_type(dtype), dtype.itemsize
        self.vector = ir.VectorType(self.element, self.lanes)
        self.values = ValueEmitter(function.module, ir.IRBuilder(function.append_basic_block("entry")), target)

    @property
    def builder(self) -> ir.IRBuilder:
        return self.values.builder

    def at(self, pointer: ir.Value, offset: ir.Value) -> ir.Value:
        """The place `offset` elements on."""
        return self.builder.gep(pointer, [offset], source_etype=self.element)

    def load(self, pointer: ir.Value) -> ir.Value:
        return self.builder.load(pointer, align=1, typ=self.vector)

    def store_all(self, square: Sequence[Sequence[ir.Value]], place: ir.Value, distance: ir.Value) -> None:
        """Every value, row by row, `distance` apart from `place` on."""
        for value in (v for row in square for v in row):
            self.builder.store(value, place, align=self.align)
            place = self.at(place, distance)

    def loop(self, stop: ir.Value, body: Callable[[ir.Value], None]) -> None:
        """`body` at each multiple of the lanes below `stop`, which is above 0."""
        before, inside = self.builder.block, self.function.append_basic_block("vector")
        after = self.function.append_basic_block("done")
        self.builder.branch(inside)
        self.builder.position_at_end(inside)
        index = self.builder.phi(I64)
        body(index)
        following = self.builder.add(index, I64(self.lanes))
        index.add_incoming(I64(0), before)
        index.add_incoming(following, self.builder.block)
        self.builder.cbranch(self.builder.icmp_signed("<", following, stop), inside, after)
        self.builder.position_at_end(after)


def _function(
    module: ir.Module,
    target: Target,
    dtype: DType,
    name: str,
    pointers: Sequence[int],
    emit: Callable[[_Emitter], None],
) -> ir.Function:
    """The module's function of that name, emitted on first use. pointers: which of its arguments are (else i64)."""
    name = f"{name}_{dtype.name}"
    found = module.globals.get(name)
    if found is not None:
        return found
    function = ir.Function(module, ir.FunctionType(VOID, [PTR if p else I64 for p in pointers]), name)
    function.linkage = "internal"
    function.attributes = function_attributes(target, "noinline")
    tile = _Emitter(function, target, dtype)
    emit(tile)
    tile.builder.ret_void()
    return function
