"""From finished sums to memory: running a lowering's epilogue over one tile.

A tile of sums lies in scratch memory, row by row; the epilogue's stores are emitted once and run for each vector of it,
so that their code does not grow with the tile. Vectors run along the last output dimension. Where columns are several
dimensions that no single stride describes, a tile is walked in segments that do not cross the last dimension's end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

from llvmlite import ir

from rlx.backends.cpu.gemm_view import split_index
from rlx.codegen.kernel import Apply, Const, Expr, Load, Memory, Var
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I32, I64, VOID, Value
from rlx.codegen.lower.templates import Epilogue
from rlx.ir.dtypes import DType

#: Gives the leading index values of a row of the flat product: (emitter, matrix, row) -> values.
Place = Callable[[FunctionEmitter, ir.Value, ir.Value], Sequence[ir.Value]]


class Writer(Protocol):
    """What becomes of finished tiles."""

    def write(
        self,
        e: FunctionEmitter,
        sums: ir.Value,
        matrix: ir.Value,
        row: ir.Value,
        rows: int | ir.Value,
        column: ir.Value,
    ) -> None:
        """Take `rows` rows of sums, from (row, column) of the flat product on."""
        ...


@dataclass(frozen=True, eq=False)
class TileWriter:
    """Writes tiles of one product.

    place: the values of the epilogue's leading indices at a matrix and a row. columns: sizes of the trailing indices.
    dtype: of the sums. width: columns of a tile, whole vectors. pitch: sums from row to row; `width` where it is 0.
    second: sums from a tile's to those of the second product at the same place, for a pair's epilogue.
    ahead: rows from a tile to the next one below it, whose memory is brought near while this tile is written; 0: none.
    """

    epilogue: Epilogue
    place: Place
    columns: tuple[int, ...]
    dtype: DType
    width: int
    pitch: int = 0
    ahead: int = 0
    second: int = 0

    @property
    def total(self) -> int:
        return prod(self.columns)

    def write(
        self,
        e: FunctionEmitter,
        sums: ir.Value,
        matrix: ir.Value,
        row: ir.Value,
        rows: int | ir.Value,
        column: ir.Value,
    ) -> None:
        """Run the stores for `rows` rows from (row, column) on. Up to one vector behind the sums is read."""
        sizes = self._walked()
        lanes = e.target.lanes(self.dtype.bits)
        count = I64(rows) if isinstance(rows, int) else rows
        with e.loop(I64(0), count) as r:
            line = e.element_pointer(sums, self.dtype, e.integer_mul(r, I64(self.pitch or self.width)))
            leading = list(self.place(e, matrix, e.integer_add(row, r)))
            below = self.place(e, matrix, e.integer_add(row, e.integer_add(r, I64(self.ahead)))) if self.ahead else []
            if not sizes:
                self._store(e, line, leading, [], None, 1)
            elif len(sizes) <= 1 or sizes[-1] % lanes == 0:
                self._whole_vectors(e, line, leading, below, sizes, column, lanes)
            else:
                self._segments(e, line, leading, sizes, column, lanes)

    @property
    def _single(self) -> int:
        """Trailing column dimensions of size 1: no address depends on them, so vectors cannot run along them."""
        sizes = list(self.columns)
        while sizes and sizes[-1] == 1:
            sizes.pop()
        return len(self.columns) - len(sizes)

    def _walked(self) -> tuple[int, ...]:
        """The columns' dimensions as they are walked: one where every access sees them as one."""
        sizes = self.columns[: len(self.columns) - self._single]
        first = len(self.epilogue.index) - len(self.columns)
        if len(sizes) > 1 and is_collapsible(self.epilogue, self.epilogue.index[first : first + len(sizes)], sizes):
            return (self.total,)
        return sizes

    def _whole_vectors(
        self,
        e: FunctionEmitter,
        line: ir.Value,
        leading: list[ir.Value],
        below: Sequence[ir.Value],
        sizes: tuple[int, ...],
        column: ir.Value,
        lanes: int,
    ) -> None:
        b = e.builder

        def store(at: ir.Value, mask: ir.Value | None) -> None:
            trailing = split_index(e, e.integer_add(column, at), sizes)
            self._store(e, e.element_pointer(line, self.dtype, at), leading, trailing, mask, lanes)
            if below:
                self._prefetch(e, dict(zip(self.epilogue.index, self._indices(below, trailing), strict=True)))

        left = e.intrinsic("smin", b.sub(I64(self.total), column), I64(self.width))
        tail = self.total % lanes
        whole = b.and_(left, I64(-lanes)) if tail else left
        with e.loop(I64(0), whole, lanes) as at:
            store(at, None)
        if tail:
            with b.if_then(b.icmp_signed("<", whole, left)):
                store(whole, e.mask_for(I64(tail), lanes))

    def _segments(
        self,
        e: FunctionEmitter,
        line: ir.Value,
        leading: list[ir.Value],
        sizes: tuple[int, ...],
        column: ir.Value,
        lanes: int,
    ) -> None:
        last = I64(sizes[-1])
        b = e.builder
        end = _least(e, b.add(column, I64(self.width)), I64(self.total))
        first_segment = b.udiv(column, last)
        behind = b.add(b.udiv(b.sub(end, I64(1)), last), I64(1))
        with e.loop(first_segment, behind, I64(1)) as segment:
            origin = e.builder.mul(segment, last)
            start = _greatest(e, e.builder.sub(column, origin), I64(0))
            stop = _least(e, e.builder.sub(end, origin), last)
            outer = split_index(e, segment, sizes[:-1])
            with e.loop(start, stop, I64(lanes)) as x:
                at = e.builder.sub(e.builder.add(origin, x), column)
                mask = e.mask_for(e.builder.sub(stop, x), lanes)
                self._store(e, e.element_pointer(line, self.dtype, at), leading, [*outer, x], mask, lanes)

    def _store(
        self,
        e: FunctionEmitter,
        pointer: ir.Value,
        leading: list[ir.Value],
        trailing: list[ir.Value],
        mask: ir.Value | None,
        lanes: int,
    ) -> None:
        index = self.epilogue.index
        env: dict[Var, Value] = dict(zip(index, self._indices(leading, trailing), strict=True))
        env[self.epilogue.acc] = e.load_lanes(pointer, self.dtype, lanes)
        if self.epilogue.second is not None:
            beside = e.element_pointer(pointer, self.dtype, I64(self.second))
            env[self.epilogue.second] = e.load_lanes(beside, self.dtype, lanes)
        for store in self.epilogue.stores:
            e.store(store, env, lanes=lanes, along=index[-1 - self._single] if lanes > 1 else None, mask=mask)

    def _indices(self, leading: Sequence[ir.Value], trailing: Sequence[ir.Value]) -> list[ir.Value]:
        """A value for each of the epilogue's indices: those that nothing gives are 0."""
        behind = [I64(0)] * self._single
        missing = [I64(0)] * (len(self.epilogue.index) - len(leading) - len(trailing) - len(behind))
        return [*leading, *missing, *trailing, *behind]

    def _prefetch(self, e: FunctionEmitter, at: dict[Var, ir.Value]) -> None:
        """Bring near what the stores touch at an index, which may lie outside the product."""
        for memory, index in row_streams(self.epilogue, len(self.columns)):
            offset = e.index_value(memory.offset)
            for var, stride in zip(index, memory.strides, strict=True):
                offset = e.integer_add(offset, e.integer_mul(at[var], e.index_value(stride)))
            place = e.element_pointer(e.args[memory.name], memory.dtype, offset)
            e.call("llvm.prefetch.p0", VOID, [place, I32(int(memory.writable)), I32(3), I32(1)])


def row_streams(epilogue: Epilogue, columns: int) -> list[tuple[Memory, tuple[Var, ...]]]:
    """What the stores read and write in another place for each row; `columns` trailing indices are not rows'.

    Left out: addresses that are computed from more than the indices.
    """
    rows = set(epilogue.index[: len(epilogue.index) - columns])
    known = set(epilogue.index)
    found: dict[tuple[str, tuple[Var, ...]], tuple[Memory, tuple[Var, ...]]] = {}
    queue: list[Expr] = [store.value for store in epilogue.stores]
    accesses = [(store.memory, store.index) for store in epilogue.stores]
    seen: set[int] = set()
    while queue:
        expr = queue.pop()
        if id(expr) in seen:
            continue
        seen.add(id(expr))
        if isinstance(expr, Apply):
            queue.extend(expr.args)
        elif isinstance(expr, Load):
            accesses.append((expr.memory, expr.index))
    for memory, index in accesses:
        variables = tuple(i for i in index if isinstance(i, Var) and i in known)
        if len(variables) == len(index) and not rows.isdisjoint(variables):
            found[memory.name, variables] = memory, variables
    return list(found.values())


def _least(e: FunctionEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
    return e.builder.select(e.builder.icmp_signed("<", a, b), a, b)


def _greatest(e: FunctionEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
    return e.builder.select(e.builder.icmp_signed(">", a, b), a, b)


# -- what the stores' addresses do ---------------------------------------------------------------------------------


def is_collapsible(epilogue: Epilogue, variables: Sequence[Var], sizes: Sequence[int]) -> bool:
    """Whether the trailing index variables may be walked as one: (0, ..., 0, flat) reaches every element alike.

    True where they appear in addresses alone, linearly, each with the weight of its place in row-major order.
    """
    weights = [prod(sizes[i + 1 :]) for i in range(len(sizes))]
    names = [v.name for v in variables]
    seen: set[int] = set()

    def address_fits(memory: Memory, index: tuple[Expr, ...]) -> bool:
        total: dict[str, int] = {}
        for stride, expr in zip(memory.strides, index, strict=True):
            linear = _linear(expr, names)
            if linear is None or (linear and not isinstance(stride, int)):
                return False
            for name, factor in linear.items():
                assert isinstance(stride, int)
                total[name] = total.get(name, 0) + stride * factor
        inner = total.get(names[-1], 0)
        return all(total.get(n, 0) == w * inner for n, w in zip(names, weights, strict=True))

    def fits(expr: Expr) -> bool:
        if id(expr) in seen:
            return True
        seen.add(id(expr))
        match expr:
            case Const():
                return True
            case Var():
                return expr.name not in names
            case Apply():
                return all(fits(a) for a in expr.args)
            case Load():
                extra = [x for x in (expr.mask, expr.other) if x is not None]
                return address_fits(expr.memory, expr.index) and all(fits(x) for x in extra)

    return all(
        address_fits(s.memory, s.index) and fits(s.value) and (s.mask is None or fits(s.mask)) for s in epilogue.stores
    )


def _linear(expr: Expr, names: Sequence[str]) -> dict[str, int] | None:
    """The factor of each of `names` in an index expression; None where it is not linear in them."""
    match expr:
        case Const():
            return {}
        case Var():
            return {expr.name: 1} if expr.name in names else {}
        case Load():
            return {} if all(_linear(i, names) == {} for i in expr.index) else None
        case Apply():
            parts = [_linear(a, names) for a in expr.args]
            if any(p is None for p in parts):
                return None
            known = [p for p in parts if p is not None]
            if all(not p for p in known):
                return {}
            if expr.op in ("add", "sub"):
                sign = 1 if expr.op == "add" else -1
                return {n: known[0].get(n, 0) + sign * known[1].get(n, 0) for n in {*known[0], *known[1]}}
            if expr.op == "mul":
                for factor, part in ((expr.args[0], known[1]), (expr.args[1], known[0])):
                    if isinstance(factor, Const) and isinstance(factor.value, int):
                        return {n: factor.value * f for n, f in part.items()}
            return None
