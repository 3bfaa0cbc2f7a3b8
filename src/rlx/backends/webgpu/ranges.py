"""Launches over parts of a kernel's work: what each part touches of every argument.

A kernel whose arguments take more bindings than a shader has is launched several times, each over a range of its grid,
or of the loop that is all its body does, with bindings for what that range touches. Which elements those are follows
from the index expressions, by interval arithmetic; where an index comes from memory, it is all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rlx.codegen.kernel import Apply, Const, Let, Load, Loop, LoopKernel, Memory, Stmt, Store, Var
from rlx.codegen.wgsl.interval import Interval, interval_of
from rlx.codegen.wgsl.walk import expressions
from rlx.ir.dtypes import i64

_OFFSET = "range"
Axis = Literal["grid", "loop"]


def axes(kernel: LoopKernel) -> dict[Axis, int]:
    """What can be divided, the outer first, and how many turns it takes."""
    found: dict[Axis, int] = {}
    if isinstance(kernel.grid, Const) and int(kernel.grid.value.real) > 1:
        found["grid"] = int(kernel.grid.value.real)
    loop = _only_loop(kernel)
    if loop is not None and isinstance(loop.extent, Const):
        found["loop"] = int(loop.extent.value.real)
    return found


def part_of(kernel: LoopKernel, axis: Axis, start: int, count: int) -> LoopKernel:
    """The kernel over `count` turns of an axis from `start` on."""
    inner, shifted = Var(f"{_OFFSET} {start}", i64), Const(start, i64)
    if axis == "grid":
        first = Let(kernel.index, Apply("add", (inner, shifted), i64))
        return replace(kernel, index=inner, grid=Const(count, i64), body=(first, *kernel.body))
    loop = _only_loop(kernel)
    assert loop is not None, "axes found it"
    first = Let(loop.var, Apply("add", (inner, shifted), i64))
    loop = replace(loop, var=inner, extent=Const(count, i64), body=(first, *loop.body))
    return replace(kernel, body=(*kernel.body[:-1], loop))


def touched(kernel: LoopKernel) -> dict[str, Interval | None]:
    """Argument -> first and last element that the kernel may touch, from the argument's start; None: all of them."""
    grid = int(kernel.grid.value.real) if isinstance(kernel.grid, Const) else 1 << 30
    found: dict[str, Interval | None] = {}
    _visit(kernel.body, {kernel.index.name: (0, max(grid - 1, 0))}, found)
    return found


def _visit(body: Sequence[Stmt], variables: dict[str, Interval], found: dict[str, Interval | None]) -> None:
    for stmt in body:
        inside = getattr(stmt, "body", None) or getattr(stmt, "then", None)
        if inside is None:
            accesses = [(e.memory, e.index) for e in expressions([stmt]) if isinstance(e, Load)]
            accesses += [(stmt.memory, stmt.index)] if isinstance(stmt, Store) else []
            for memory, index in accesses:
                _add(found, memory, _address(memory, index, variables))
            if isinstance(stmt, Let):
                _bind(variables, stmt.var, interval_of(stmt.value, variables, {}))
        elif isinstance(stmt, Loop):
            extent = interval_of(stmt.extent, variables, {})
            _bind(variables, stmt.var, None if extent is None else (0, max(extent[1] - 1, 0)))
            _visit(stmt.body, variables, found)
        else:  # a condition may hold or not, a while may go round again: its parts may read what they like
            for e in expressions([stmt]):
                if isinstance(e, Load):
                    found[e.memory.name] = None
            for part in ("body", "then", "orelse"):
                _visit(getattr(stmt, part, ()), variables, found)


def _bind(variables: dict[str, Interval], var: Var, interval: Interval | None) -> None:
    if interval is None:
        variables.pop(var.name, None)
    else:
        variables[var.name] = interval


def _address(memory: Memory, index: Sequence[object], variables: dict[str, Interval]) -> Interval | None:
    if not isinstance(memory.offset, int) or not all(isinstance(s, int) for s in memory.strides):
        return None
    low = high = memory.offset
    for stride, part in zip(memory.strides, index, strict=True):
        interval = interval_of(part, variables, {})  # type: ignore[arg-type]
        if interval is None:
            return None
        ends = (int(stride) * interval[0], int(stride) * interval[1])  # type: ignore[call-overload]
        low, high = low + min(ends), high + max(ends)
    return low, high


def _add(found: dict[str, Interval | None], memory: Memory, interval: Interval | None) -> None:
    known = found.get(memory.name, interval)
    found[memory.name] = (
        None if known is None or interval is None else (min(known[0], interval[0]), max(known[1], interval[1]))
    )


def _only_loop(kernel: LoopKernel) -> Loop | None:
    """The vector loop that is all that the body does, lets aside."""
    if not kernel.body or not all(isinstance(s, Let) for s in kernel.body[:-1]):
        return None
    loop = kernel.body[-1]
    return loop if isinstance(loop, Loop) and loop.kind == "vector" and isinstance(loop.extent, Const) else None
