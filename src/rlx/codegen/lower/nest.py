"""Assembles loop nests: the grid, the loops inside, and what moves out of them.

Expressions that do not depend on a loop's variable are bound by a `Let` outside that loop: row scalars, loaded indices,
uniform operands. What one body has bound stays bound for the loops that follow in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlx.codegen.kernel import (
    Accumulate,
    Apply,
    Assign,
    Const,
    Expr,
    Let,
    Load,
    Loop,
    LoopKind,
    Memory,
    Stmt,
    Store,
    Var,
)
from rlx.codegen.lower.axes import Axis
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.ir.dtypes import i64

#: Levels are 0 for the body that runs once a grid index, then one more for each loop inside.
Level = int


class Nest:
    """The body of one kernel under construction: statements of level 0 in order, among them whole loop nests."""

    def __init__(self, builder: KernelBuilder) -> None:
        self.builder = builder
        self.body: list[Stmt] = []
        self.kept_inside: set[Memory | Var] = set()  # what the kernel's loops change: reads of it never move
        self._outer: dict[Expr, Var] = {}
        self._levels: dict[Expr, Level] = {}
        self._lets: list[list[Stmt]] = []
        self._inner: dict[Expr, Var] = {}
        self._rebuilt: dict[Expr, Expr] = {}

    def grid(self, axes: Sequence[Axis]) -> tuple[Var, Expr]:
        """The kernel's index and grid for loops over `axes`, outermost first; their variables are bound at the top."""
        count = 1
        for axis in axes:
            count *= axis.extent
        if len(axes) == 1:
            return axes[0].var, Const(axes[0].extent, i64)
        index = Var("g")
        inner = count
        for place, axis in enumerate(axes):
            inner //= axis.extent
            value: Expr = index
            if inner > 1:
                value = Apply("div", (value, Const(inner, i64)), i64)
            if place:
                value = Apply("rem", (value, Const(axis.extent, i64)), i64)
            self.body.append(Let(axis.var, value))
        return index, Const(count, i64)

    def add(self, *statements: Stmt) -> None:
        """Statements of level 0, as they are."""
        self.body.extend(statements)

    def bind(self, prefix: str, value: Expr) -> Var:
        """Bind `value` at level 0."""
        value = self._enter(())(value, 0)
        self.body.extend(self._lets[0])
        if isinstance(value, Var):
            return value
        var = self.builder.var(prefix, value.dtype)
        self.body.append(Let(var, value))
        return var

    def loops(
        self, axes: Sequence[Axis], statements: Sequence[Stmt], *, innermost: LoopKind = "vector", unroll: int = 1
    ) -> None:
        """Nested loops over `axes`, outermost first, around `statements`; invariants move out."""
        self.body.extend(self.nested(axes, statements, innermost=innermost, unroll=unroll))

    def nested(
        self, axes: Sequence[Axis], statements: Sequence[Stmt], *, innermost: LoopKind = "vector", unroll: int = 1
    ) -> list[Stmt]:
        """What `loops` adds, with the statements of level 0 that go before it."""
        place = self._enter(axes)
        depth = len(axes)
        inner: list[Stmt] = [_rewritten(s, lambda e: place(e, depth)) for s in statements]
        for level in range(depth, 0, -1):
            axis = axes[level - 1]
            kind = innermost if level == depth else "serial"
            body = tuple(self._lets[level] + inner)
            inner = [Loop(axis.var, axis.bound, body, kind, unroll if level == depth else 1)]
        return self._lets[0] + inner

    def _enter(self, axes: Sequence[Axis]):
        """A function that rewrites an expression for use at a level, binding what belongs further out."""
        self._levels = {axis.var: level + 1 for level, axis in enumerate(axes)}
        self._lets = [[] for _ in range(len(axes) + 1)]
        self._inner = {}
        self._rebuilt = {}
        deepest = len(axes)

        def level_of(e: Expr) -> Level:
            found = self._levels.get(e)
            if found is not None:
                return found
            if isinstance(e, Const | Var):
                result = deepest if e in self.kept_inside else 0
            elif isinstance(e, Apply):
                result = max((level_of(a) for a in e.args), default=0)
            elif e.memory in self.kept_inside:
                result = deepest
            else:
                parts = [*e.index, *(x for x in (e.mask, e.other) if x is not None)]
                result = max((level_of(a) for a in parts), default=0)
            self._levels[e] = result
            return result

        def place(e: Expr, at: Level) -> Expr:
            if isinstance(e, Const | Var):
                return e
            level = level_of(e)
            bound = self._outer.get(e) or self._inner.get(e)
            if bound is not None:
                return bound
            if level < at:
                value = rebuild(e, level)
                var = self.builder.var("t", e.dtype)
                self._lets[level].append(Let(var, value))
                (self._inner if level else self._outer)[e] = var
                return var
            return rebuild(e, at)

        def rebuild(e: Expr, at: Level) -> Expr:
            done = self._rebuilt.get(e)
            if done is not None:
                return done
            if isinstance(e, Apply):
                args = tuple(place(a, at) for a in e.args)
                same = all(a is b for a, b in zip(args, e.args, strict=True))
                done = e if same else Apply(e.op, args, e.dtype)
            elif isinstance(e, Load):
                index = tuple(place(a, at) for a in e.index)
                mask = None if e.mask is None else place(e.mask, at)
                other = None if e.other is None else place(e.other, at)
                same = all(a is b for a, b in zip(index, e.index, strict=True)) and mask is e.mask and other is e.other
                done = e if same else Load(e.memory, index, mask, other)
            else:
                done = e
            self._rebuilt[e] = done
            return done

        return place


def _rewritten(statement: Stmt, place) -> Stmt:
    if isinstance(statement, Store):
        index = tuple(place(a) for a in statement.index)
        mask = None if statement.mask is None else place(statement.mask)
        return Store(statement.memory, index, place(statement.value), mask)
    if isinstance(statement, Accumulate):
        return Accumulate(statement.var, statement.op, place(statement.value))
    if isinstance(statement, Assign):
        return Assign(statement.var, place(statement.value))
    if isinstance(statement, Let):
        return Let(statement.var, place(statement.value))
    return statement
