"""The softmax of attention, row by row, while a tile's products are in the first-level cache.

A row of products becomes a row of weights in its place: first the scores and the largest of them, then exp(score -
largest) and the total. In a stream of blocks of keys, the largest so far takes the place of the largest; what was
summed up before must then be multiplied by the row's `change`.

A row whose every score is -inf has weights 0 and total 0. NaN in a score, and +inf, give NaN weights and totals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
#: Vectors of a row that are computed side by side.
_SIDE_BY_SIDE = 4


@dataclass(frozen=True, eq=False)
class RowSoftmax:
    """streams: keys come in several blocks."""

    spec: AttentionSpec
    plan: AttentionPlan
    streams: bool

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
        """
        with e.loop(I64(0), count) as row:
            line = e.element_pointer(rows["scores"], f32, e.integer_mul(row, I64(self.plan.keys)))
            query = e.integer_add(first, row)
            index = [*split_index(e, matrix, self.spec.batch), *split_index(e, query, self.spec.m)]
            self._row(e, line, index, {n: e.element_pointer(p, f32, row) for n, p in rows.items()}, key, keys)

    def _row(
        self,
        e: FunctionEmitter,
        line: ir.Value,
        index: list[ir.Value],
        statistics: Mapping[str, ir.Value],
        key: ir.Value,
        keys: ir.Value,
    ) -> None:
        lanes = self.plan.lanes
        lowest = e.cell(constant(vector(F32, lanes), _LOWEST))

        def score(at: ir.Value, mask: ir.Value | None) -> None:
            place = e.element_pointer(line, f32, at)
            value = self._score(e, real(e.load_lanes(place, f32, lanes)), index, e.integer_add(key, at), mask)
            e.store_lanes(place, f32, value, lanes)
            e.write_cell(lowest, _larger(e, value, real(e.read_cell(lowest))))

        self._vectors(e, keys, score)
        largest = e.reduce(real(e.read_cell(lowest)), lambda a, b: _larger(e, a, b))
        if self.streams:
            before = real(e.load_one(statistics["largest"], f32))
            largest = _larger(e, largest, before)
            e.store_one(statistics["largest"], f32, largest)
        b = e.builder
        shift = e.splat(b.select(b.fcmp_ordered("==", largest, F32(_LOWEST)), F32(0.0), largest), lanes)
        sums = e.cell(constant(vector(F32, lanes), 0.0))

        def weigh(at: ir.Value, mask: ir.Value | None) -> None:
            place = e.element_pointer(line, f32, at)
            weight = exp(e, b.fsub(real(e.load_lanes(place, f32, lanes)), shift))
            e.store_lanes(place, f32, weight, lanes)
            e.write_cell(sums, b.fadd(real(e.read_cell(sums)), weight))

        self._vectors(e, keys, weigh)
        total = real(e.horizontal("add", e.read_cell(sums)))
        if self.streams:
            # The first lane of a vector: exp is made for vectors.
            change = exp(e, b.fsub(e.splat(before, lanes), shift))
            change = b.extract_element(change, I32(0))
            e.store_one(statistics["change"], f32, change)
            total = e.fma(real(e.load_one(statistics["total"], f32)), change, total)
        e.store_one(statistics["total"], f32, total)

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
        step = lanes * _SIDE_BY_SIDE
        whole = e.builder.and_(keys, I64(-lanes))
        most = e.builder.and_(keys, I64(-step))
        if type(keys) is ir.Constant:
            whole, most = I64(total // lanes * lanes), I64(total // step * step)
        with e.loop(I64(0), most, step) as at:
            for i in range(_SIDE_BY_SIDE):
                emit(e.integer_add(at, I64(i * lanes)), None)
        with e.loop(most, whole, lanes) as at:
            emit(at, None)
        if total % lanes:  # which only the last keys' vector can be short by
            with e.builder.if_then(e.builder.icmp_signed("<", whole, keys)):
                emit(whole, e.mask_for(I64(total % lanes), lanes))


def _larger(e: FunctionEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
    """The larger; b where a is NaN."""
    return e.builder.select(e.builder.fcmp_ordered(">", a, b), a, b)
