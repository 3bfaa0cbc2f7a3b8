"""The register tile of channels-last convolutions: a rectangle of output pixels by vectors of output features.

The tile walks the kernel positions and, in each, a run of input channels: one word a pixel is broadcast, one packed
row of weights is loaded, all sums are updated. A word is an element, or a pair of bf16 (see `gemm_tile`). Pixels,
kernel positions and channels lie at constant distances from each other, so each access is one displacement from two
moving pointers, whatever the strides and the dilation. Where the next tile's input lies behind this one's, as in
kernels of one position, each step asks for a part of it.

Order of sums: kernel positions in row-major order, channels ascending within each; one fused (on targets without the
instruction: separate) multiply and add a step. It depends on nothing else. Pixels that do not see the image at a kernel
position may leave it out (conv_edges): what is left out are products with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llvmlite import ir

from rlx.backends.cpu.conv_edges import Run
from rlx.backends.cpu.gemm_tile import multiply_add
from rlx.codegen.llvm.types import I8, I16, I32, I64, PTR, VOID, constant, register_type
from rlx.codegen.llvm.values import ValueEmitter, function_attributes
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType

#: Multiply-adds that hide the counting of one turn of the innermost loop.
_TURN = 24
#: Bytes of a cache line.
LINE = 64


@dataclass(frozen=True)
class PixelTile:
    """What one tile function is made for; steps count words, which are as large as the sums' elements.

    rows, row_step, columns, column_step: the rectangle of pixels, and the input's distance between neighbours in it.
    walk: (count, step) of the loops over kernel positions and channels, outermost first.
    ahead: the tile asks for weights that are needed later, a cache line a step.
    factors: what words hold pairs of; None where they are elements of `dtype`.
    half: of the last word of the innermost loop only the first half is input.
    runs: what is walked instead, where some pixels see the image at some kernel positions only.
    """

    dtype: DType
    rows: int
    row_step: int
    columns: int
    column_step: int
    vectors: int
    walk: tuple[tuple[int, int], ...]
    ahead: bool
    factors: DType | None = None
    half: bool = False
    runs: tuple[Run, ...] | None = None

    @property
    def offsets(self) -> list[int]:
        """From the first pixel's input to each pixel's, row by row."""
        return [y * self.row_step + x * self.column_step for y in range(self.rows) for x in range(self.columns)]

    @property
    def run(self) -> int:
        """Words a step of the next tile's input, where that is one run of memory behind this tile's; else 0."""
        channels, step = self.walk[-1]
        lies_behind = len(self.walk) == 1 and step == 1 and self.rows == 1 and self.column_step == channels
        return self.columns if lies_behind else 0

    @property
    def name(self) -> str:
        walk = "_".join(f"{n}s{step}" for n, step in self.walk)
        dtypes = f"{self.factors.name}_{self.dtype.name}" if self.factors else self.dtype.name
        return (
            f"pixels_{dtypes}_{self.rows}s{self.row_step}x{self.columns}s{self.column_step}"
            f"x{self.vectors}_{walk if self.runs is None else '_'.join(map(str, self.runs))}"
            f"{'_half' * self.half}{'_ahead' * self.ahead}"
        )


def pixel_tile_function(module: ir.Module, target: Target, tile: PixelTile) -> ir.Function:
    """The module's function `void tile(ptr x, ptr w, ptr sums, ptr later)`, emitted on first use.

    x: the first pixel's input at the first kernel position. w: rows of `vectors` vectors, one a step of the walk.
    sums: receives pixels x vectors x lanes sums, pixel by pixel, without gaps. later: lines to ask for, in order.
    """
    found = module.globals.get(tile.name)
    if found is not None:
        return found
    function = ir.Function(module, ir.FunctionType(VOID, [PTR, PTR, PTR, PTR]), tile.name)
    function.linkage = "internal"
    function.attributes = function_attributes(target, "noinline")
    for pointer in function.args[:3]:
        pointer.add_attribute("noalias")
    _Emitter(function, target, tile).emit()
    return function


@dataclass(frozen=True)
class _State:
    """What the loops carry."""

    x: ir.Value
    w: ir.Value
    later: ir.Value
    behind: ir.Value
    sums: Sequence[ir.Value]

    @property
    def values(self) -> list[ir.Value]:
        return [self.x, self.w, self.later, self.behind, *self.sums]

    @staticmethod
    def of(values: Sequence[ir.Value]) -> _State:
        return _State(values[0], values[1], values[2], values[3], values[4:])


class _Emitter:
    def __init__(self, function: ir.Function, target: Target, tile: PixelTile) -> None:
        self.function = function
        self.tile = tile
        self.element = register_type(tile.dtype) if tile.factors is None else I32
        self.lanes = target.lanes(tile.dtype.bits)
        self.vector = ir.VectorType(self.element, self.lanes)
        self.sum = ir.VectorType(register_type(tile.dtype), self.lanes)
        self.size = tile.dtype.itemsize
        self.values = ValueEmitter(function.module, ir.IRBuilder(function.append_basic_block("entry")), target)

    @property
    def builder(self) -> ir.IRBuilder:
        return self.values.builder

    def emit(self) -> None:
        x, w, out, later = self.function.args
        sums = [constant(self.sum, 0)] * (len(self.tile.offsets) * self.tile.vectors)
        behind = self._at(x, self.tile.columns * self.tile.column_step)
        state = _State(x, w, later, behind, sums)
        state = self._walk(0, state) if self.tile.runs is None else self._each(self.tile.runs, state)
        for i, value in enumerate(state.sums):
            self.builder.store(value, self._at(out, i * self.lanes), align=self.size)
        self.builder.ret_void()

    def _walk(self, level: int, state: _State) -> _State:
        """The loops from `level` inwards; x of the result is where it was, w is behind what was read."""
        count, step = self.tile.walk[level]
        if level < len(self.tile.walk) - 1:

            def turn(inside: _State) -> _State:
                after = self._walk(level + 1, inside)
                return replace(after, x=self._at(inside.x, step))

            after = self._loop(count, state, turn)
        else:
            after = self._words(state, count - self.tile.half, step, range(len(self.tile.offsets)))
            if self.tile.half:
                after = self._steps(after, 1, step, range(len(self.tile.offsets)), half=True)
        return replace(after, x=state.x)

    def _each(self, runs: Sequence[Run], state: _State) -> _State:
        """The runs, one after the other."""
        first, rows = state, range(self.tile.rows)
        width = self.tile.vectors * self.lanes
        for run in runs:
            pixels = [y * self.tile.columns + x for y in rows[slice(*run.rows)] for x in range(*run.columns)]
            begin = replace(state, x=self._at(first.x, run.input), w=self._at(first.w, run.weights * width))
            state = self._words(begin, run.words, 1, pixels)
        return state

    def _words(self, state: _State, count: int, step: int, pixels: Sequence[int]) -> _State:
        """A loop over words."""
        unroll = max(1, min(count, -(-_TURN // (len(pixels) * self.tile.vectors))))

        def turn(inside: _State) -> _State:
            return self._steps(inside, unroll, step, pixels)

        return self._steps(self._loop(count // unroll, state, turn), count % unroll, step, pixels)

    def _loop(self, count: int, state: _State, turn: Callable[[_State], _State]) -> _State:
        """`turn` run `count` times."""
        if count <= 1:
            return turn(state) if count else state
        before, body = self.builder.block, self.function.append_basic_block("turn")
        after = self.function.append_basic_block("done")
        self.builder.branch(body)
        self.builder.position_at_end(body)
        number = self.builder.phi(I64)
        phis = [self.builder.phi(v.type) for v in state.values]
        result = turn(_State.of(phis))
        following = self.builder.add(number, I64(1))
        last = self.builder.block
        for phi, first, value in zip(
            [number, *phis], [I64(0), *state.values], [following, *result.values], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(value, last)
        self.builder.cbranch(self.builder.icmp_signed("<", following, I64(count)), body, after)
        self.builder.position_at_end(after)
        return result

    def _steps(self, state: _State, count: int, step: int, pixels: Sequence[int], *, half: bool = False) -> _State:
        """`count` multiply-adds of every sum of some pixels; half: with half a word of input."""
        vectors, width = self.tile.vectors, self.tile.vectors * self.lanes
        sums = list(state.sums)
        for k in range(count):
            if self.tile.ahead:
                self.values.void_call("llvm.prefetch.p0", [self._line(state.later, k), I32(0), I32(2), I32(1)])
            if self.tile.run:
                line = self._at(state.behind, k * self.tile.run)
                self.values.void_call("llvm.prefetch.p0", [line, I32(0), I32(3), I32(1)])
            weights = [self._load(state.w, k * width + j * self.lanes) for j in range(vectors)]
            for pixel in pixels:
                pointer = self._at(state.x, k * step + self.tile.offsets[pixel])
                word = self.builder.load(pointer, align=1, typ=I16 if half else self.element)
                one = self.values.splat(self.builder.zext(word, self.element) if half else word, self.lanes)
                for j, weight in enumerate(weights):
                    at = pixel * vectors + j
                    sums[at] = multiply_add(self.values, one, weight, sums[at], self.tile.factors or self.tile.dtype)
        later = self._line(state.later, count) if self.tile.ahead else state.later
        behind = self._at(state.behind, count * self.tile.run)
        return _State(self._at(state.x, count * step), self._at(state.w, count * width), later, behind, sums)

    def _load(self, pointer: ir.Value, offset: int) -> ir.Value:
        return self.builder.load(self._at(pointer, offset), align=1, typ=self.vector)

    def _line(self, pointer: ir.Value, number: int) -> ir.Value:
        return self.builder.gep(pointer, [I64(number * LINE)], source_etype=I8)

    def _at(self, pointer: ir.Value, offset: int) -> ir.Value:
        return self.builder.gep(pointer, [I64(offset * self.size)], source_etype=I8) if offset else pointer
