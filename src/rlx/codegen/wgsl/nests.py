"""What the loops of a kernel leave to be done side by side: found in the IR, before a line of WGSL is written.

A kernel has *lanes* where all that its body does is loops over one innermost vector axis: the axis then belongs to the
grid, and its local arrays, which only their own lane touches, become single values. A kernel has *rows* where its body
accumulates into variables: loops over the row's places, each followed by what is made of their results. Either way
what is left is an item (a row, or a row and a lane) and loops over places, of which some may be divided among
invocations: those whose turns only add to accumulators and store to places of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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
    LoopKernel,
    Memory,
    Stmt,
    Store,
    Var,
)
from rlx.codegen.lower.identity import identity
from rlx.codegen.wgsl.walk import accesses, expressions, reachable, variables, variables_of, within
from rlx.ir.dtypes import DType

_COMBINERS = frozenset(("add", "mul", "max", "min", "and", "or"))


@dataclass(frozen=True, eq=False)
class Nest:
    """Perfectly nested loops of known extent, lane aside.

    axes: (variable, extent), outermost first, without the lane. body: what one turn does, lets between the loops first.
    sums: accumulators, and in kernels with lanes local arrays, that turns only add to: (where it is kept, op).
    divisible: turns may be divided among invocations, each with sums of its own that are combined afterwards.
    """

    axes: tuple[tuple[Var, int], ...]
    body: tuple[Stmt, ...]
    sums: tuple[tuple[Var | Memory, str], ...]
    divisible: bool

    @property
    def turns(self) -> int:
        return math.prod(n for _, n in self.axes)


@dataclass(frozen=True, eq=False)
class Form:
    """A kernel's body as statements and nests, in order.

    lane: the axis that all nests have innermost, and its end, an expression of the grid's index; None where there is
        none. lanes: the greatest value of that end; 1 without a lane.
    neighbours: what is loaded for a place lies beside what the next item, not the next place, loads.
    """

    parts: tuple[Stmt | Nest, ...]
    lane: Loop | None
    lanes: int
    neighbours: bool = False

    @property
    def nests(self) -> list[Nest]:
        return [p for p in self.parts if isinstance(p, Nest)]


@dataclass
class _Loops:
    loops: list[Loop]
    lets: list[Stmt] = field(default_factory=list)

    @property
    def body(self) -> tuple[Stmt, ...]:
        return (*self.lets, *self.loops[-1].body)


def form_of(kernel: LoopKernel) -> Form | None:
    """The kernel's form; None where its body is neither rows nor lanes, and one invocation must run it in order."""
    found: list[Stmt | _Loops] = []
    for stmt in kernel.body:
        if isinstance(stmt, Loop):
            nest = _perfect(stmt)
            if nest is None:
                return None
            found.append(nest)
        elif isinstance(stmt, Let | Declare | Local | Store):
            found.append(stmt)
        else:
            return None
    if not any(isinstance(p, _Loops) for p in found):
        return None
    declared = {p.var.name: p.init for p in found if isinstance(p, Declare)}
    return _rows(kernel, found, declared) if declared else _lanes(found)


def _perfect(loop: Loop) -> _Loops | None:
    """Loops within loops, with nothing but lets between; the innermost is a vector loop."""
    nest = _Loops([loop])
    while nest.loops[-1].kind != "vector":
        *lets, last = nest.loops[-1].body or (None,)
        if not isinstance(last, Loop) or not all(isinstance(s, Let) for s in lets):
            return None
        nest.lets += [s for s in lets if s is not None]
        nest.loops.append(last)
    return nest


def _extents(loops: Iterable[Loop]) -> tuple[tuple[Var, int], ...] | None:
    axes = []
    for loop in loops:
        if not isinstance(loop.extent, Const):
            return None
        axes.append((loop.var, int(loop.extent.value.real)))
    return tuple(axes)


# -- rows ----------------------------------------------------------------------------------------------------------


def _rows(kernel: LoopKernel, found: Sequence[Stmt | _Loops], declared: dict[str, Expr]) -> Form | None:
    parts: list[Stmt | Nest] = []
    summed: set[str] = set()
    for part in found:
        if not isinstance(part, _Loops):
            parts.append(part)
            continue
        axes = _extents(part.loops)
        if axes is None:
            return None
        sums: dict[str, tuple[Var | Memory, str]] = {}
        for stmt in within(part.body):
            if isinstance(stmt, Accumulate) and stmt.var.name in declared:
                if sums.setdefault(stmt.var.name, (stmt.var, stmt.op))[1] != stmt.op:
                    return None
            elif isinstance(stmt, Assign) and stmt.var.name in declared:
                return None
        if summed & set(sums) or not all(_is_identity(declared[n], op, v.dtype) for n, (v, op) in sums.items()):
            return None
        summed |= set(sums)
        read = {v.name for v in variables(part.body)}
        places = _own_places(part.body, {v.name: n for v, n in axes}, serial=len(axes) > 1)
        parts.append(Nest(axes, part.body, tuple(sums.values()), places and not read & set(sums)))
    form = Form(tuple(parts), None, 1, _items_lie_together(kernel, parts))
    once = {p.memory.name for p in parts if isinstance(p, Store)}
    if any(m.name in once for n in form.nests for m, _ in accesses(n.body)):
        return None
    return form if all(n.divisible for n in form.nests) and _locals_are_places(form) else None


def _items_lie_together(kernel: LoopKernel, parts: Sequence[Stmt | Nest]) -> bool:
    """Whether more loads are contiguous along the items than along the places, of those that both move."""
    items = {kernel.index.name}
    for part in parts:
        if isinstance(part, Let) and isinstance(part.value, Apply) and part.value.op == "rem":
            if part.value.args[0] is kernel.index:
                items = {part.var.name}
    score = 0
    for nest in parts:
        if not isinstance(nest, Nest) or not nest.axes:
            continue
        place = nest.axes[-1][0].name
        for e in expressions(nest.body):
            if not isinstance(e, Load):
                continue
            steps = dict.fromkeys(("item", "place"), 0)
            for stride, part in zip(e.memory.strides, e.index, strict=True):
                name = getattr(part, "name", "")
                if isinstance(stride, int) and (name in items or name == place):
                    steps["place" if name == place else "item"] += stride
            if all(steps.values()):
                score += (steps["item"] == 1) - (steps["place"] == 1)
    return score > 0


def _is_identity(start: Expr, op: str, dtype: DType) -> bool:
    return isinstance(start, Const) and start.value == identity(op, dtype).value


def _locals_are_places(form: Form) -> bool:
    """Whether every local array has one element a turn, and each nest that touches it has the same axes."""
    names = {p.memory.name for p in form.parts if isinstance(p, Local)}
    seen: dict[str, tuple[tuple[Var, int], ...]] = {}
    for nest in form.nests:
        axes = tuple(a for a in nest.axes if a[1] != 1)
        for memory, index in accesses(nest.body):
            if memory.name not in names:
                continue
            own = tuple(e for e in index if not isinstance(e, Const))
            names_of = [(v.name, n) for v, n in seen.setdefault(memory.name, axes)]
            if names_of != [(v.name, n) for v, n in axes] or [getattr(e, "name", "") for e in own] != [
                v.name for v, _ in axes
            ]:
                return False
    return not any(m.name in names for p in form.parts if isinstance(p, Stmt) for m, _ in accesses((p,)))


# -- lanes ---------------------------------------------------------------------------------------------------------


def _lanes(found: Sequence[Stmt | _Loops]) -> Form | None:
    nests = [p for p in found if isinstance(p, _Loops)]
    lane = nests[0].loops[-1]
    most = most_turns(lane.extent)
    if most is None or any(isinstance(p, Store) for p in found):
        return None
    if any(n.loops[-1].var.name != lane.var.name or most_turns(n.loops[-1].extent) != most for n in nests):
        return None
    arrays = {p.memory.name for p in found if isinstance(p, Local)}
    parts: list[Stmt | Nest] = []
    starts: dict[str, Expr] = {}  # what each array was last filled with
    alone = len(nests) == 1 and len(nests[0].loops) == 1
    for part in found:
        if not isinstance(part, _Loops):
            parts.append(part)
            continue
        axes = _extents(part.loops[:-1])
        if axes is None:
            return None
        extents = {v.name: n for v, n in axes} | {lane.var.name: most}
        if not _touches_own_variables(part.body):
            return None
        for memory, index in accesses(part.body):
            if memory.name in arrays and [getattr(e, "name", "") for e in index] != [lane.var.name]:
                return None
        if not alone and not _own_places(part.body, extents, serial=True, arrays=arrays):
            return None
        sums = _array_sums(part.body, arrays)
        stored = {s.memory.name for s in within(part.body) if isinstance(s, Store)}
        summed = {m.name for m, op in sums if m.name in starts and _is_identity(starts[m.name], op, m.dtype)}
        divisible = bool(axes) and stored & arrays <= summed
        for name in stored & arrays:
            starts.pop(name, None)
        if not axes:
            starts |= {s.memory.name: s.value for s in part.body if isinstance(s, Store) and s.mask is None}
        parts.append(Nest(axes, part.body, sums, divisible))
    if not alone and not _stored_places_agree(nests, arrays):
        return None
    return Form(tuple(parts), lane, most)


def most_turns(extent: Expr) -> int | None:
    """The greatest value of a loop's end: a constant, or the smaller of one and what is left; None for any other."""
    if isinstance(extent, Apply) and extent.op == "min":
        extent = extent.args[0]
    return int(extent.value.real) if isinstance(extent, Const) else None


def _array_sums(body: Sequence[Stmt], arrays: set[str]) -> tuple[tuple[Var | Memory, str], ...]:
    """Local arrays whose element every turn combines with a term, and that nothing else reads or stores."""
    sums: dict[str, tuple[Var | Memory, str]] = {}
    for stmt in body:
        if not (isinstance(stmt, Store) and stmt.memory.name in arrays and isinstance(stmt.value, Apply)):
            continue
        held, *rest = stmt.value.args
        others = expressions([s for s in body if s is not stmt]) + reachable([*rest, *stmt.index])
        elsewhere = any(isinstance(e, Load) and e.memory.name == stmt.memory.name for e in others)
        if stmt.mask is None and stmt.value.op in _COMBINERS and isinstance(held, Load) and held.mask is None:
            if held.memory.name == stmt.memory.name and not elsewhere:
                sums[stmt.memory.name] = (stmt.memory, stmt.value.op)
    return tuple(sums.values())


def _touches_own_variables(body: Sequence[Stmt]) -> bool:
    own = {s.var.name for s in within(body) if isinstance(s, Declare)}
    return all(s.var.name in own for s in within(body) if isinstance(s, Accumulate | Assign))


def _stored_places_agree(nests: Sequence[_Loops], arrays: set[str]) -> bool:
    """Whether memory that the kernel stores is touched under one index only, so that each lane sees its own."""
    everything = [a for n in nests for a in accesses(n.body) if a[0].name not in arrays]
    stored = {s.memory.name for n in nests for s in within(n.body) if isinstance(s, Store)}
    seen: dict[str, tuple[str, ...]] = {}
    for memory, index in everything:
        if memory.name in stored:
            names = tuple(getattr(e, "name", "?") for e in index)
            if seen.setdefault(memory.name, names) != names:
                return False
    return True


# -- places --------------------------------------------------------------------------------------------------------


def _own_places(body: Sequence[Stmt], extents: dict[str, int], *, serial: bool, arrays: set[str] = frozenset()) -> bool:
    """Whether no two turns store to one place, and none reads what another stores.

    extents: of the variables that differ between turns. serial: the loops promise nothing; places must be seen to be
    different, by strides that leave no two sums of them equal.
    """
    stores = [s for s in within(body) if isinstance(s, Store) and s.memory.name not in arrays]
    stored = {s.memory.name: s.index for s in stores}
    for memory, index in accesses(body):
        for a, b in zip(index, stored.get(memory.name, index), strict=True):
            if a is not b and getattr(a, "name", "") != getattr(b, "name", "?"):
                return False
    if not serial:
        return True
    bound = {s.var.name for s in within(body) if isinstance(s, Let | Declare | Loop)}
    for store in stores:
        strides: dict[str, int] = {}
        for stride, part in zip(store.memory.strides, store.index, strict=True):
            if isinstance(part, Var):
                strides[part.name] = strides.get(part.name, 0) + int(stride)
            if isinstance(part, Var) and part.name not in bound:
                continue
            if any(v.name in extents or v.name in bound for v in variables_of(part)):
                return False
        reach = 0
        for step, extent in sorted((abs(strides.get(name, 0)), n) for name, n in extents.items() if n > 1):
            if step <= reach:
                return False
            reach += step * (extent - 1)
    return True
