"""Where an expression is evaluated: names, lanes, and what is computed already.

A `Frame` belongs to one run of instructions, a loop's body or a branch; frames nest as blocks do. A value computed in a
frame serves it and the frames inside it, because the block it was computed in dominates them. Values that read mutable
variables or writable memory serve their own frame alone, until the variable is assigned or the memory stored to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llvmlite import ir

from rlx.codegen.kernel import Apply, Const, Expr, Load, Memory, Var
from rlx.codegen.llvm.types import Value


@dataclass(frozen=True, slots=True)
class Cell:
    """A mutable variable: stack slots that LLVM turns back into registers; two for a complex one."""

    slots: tuple[ir.Value, ...]
    type: ir.Type


@dataclass(frozen=True, slots=True)
class Reads:
    """What an expression depends on: variables and memories, by name."""

    variables: frozenset[str]
    memories: frozenset[str]


class Dependencies:
    """`Reads` of expressions, each worked out once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Expr, Reads]] = {}

    def of(self, expr: Expr) -> Reads:
        found = self._known.get(id(expr))
        if found is None:
            found = self._known[id(expr)] = (expr, self._find(expr))
        return found[1]

    def _find(self, expr: Expr) -> Reads:
        match expr:
            case Const():
                return Reads(frozenset(), frozenset())
            case Var():
                return Reads(frozenset((expr.name,)), frozenset())
            case Apply():
                parts = [self.of(a) for a in expr.args]
                memories: frozenset[str] = frozenset()
            case Load():
                extra = [e for e in (expr.mask, expr.other) if e is not None]
                parts = [self.of(e) for e in (*expr.index, *extra, *view_expressions(expr.memory))]
                memories = frozenset((expr.memory.name,))
        return Reads(frozenset().union(*(p.variables for p in parts)), memories.union(*(p.memories for p in parts)))


def view_expressions(memory: Memory) -> list[Expr]:
    """Strides and offset that are known at run time only."""
    return [e for e in (*memory.strides, memory.offset) if not isinstance(e, int)]


@dataclass(slots=True)
class Frame:
    """One scope of evaluation.

    env: name -> value or cell. definitions: name -> the index expression that it stands for.
    lanes, along, active: how many iterations of loop variable `along` run at once, and which of them count (None: all).
    varying: names whose values differ between lanes. partial: variables that collect a reduction across lanes.
    streamed: a memory that is stored to in whole, aligned vectors, past the caches. first: how many lanes count, where
        it is the first of them (i64), in what goes before and after those vectors.
    line: a slot for the line in which one row ends and the next begins (`streamed.Seam`): with `first`, its first lanes
        go there; without, it joins the active lanes, and all are stored.
    ahead: bytes by which what is loaded from arguments is fetched ahead of its use; 0 for not at all.
    """

    env: dict[str, Value | Cell]
    definitions: dict[str, Expr] = field(default_factory=dict)
    lanes: int = 1
    along: str | None = None
    active: ir.Value | None = None
    varying: frozenset[str] = frozenset()
    partial: frozenset[str] = frozenset()
    streamed: str | None = None
    first: ir.Value | None = None
    line: ir.Value | None = None
    ahead: int = 0
    parent: Frame | None = None
    stable: dict[tuple[int, bool], tuple[Expr, Value]] = field(default_factory=dict)
    volatile: dict[tuple[int, bool], tuple[Expr, Value]] = field(default_factory=dict)

    def inner(self) -> Frame:
        """A frame inside this one; what it binds does not show outside."""
        return Frame(
            dict(self.env),
            dict(self.definitions),
            self.lanes,
            self.along,
            self.active,
            self.varying,
            self.partial,
            self.streamed,
            self.first,
            self.line,
            self.ahead,
            self,
        )

    def find(self, key: tuple[int, bool]) -> Value | None:
        """The value of an expression that was computed where it is visible."""
        hit = self.volatile.get(key)
        frame: Frame | None = self
        while hit is None and frame is not None:
            hit = frame.stable.get(key)
            frame = frame.parent
        return None if hit is None else hit[1]

    def forget(self, dependencies: Dependencies, *, variable: str | None = None, memory: str | None = None) -> None:
        """Drop what an assignment or a store makes old."""
        for key, (expr, _) in list(self.volatile.items()):
            reads = dependencies.of(expr)
            if variable in reads.variables or memory in reads.memories:
                del self.volatile[key]
