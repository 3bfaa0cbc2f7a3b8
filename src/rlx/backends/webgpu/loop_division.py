"""How the work of a loop kernel can be divided: see `division`.

grid. Its turns are independent.

loop. The first loop of the body, where its greatest extent is known. Parts after the first begin with the variables and
local arrays that the one before ended with, or, where the loop only adds to a variable, add what it had in the end:
that keeps rows in the form that workgroups share. What follows the loop is the last part's.

places. Those of a memory that data points into: see `windows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rlx.backends.webgpu.division import Ranges
from rlx.backends.webgpu.touches import Touches, union
from rlx.backends.webgpu.windows import masked, windows
from rlx.codegen.kernel import (
    Accumulate,
    Apply,
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
from rlx.codegen.wgsl import Shader, WgslTarget, emit_kernel
from rlx.codegen.wgsl.interval import Interval
from rlx.codegen.wgsl.nests import most_turns
from rlx.codegen.wgsl.walk import effects, variables, within
from rlx.ir.dtypes import i64

_GRID, _LOOP = "grid", "loop"


class LoopDivision:
    """See the module, and `division.Division`."""

    def __init__(self, kernel: LoopKernel, target: WgslTarget) -> None:
        assert isinstance(kernel.grid, Const)
        self.kernel, self.target = kernel, target
        grid = int(kernel.grid.value.real)
        self._work = _work(kernel, grid)
        extents = {_GRID: grid, _LOOP: 1 if self._work is None else self._work.turns}
        self._whole: Ranges = {axis: (0, turns) for axis, turns in extents.items()}
        self._windows = windows(kernel, _touches(kernel, self._work, self._whole))
        extents |= {_places(name): window.high - window.low + 1 for name, window in self._windows.items()}
        self._whole = {axis: (0, turns) for axis, turns in extents.items()}
        self.axes: Mapping[str, int] = {axis: turns for axis, turns in extents.items() if turns > 1}
        states = () if self._work is None else self._work.states
        self.args = (*kernel.args, *(state.memory for state in states))
        self.handed = tuple(state.elements for state in states)

    def touched(self, ranges: Ranges) -> list[Interval | None]:
        ranges = {**self._whole, **ranges}
        touches = _touches(self.kernel, self._work, ranges)
        found: dict[str, Interval | None] = {}
        for touch in touches.all:
            name = touch.memory.name
            interval = touch.interval
            window = self._windows.get(name)
            if window is not None and touch.data_parts:
                start, end = ranges[_places(name)]
                interval = window.reach(touch, start, end)
            known = found.get(name, interval)
            found[name] = None if known is None or interval is None else union(known, interval)
        result = [found.get(memory.name, (0, 0)) for memory in self.kernel.args]
        if self._is_divided(ranges):
            assert self._work is not None
            start, end = ranges[_GRID]
            result += [(start * s.lanes, end * s.lanes - 1) for s in self._work.states]
        return result

    def shader(self, ranges: Ranges, bases: Sequence[int]) -> Shader:
        return emit_kernel(self.part({**self._whole, **ranges}), self.target, bases)

    def part(self, ranges: Ranges) -> LoopKernel:
        """The kernel over ranges of all axes."""
        kernel, args, body = self.kernel, self.kernel.args, self.kernel.body
        if self._is_divided(ranges):
            assert self._work is not None
            body, args = self._work.part(kernel, ranges[_LOOP]), self.args
        tests = {
            name: window.test(*ranges[_places(name)])
            for name, window in self._windows.items()
            if ranges[_places(name)] != self._whole[_places(name)]
        }
        stored = {name: test for name, test in tests.items() if self._windows[name].stored}
        loaded = [test for name, test in tests.items() if name not in stored]
        body = masked(body, {memory.name for memory in args}, loaded, stored)
        if ranges[_GRID] == self._whole[_GRID]:
            return replace(kernel, args=args, body=body)
        index, body = _from(kernel.index, ranges[_GRID], body)
        start, end = ranges[_GRID]
        return replace(kernel, args=args, index=index, grid=Const(end - start, i64), body=body)

    def _is_divided(self, ranges: Ranges) -> bool:
        """Whether a part has a part of the loop alone."""
        return ranges[_LOOP] != self._whole[_LOOP]


def _from(var: Var, taken: tuple[int, int], body: Sequence[Stmt]) -> tuple[Var, tuple[Stmt, ...]]:
    """A variable that counts from 0, and the body in which `var` counts from the range's start."""
    inner = Var(f"{var.name} from {taken[0]}", i64)
    return inner, (Let(var, Apply("add", (inner, Const(taken[0], i64)), i64)), *body)


# -- loop ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _State:
    """What parts of a loop hand on for each index of the grid: a variable, or an array with an element a lane.

    kept: it. memory: where, `lanes` elements an index. lane: a loop over the array. sums: how the loop adds to the
    variable, where it does nothing else with it.
    """

    kept: Var | Memory
    memory: Memory
    elements: int
    lanes: int
    lane: Loop | None
    sums: str


@dataclass(frozen=True, eq=False)
class _Work:
    """The loop that can be divided: its place in the kernel's body, and what its parts hand on."""

    place: int
    turns: int
    states: tuple[_State, ...]

    def part(self, kernel: LoopKernel, taken: tuple[int, int]) -> tuple[Stmt, ...]:
        """The kernel's body over a range of the loop's turns."""
        head, loop, tail = list(kernel.body[: self.place]), kernel.body[self.place], kernel.body[self.place + 1 :]
        assert isinstance(loop, Loop)
        first, last = taken[0] == 0, taken[1] == self.turns
        after: list[Stmt] = []
        inner, body = _from(loop.var, taken, loop.body)
        count: Expr = Const(taken[1] - taken[0], i64)
        if not isinstance(loop.extent, Const):
            count = Apply("min", (count, Apply("sub", (loop.extent, Const(taken[0], i64)), i64)), i64)
        if not first:
            for state in self.states:
                held = Load(state.memory, self._place_of(state, kernel.index))
                if isinstance(state.kept, Memory):
                    assert state.lane is not None
                    head.append(replace(state.lane, body=(Store(state.kept, (state.lane.var,), held),)))
                    continue
                at = next(i for i, s in enumerate(head) if isinstance(s, Declare) and s.var.name == state.kept.name)
                if state.sums:
                    own = Var(f"{state.kept.name} of a part", state.kept.dtype)
                    head[at] = Declare(own, identity(state.sums, own.dtype))
                    body = _adding_to(own, state.kept, body)
                    after.append(Let(state.kept, Apply(state.sums, (held, own), own.dtype)))
                else:
                    head[at] = Declare(state.kept, held)
        if not last:
            tail = tuple(self._store(state, kernel.index) for state in self.states)
        loop = replace(loop, var=inner, extent=count, body=body)
        return (*head, loop, *after, *tail)

    def _place_of(self, state: _State, index: Var) -> tuple[Expr, ...]:
        return (index,) if state.lane is None else (index, state.lane.var)

    def _store(self, state: _State, index: Var) -> Stmt:
        place = self._place_of(state, index)
        if not isinstance(state.kept, Memory):
            return Store(state.memory, place, state.kept)
        assert state.lane is not None
        value = Load(state.kept, (state.lane.var,))
        return replace(state.lane, body=(Store(state.memory, place, value),))


def _work(kernel: LoopKernel, grid: int) -> _Work | None:
    """The first loop that does more than fill a local array; None where it cannot be divided."""
    fills: dict[str, Loop] = {}
    for place, stmt in enumerate(kernel.body):
        if isinstance(stmt, Loop):
            filled = _filled(stmt, kernel.body[:place])
            if not filled:
                return _divisible(kernel, place, stmt, fills, grid)
            fills |= dict.fromkeys(filled, stmt)
        elif not isinstance(stmt, Let | Declare | Local):
            return None
    return None


def _filled(loop: Loop, head: Sequence[Stmt]) -> list[str]:
    """The local arrays of which a loop fills each element, where it does nothing else."""
    arrays = {s.memory.name for s in head if isinstance(s, Local)}
    stores = [s for s in loop.body if isinstance(s, Store) and s.memory.name in arrays and s.index == (loop.var,)]
    return [s.memory.name for s in stores] if len(stores) == len(loop.body) else []


def _divisible(kernel: LoopKernel, place: int, loop: Loop, fills: Mapping[str, Loop], grid: int) -> _Work | None:
    turns = most_turns(loop.extent)
    if turns is None or turns < 2:
        return None
    changed, stored = effects([loop])
    states: list[_State] = []
    for stmt in kernel.body[:place]:
        name = f"handed{len(states)}"
        if isinstance(stmt, Declare) and stmt.var.name in changed:
            memory = Memory(name, stmt.var.dtype, (1,), writable=True)
            states.append(_State(stmt.var, memory, grid, 1, None, _sums(stmt, loop)))
        elif isinstance(stmt, Local) and stmt.memory.name in stored:
            fill = fills.get(stmt.memory.name)
            if fill is None:
                return None
            memory = Memory(name, stmt.memory.dtype, (stmt.elements, 1), writable=True)
            states.append(_State(stmt.memory, memory, grid * stmt.elements, stmt.elements, fill, ""))
    return _Work(place, turns, tuple(states))


def _sums(declared: Declare, loop: Loop) -> str:
    """The one op by which a loop adds to a variable that it does not read, from nothing on; or ""."""
    var, start = declared.var, declared.init
    inside = [s for s in within([loop]) if getattr(s, "var", None) is not None and s.var.name == var.name]
    ops = {s.op if isinstance(s, Accumulate) else "" for s in inside}
    if len(ops) != 1 or any(v.name == var.name for v in variables([loop])):
        return ""
    (op,) = ops
    return op if op and isinstance(start, Const) and start.value == identity(op, var.dtype).value else ""


def _adding_to(own: Var, var: Var, body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """Statements that add to `own` where these add to `var`."""
    changed: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, Accumulate) and stmt.var.name == var.name:
            stmt = replace(stmt, var=own)
        elif hasattr(stmt, "body"):
            stmt = replace(stmt, body=_adding_to(own, var, stmt.body))
        elif hasattr(stmt, "then"):
            stmt = replace(stmt, then=_adding_to(own, var, stmt.then), orelse=_adding_to(own, var, stmt.orelse))
        changed.append(stmt)
    return tuple(changed)


def _touches(kernel: LoopKernel, work: _Work | None, ranges: Ranges) -> Touches:
    start, end = ranges[_GRID]
    loop = None if work is None else (kernel.body[work.place], (ranges[_LOOP][0], ranges[_LOOP][1] - 1))
    return Touches(kernel.body, {kernel.index.name: (start, max(end - 1, 0))}, loop)


def _places(memory: str) -> str:
    return f"places of {memory}"
