"""What statements and expressions of the kernel IR contain: walks that the emitter and its analyses share."""

from __future__ import annotations

from collections.abc import Sequence

from rlx.codegen.kernel import (
    Accumulate,
    Apply,
    Assign,
    Const,
    Declare,
    Expr,
    Let,
    Load,
    Local,
    Loop,
    Memory,
    Stmt,
    Store,
    Var,
    While,
)


def within(body: Sequence[Stmt]) -> list[Stmt]:
    """Statements, nested ones included."""
    found: list[Stmt] = []
    for stmt in body:
        found.append(stmt)
        for part in ("body", "then", "orelse"):
            found += within(getattr(stmt, part, ()))
    return found


def expressions(body: Sequence[Stmt]) -> list[Expr]:
    """Every expression in statements, parts included, each once."""
    stack: list[Expr] = []
    for stmt in within(body):
        for name in ("value", "init", "mask", "condition", "extent"):
            part = getattr(stmt, name, None)
            if part is not None:
                stack.append(part)
        stack += getattr(stmt, "index", ())
    return reachable(stack)


def reachable(stack: list[Expr]) -> list[Expr]:
    """The expressions in `stack`, which is used up, and all their parts, each once."""
    seen: dict[int, Expr] = {}
    while stack:
        e = stack.pop()
        if id(e) in seen:
            continue
        seen[id(e)] = e
        if isinstance(e, Apply):
            stack += e.args
        elif isinstance(e, Load):
            stack += [*e.index, *(x for x in (e.mask, e.other) if x is not None)]
    return list(seen.values())


def variables(body: Sequence[Stmt]) -> list[Var]:
    return [e for e in expressions(body) if isinstance(e, Var)]


def variables_of(e: Expr) -> list[Var]:
    return [part for part in reachable([e]) if isinstance(part, Var)]


def accesses(body: Sequence[Stmt]) -> list[tuple[Memory, tuple[Expr, ...]]]:
    """Every load and store: (memory, index)."""
    loads = [(e.memory, e.index) for e in expressions(body) if isinstance(e, Load)]
    return loads + [(s.memory, s.index) for s in within(body) if isinstance(s, Store)]


def iterations(body: Sequence[Stmt]) -> int:
    """Turns that all loops of known extent in `body` take together."""
    total = 0
    for stmt in body:
        inner = sum(iterations(getattr(stmt, part, ())) for part in ("body", "then", "orelse"))
        if isinstance(stmt, Loop) and isinstance(stmt.extent, Const):
            inner = int(stmt.extent.value.real) * (1 + inner)
        elif isinstance(stmt, Loop | While):
            inner += 1
        total += inner
    return total


def reads(e: Expr) -> tuple[frozenset[str], frozenset[str]]:
    """Variables and memories that an expression reads, by name."""
    found = reachable([e])
    memories = frozenset(part.memory.name for part in found if isinstance(part, Load))
    return frozenset(part.name for part in found if isinstance(part, Var)), memories


def effects(body: Sequence[Stmt]) -> tuple[set[str], set[str]]:
    """Variables that statements bind or assign, and memories that they store to."""
    variables: set[str] = set()
    memories: set[str] = set()
    for stmt in body:
        if isinstance(stmt, Store | Local):
            memories.add(stmt.memory.name)
        elif isinstance(stmt, Let | Declare | Assign | Accumulate | Loop):
            variables.add(stmt.var.name)
        for part in ("body", "then", "orelse"):
            more_variables, more_memories = effects(getattr(stmt, part, ()))
            variables |= more_variables
            memories |= more_memories
    return variables, memories
