"""Places of a memory that data points into, divided among launches: a gather's table, a scatter's result.

A launch cannot know which elements it will touch, but it can leave alone what lies elsewhere: it is bound to a range of
places, and stores only what belongs there. Of a memory that is read alone, that is what its data points to, so every
store waits for it; of one that is stored to, each element by itself, which keeps the order of the stores to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rlx.backends.webgpu.touches import Touch, Touches
from rlx.codegen.kernel import Apply, Const, Declare, Expr, Let, Local, LoopKernel, Stmt, Store, Var
from rlx.codegen.wgsl.interval import Interval
from rlx.codegen.wgsl.walk import reachable, within
from rlx.ir.dtypes import bool_, i64


@dataclass(frozen=True, eq=False)
class Window:
    """The places of a memory among which parts divide: `low` to `high`, by the sum of the address's `terms`."""

    stored: bool
    low: int
    high: int
    terms: tuple[tuple[Expr, int], ...]
    offset: int

    def test(self, start: int, end: int) -> Expr:
        """Whether the place belongs to a part's range."""
        sum: Expr = Const(self.offset, i64)
        for part, stride in self.terms:
            sum = Apply("add", (sum, Apply("mul", (part, Const(stride, i64)), i64)), i64)
        above = Apply("ge", (sum, Const(self.low + start, i64)), bool_)
        return Apply("and", (above, Apply("lt", (sum, Const(self.low + end, i64)), bool_)), bool_)

    def reach(self, touch: Touch, start: int, end: int) -> Interval:
        """The addresses of an access whose place belongs to a part's range."""
        if self.stored:
            return self.low + start, self.low + end - 1
        assert touch.interval is not None
        assert touch.data is not None
        rest = touch.interval[0] - touch.data[0], touch.interval[1] - touch.data[1]
        return self.low + start + rest[0], self.low + end - 1 + rest[1]


def windows(kernel: LoopKernel, touches: Touches) -> dict[str, Window]:
    """The memories whose places can be divided, by name.

    In a kernel that keeps variables or arrays of its own, what lies elsewhere would get into them: there a place must
    be that of a whole turn of the grid, of which then nothing is stored.
    """
    found: dict[str, Window] = {}
    names = [memory.name for memory in kernel.args]
    stores = [(store, scope) for store, scope in touches.scopes if store.memory.name in names]
    keeps = any(isinstance(s, Declare | Local) for s in within(kernel.body))
    turn = {kernel.index.name, *(s.var.name for s in kernel.body if isinstance(s, Let))}
    for name in names:
        own = [t for t in touches.all if t.memory.name == name]
        pointed = [t for t in own if t.data_parts]
        if not pointed or any(t.interval is None or t.data is None for t in own):
            continue
        first = pointed[0]
        assert first.interval is not None
        assert first.data is not None
        if any(t.stored for t in own):
            one = len(stores) == 1 and len({_key(zip(t.index, t.memory.strides, strict=True)) for t in own}) == 1
            if one and not keeps:
                terms = tuple((part, stride) for part, stride in zip(first.index, first.memory.strides, strict=True))
                found[name] = Window(True, *first.interval, terms, first.memory.offset)
            continue
        needs = {v.name for part, _ in first.data_parts for v in reachable([part]) if isinstance(v, Var)}
        seen = needs <= turn if keeps else all(needs <= scope for _, scope in stores)
        if seen and len({_key(t.data_parts) for t in pointed}) == 1:
            found[name] = Window(False, *first.data, first.data_parts, 0)
    return found


def _key(terms: Iterable[tuple[Expr, object]]) -> tuple[object, ...]:
    return tuple((part.name if isinstance(part, Var) else id(part), stride) for part, stride in terms)


def masked(
    body: Sequence[Stmt], args: set[str], loaded: Sequence[Expr], stored: Mapping[str, Expr]
) -> tuple[Stmt, ...]:
    """Statements whose stores to arguments happen where the tests hold."""
    if not loaded and not stored:
        return tuple(body)
    changed: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, Store) and stmt.memory.name in args:
            mask = stmt.mask
            for test in (*loaded, *([stored[stmt.memory.name]] if stmt.memory.name in stored else [])):
                mask = test if mask is None else Apply("and", (mask, test), bool_)
            stmt = replace(stmt, mask=mask)
        elif hasattr(stmt, "body"):
            stmt = replace(stmt, body=masked(stmt.body, args, loaded, stored))
        elif hasattr(stmt, "then"):
            then, orelse = (masked(part, args, loaded, stored) for part in (stmt.then, stmt.orelse))
            stmt = replace(stmt, then=then, orelse=orelse)
        changed.append(stmt)
    return tuple(changed)
