"""What statements touch of memory: for each load and store the interval of its address, and what of it comes from data.

Intervals follow from those of the variables. An index that is loaded from memory is known where it is clamped; what is
read under a condition may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlx.codegen.kernel import Apply, Expr, Let, Load, Loop, Memory, Stmt, Store, Var
from rlx.codegen.wgsl.interval import Interval, interval_of
from rlx.codegen.wgsl.walk import expressions, reachable


def touched_by(body: Sequence[Stmt], extents: Mapping[str, Interval]) -> dict[str, Interval | None]:
    """Memory -> first and last element that statements may touch, from its start, or None: any of them.

    extents: the values of variables from outside.
    """
    found: dict[str, Interval | None] = {}
    for touch in Touches(body, extents).all:
        known = found.get(touch.memory.name, touch.interval)
        found[touch.memory.name] = None if known is None or touch.interval is None else union(known, touch.interval)
    return found


@dataclass(frozen=True, eq=False)
class Touch:
    """One access. interval: of its address, data included; None: unknown.

    data_parts: the terms (index, stride) of the address that come from memory; data: their sum's interval.
    """

    memory: Memory
    index: tuple[Expr, ...]
    stored: bool
    interval: Interval | None
    data: Interval | None
    data_parts: tuple[tuple[Expr, int], ...]


class Touches:
    """Every access of statements to memory, and what each store could see: the names of variables in its scope."""

    def __init__(
        self, body: Sequence[Stmt], extents: Mapping[str, Interval], loop: tuple[Stmt, Interval] | None = None
    ):
        self.all: list[Touch] = []
        self.scopes: list[tuple[Store, frozenset[str]]] = []
        self._loop = loop
        self._visit(body, dict(extents), set(), set(extents))

    def _visit(self, body: Sequence[Stmt], known: dict[str, Interval], data: set[str], scope: set[str]) -> None:
        for stmt in body:
            if isinstance(stmt, Loop):
                bounds = interval_of(stmt.extent, known, {})
                turns = None if bounds is None else (0, max(bounds[1] - 1, 0))
                if self._loop is not None and stmt is self._loop[0]:
                    turns = self._loop[1]
                self._bind(known, stmt.var, turns)
                self._visit(stmt.body, known, data, scope | {stmt.var.name})
            elif hasattr(stmt, "condition"):
                # It may hold or not, or hold again: what is read for it, or under it, may be anything.
                for e in expressions([stmt]):
                    if isinstance(e, Load):
                        self.all.append(Touch(e.memory, e.index, False, None, None, ()))
                for part in ("body", "then", "orelse"):
                    self._visit(getattr(stmt, part, ()), known, data, set(scope))
            else:
                for e in expressions([stmt]):
                    if isinstance(e, Load):
                        self._add(e.memory, e.index, False, known, data)
                if isinstance(stmt, Store):
                    self._add(stmt.memory, stmt.index, True, known, data)
                    self.scopes.append((stmt, frozenset(scope)))
                elif isinstance(stmt, Let):
                    self._bind(known, stmt.var, _bounds(stmt.value, known))
                    if _is_data(stmt.value, data):
                        data.add(stmt.var.name)
                    scope.add(stmt.var.name)

    @staticmethod
    def _bind(known: dict[str, Interval], var: Var, interval: Interval | None) -> None:
        if interval is None:
            known.pop(var.name, None)
        else:
            known[var.name] = interval

    def _add(
        self, memory: Memory, index: tuple[Expr, ...], stored: bool, known: Mapping[str, Interval], data: set[str]
    ) -> None:
        if not isinstance(memory.offset, int) or not all(isinstance(s, int) for s in memory.strides):
            self.all.append(Touch(memory, index, stored, None, None, ()))
            return
        address: Interval | None = (memory.offset, memory.offset)
        from_data: Interval | None = (0, 0)
        parts: list[tuple[Expr, int]] = []
        for stride, part in zip(memory.strides, index, strict=True):
            assert isinstance(stride, int)
            bounds = _bounds(part, known)
            ends = None if bounds is None else tuple(sorted((stride * bounds[0], stride * bounds[1])))
            address = None if address is None or ends is None else (address[0] + ends[0], address[1] + ends[1])
            if _is_data(part, data):
                parts.append((part, stride))
                from_data = (
                    None if from_data is None or ends is None else (from_data[0] + ends[0], from_data[1] + ends[1])
                )
        self.all.append(Touch(memory, index, stored, address, from_data, tuple(parts)))


def _bounds(e: Expr, known: Mapping[str, Interval]) -> Interval | None:
    """The values that an i64 expression may take; those of a clamp lie between its limits, whatever it clamps."""
    memo: dict[int, Interval | None] = {}
    for part in reachable([e]):
        if isinstance(part, Apply) and part.op == "clamp" and interval_of(part, known, {}) is None:
            low, high = interval_of(part.args[0], known, {}), interval_of(part.args[2], known, {})
            if low is not None and high is not None:
                memo[id(part)] = (low[0], high[1])
    return interval_of(e, known, memo)


def _is_data(e: Expr, data: set[str]) -> bool:
    return any(isinstance(p, Load) or (isinstance(p, Var) and p.name in data) for p in reachable([e]))


def union(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])
