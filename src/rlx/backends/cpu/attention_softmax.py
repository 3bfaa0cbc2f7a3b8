"""The softmax of attention, row by row, while a tile's products are in the first-level cache.

A row of products becomes a row of weights in its place: first the scores and the largest of them, then exp(score -
largest) and the total. In a stream of blocks of keys, the largest so far takes the place of the largest; what was
summed up before must then be multiplied by the row's `change`.

A row whose every score is -inf has weights 0 and total 0. NaN in a score, and +inf, give NaN weights and totals; where
the spec clears them, the total stays NaN and the weights are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from llvmlite import ir

from rlx.backends.cpu.attention_plan import AttentionPlan
from rlx.backends.cpu.gemm_view import split_index
from rlx.codegen.kernel import Var
from rlx.codegen.llvm.exponential import exp
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import F32, I32, I64, Value, constant, real, vector
from rlx.codegen.lower.templates import AttentionSpec
from rlx.ir.dtypes import f32

_LOWEST = float("-inf")
#: Vectors that are computed side by side: of different rows where there are several.
_SIDE_BY_SIDE = 4


def rows_together(heights: Collection[int]) -> int:
    """How many rows a softmax should take at once where tiles have these heights: a divisor of all."""
    return next(n for n in range(_SIDE_BY_SIDE, 0, -1) if all(height % n == 0 for height in heights))


@dataclass(frozen=True)
class _Row:
    """line: the address of its products. index: of its batch and its query. statistics: addresses, by name."""

    line: ir.Value
    index: list[ir.Value]
    statistics: Mapping[str, ir.Value]


@dataclass(frozen=True, eq=False)
class RowSoftmax:
    """streams: keys come in several blocks. together: rows that are computed side by side."""

    spec: AttentionSpec
    plan: AttentionPlan
    streams: bool
    together: int

    def begin(self, e: FunctionEmitter, largest: ir.Value, total: ir.Value, rows: ir.Value) -> None:
        """No key has been seen yet."""
        with e.loop(I64(0), rows) as row:
            e.store_one(e.element_pointer(largest, f32, row), f32, F32(_LOWEST))
            e.store_one(e.element_pointer(total, f32, row), f32, F32(0.0))

    def emit(
        self,
        e: FunctionEmitter,
        rows: Mapping[str, ir.Value],
        matrix: ir.Value,
        first: ir.Value,
        count: ir.Value,
        key: ir.Value,
        keys: ir.Value,
    ) -> None:
        """Turn products of queries first .. first + count and keys key .. key + keys into weights.

        rows: addresses of the products, `plan.keys` from row to row, and of the rows' `largest`, `total` and `change`.
        count: a multiple of `together`.
        """
        with e.loop(I64(0), count, self.together) as start:
            self._rows(
                e,
                [self._row(e, rows, matrix, first, e.integer_add(start, I64(i))) for i in range(self.together)],
                key,
                keys,
            )

    def _row(
        self, e: FunctionEmitter, rows: Mapping[str, ir.Value], matrix: ir.Value, first: ir.Value, row: ir.Value
    ) -> _Row:
        line = e.element_pointer(rows["scores"], f32, e.integer_mul(row, I64(self.plan.keys)))
        query = e.integer_add(first, row)
        index = [*split_index(e, matrix, self.spec.batch), *split_index(e, query, self.spec.m)]
        statistics = {name: e.element_pointer(place, f32, row) for name, place in rows.items() if name != "scores"}
        return _Row(line, index, statistics)

    def _rows(self, e: FunctionEmitter, rows: Sequence[_Row], key: ir.Value, keys: ir.Value) -> None:
        b, lanes = e.builder, self.plan.lanes
        lowest = [e.cell(constant(vector(F32, lanes), _LOWEST)) for _ in rows]

        def score(at: ir.Value, mask: ir.Value | None) -> None:
            places = [e.element_pointer(row.line, f32, at) for row in rows]
            products = [real(e.load_lanes(place, f32, lanes)) for place in places]
            values = [
                self._score(e, product, row.index, e.integer_add(key, at), mask)
                for product, row in zip(products, rows, strict=True)
            ]
            for place, value, cell in zip(places, values, lowest, strict=True):
                e.store_lanes(place, f32, value, lanes)
                e.write_cell(cell, _larger(e, value, real(e.read_cell(cell))))

        self._vectors(e, keys, score)
        shifts = [self._shift(e, row, real(e.read_cell(cell))) for row, cell in zip(rows, lowest, strict=True)]
        sums = [e.cell(constant(vector(F32, lanes), 0.0)) for _ in rows]

        def weigh(at: ir.Value, mask: ir.Value | None) -> None:
            for row, (_, shift), total in zip(rows, shifts, sums, strict=True):
                place = e.element_pointer(row.line, f32, at)
                weight = exp(e, b.fsub(real(e.load_lanes(place, f32, lanes)), shift))
                e.store_lanes(place, f32, weight, lanes)
                e.write_cell(total, b.fadd(real(e.read_cell(total)), weight))

        self._vectors(e, keys, weigh)
        for row, (before, shift), cell in zip(rows, shifts, sums, strict=True):
            total = real(e.horizontal("add", e.read_cell(cell)))
            if self.streams:
                # The first lane of a vector: exp is made for vectors.
                change = exp(e, b.fsub(e.splat(before, lanes), shift))
                change = b.extract_element(change, I32(0))
                e.store_one(row.statistics["change"], f32, change)
                total = e.fma(real(e.load_one(row.statistics["total"], f32)), change, total)
            e.store_one(row.statistics["total"], f32, total)
            if self.spec.cleared:
                with b.if_then(e.is_nan(total), likely=False):
                    self._clear(e, row, keys)

    def _clear(self, e: FunctionEmitter, row: _Row, keys: ir.Value) -> None:
        """Make a row's weights 0, and what was summed up before."""
        with e.loop(I64(0), keys, self.plan.lanes) as at:
            place = e.element_pointer(row.line, f32, at)
            e.store_lanes(place, f32, constant(vector(F32, self.plan.lanes), 0.0), self.plan.lanes)
        if self.streams:
            e.store_one(row.statistics["change"], f32, F32(0.0))

    def _shift(self, e: FunctionEmitter, row: _Row, scores: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The largest score before, and what is taken off each score now, in every lane."""
        b = e.builder
        largest = e.reduce(scores, lambda a, b: _larger(e, a, b))
        before: ir.Value = F32(_LOWEST)
        if self.streams:
            before = real(e.load_one(row.statistics["largest"], f32))
            largest = _larger(e, largest, before)
            e.store_one(row.statistics["largest"], f32, largest)
        shift = b.select(b.fcmp_ordered("==", largest, F32(_LOWEST)), F32(0.0), largest)
        return before, e.splat(shift, self.plan.lanes)

    def _score(
        self, e: FunctionEmitter, product: ir.Value, index: list[ir.Value], key: ir.Value, mask: ir.Value | None
    ) -> ir.Value:
        """The scores of neighbouring keys; -inf where `mask` is false."""
        scores, lanes = self.spec.scores, self.plan.lanes
        env: dict[Var, Value] = dict(zip(scores.index, [*index, key], strict=True))
        env[scores.acc] = product
        value = real(e.expr(scores.value, env, lanes=lanes, along=scores.index[-1], mask=mask))
        return value if mask is None else e.builder.select(mask, value, constant(value.type, _LOWEST))

    def _vectors(self, e: FunctionEmitter, keys: ir.Value, emit: Callable[[ir.Value, ir.Value | None], None]) -> None:
        """emit(at, mask) for each vector of a row of `keys` scores; a mask where a row may end within a vector."""
        lanes, total = self.plan.lanes, self.spec.n[0]
        side_by_side = -(-_SIDE_BY_SIDE // self.together)
        step = lanes * side_by_side
        whole = e.builder.and_(keys, I64(-lanes))
        most = e.builder.and_(keys, I64(-step))
        if type(keys) is ir.Constant:
            whole, most = I64(total // lanes * lanes), I64(total // step * step)
        with e.loop(I64(0), most, step) as at:
            for i in range(side_by_side):
                emit(e.integer_add(at, I64(i * lanes)), None)
        if side_by_side > 1:
            with e.loop(most, whole, lanes) as at:
                emit(at, None)
        if total % lanes:  # which only the last keys' vector can be short by
            with e.builder.if_then(e.builder.icmp_signed("<", whole, keys)):
                emit(whole, e.mask_for(I64(total % lanes), lanes))


def scale_of_sums(e: FunctionEmitter, spec: AttentionSpec, total: ir.Value) -> ir.Value:
    """What a row's sums are multiplied by in the end: 1 / total; 1 where the spec makes all weights 0."""
    b = e.builder
    scale = b.fdiv(F32(1.0), total)
    if not spec.blind and not spec.cleared:
        return scale
    compare = b.fcmp_unordered if spec.cleared else b.fcmp_ordered
    return b.select(compare("==", total, F32(0.0)), F32(1.0), scale)


def _larger(e: FunctionEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
    """The larger; b where a is NaN."""
    return e.builder.select(e.builder.fcmp_ordered(">", a, b), a, b)
