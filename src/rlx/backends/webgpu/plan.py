"""From lowered steps to what the executable walks: shaders, places in memory, and a memory plan.

A step list becomes JSON:

    ["launch", shader, [[space, offset, bytes], ...], [columns, rows], label]
    ["branch", [space, offset], then, orelse]
    ["repeat", test, [space, offset], body]

Spaces: "arena", "persistent", "inputN", "outputN", "parameterN". What a launch binds of them, and of how many steps it
is, `launches` says. A copy is a shader too, as WebGPU refuses to copy within one buffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlx.backends.webgpu.gpu import ALIGNMENT
from rlx.backends.webgpu.launches import Extra, Launches, is_empty
from rlx.codegen.kernel import Const, Load, LoopKernel, Memory, Store, Var
from rlx.codegen.program import Branch, Copy, Launch, LoweredProgram, Operand, Repeat, Step, VirtualBuffer, walk_steps
from rlx.codegen.wgsl import WgslTarget
from rlx.driver.planner import Interval, plan_apart, plan_memory
from rlx.ir.dtypes import i64, u8, u32


@dataclass
class _Lifetimes:
    """When each temporary buffer is first and last touched, in steps; loops stretch what crosses their edge."""

    extra: Mapping[Launch, Extra]
    spans: dict[VirtualBuffer, list[int]] = field(default_factory=dict)
    loops: list[tuple[int, int]] = field(default_factory=list)
    now: int = 0

    def touch(self, buffers: Iterable[VirtualBuffer]) -> None:
        for buffer in buffers:
            if buffer.kind == "temporary":
                self.spans.setdefault(buffer, [self.now, self.now])[1] = self.now

    def intervals(self) -> dict[VirtualBuffer, Interval]:
        for start, end in self.loops:  # inner loops end first, so they stand first
            for span in self.spans.values():
                inside = span[0] <= end and span[1] >= start
                if inside and (span[0] < start or span[1] > end):
                    span[0], span[1] = min(span[0], start), max(span[1], end)
        return {
            b: Interval(f"{i}:{b.name}", first, last + 1, b.nbytes)
            for i, (b, (first, last)) in enumerate(self.spans.items())
        }


class Planner:
    """Plans one step list.

    shaders: source -> number, shared by the lists of a program. within: numbers of those that overrun no array but
        storage, shared likewise.
    """

    def __init__(
        self, target: WgslTarget, persistent: dict[VirtualBuffer, int], shaders: dict[str, int], within: set[int]
    ) -> None:
        self._persistent = persistent
        self._launches = Launches(target, self._place, shaders, within)
        self._offsets: dict[VirtualBuffer, int] = {}
        self._extra: dict[Launch, Extra] = {}

    def plan(self, steps: Sequence[Step], *, debug: bool) -> dict[str, Any]:
        """The list as JSON, with the memory plan of its arena; debug: every value has bytes of its own."""
        for step in walk_steps(steps):
            if isinstance(step, Launch) and not is_empty(step.kernel):
                self._extra[step] = self._launches.extra(step)
        lifetimes = _Lifetimes(self._extra)
        _visit(steps, lifetimes)
        intervals = lifetimes.intervals()
        plan = (plan_apart if debug else plan_memory)(list(intervals.values()), alignment=ALIGNMENT)
        self._offsets = {b: plan.offsets[v.name] for b, v in intervals.items()}
        return {
            "steps": self._list(steps),
            "arena_bytes": plan.size,
            "offsets": dict(plan.offsets),
            "sizes": dict(plan.sizes),
            "lower_bound": plan.lower_bound,
            "arena_map": [(b.name, v.start, v.end, self._offsets[b], v.size) for b, v in intervals.items()],
        }

    def _list(self, steps: Sequence[Step]) -> list[Any]:
        listed: list[Any] = []
        for step in steps:
            if isinstance(step, Launch):
                if step in self._extra:
                    listed += self._launches.steps(step.kernel, step.operands, self._extra[step])
            elif isinstance(step, Copy):
                listed += self._copy(step)
            elif isinstance(step, Branch):
                listed.append(["branch", self._place(step.predicate), self._list(step.then), self._list(step.orelse)])
            else:
                listed.append(["repeat", self._list(step.test), self._place(step.predicate), self._list(step.body)])
        return listed

    def _copy(self, step: Copy) -> list[Any]:
        whole = all(n % 4 == 0 for n in (step.nbytes, step.source.byte_offset, step.destination.byte_offset))
        dtype = u32 if whole else u8
        index = Var("i")
        source, target = Memory("source", dtype, (1,)), Memory("target", dtype, (1,), writable=True)
        body = (Store(target, (index,), Load(source, (index,))),)
        kernel = LoopKernel("copy", (source, target), index, Const(step.nbytes // dtype.itemsize, i64), body)
        return [] if is_empty(kernel) else self._launches.steps(kernel, (step.source, step.destination))

    def _place(self, operand: Operand) -> list[Any]:
        buffer, offset = operand.buffer, operand.byte_offset
        if buffer.kind == "temporary":
            return ["arena", self._offsets[buffer] + offset]
        if buffer.kind in ("persistent", "constant"):
            return ["persistent", self._persistent[buffer] + offset]
        return [f"{buffer.kind}{buffer.index}", offset]


def _visit(steps: Sequence[Step], lifetimes: _Lifetimes) -> None:
    for step in steps:
        lifetimes.now += 1
        if isinstance(step, Launch):
            lifetimes.touch((*step.reads, *step.writes, *(o.buffer for o in step.operands)))
            lifetimes.touch(lifetimes.extra.get(step, Extra()).buffers)
        elif isinstance(step, Copy):
            lifetimes.touch((step.source.buffer, step.destination.buffer))
        elif isinstance(step, Branch):
            lifetimes.touch((step.predicate.buffer,))
            _visit(step.then, lifetimes)
            _visit(step.orelse, lifetimes)
        else:
            start = lifetimes.now
            _visit(step.test, lifetimes)
            lifetimes.touch((step.predicate.buffer,))
            _visit(step.body, lifetimes)
            lifetimes.now += 1
            lifetimes.loops.append((start, lifetimes.now))


def place_persistent(program: LoweredProgram) -> tuple[dict[VirtualBuffer, int], int, bytes]:
    """Offsets of constants (first) and persistent buffers, their size in all, and the constants' bytes."""
    found: dict[VirtualBuffer, None] = {}
    for buffer in _buffers((*program.setup, *program.steps)):
        found[buffer] = None
    offsets: dict[VirtualBuffer, int] = {}
    end = 0
    for kind in ("constant", "persistent"):
        for buffer in found:
            if buffer.kind == kind:
                offsets[buffer] = end
                end += -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT
    data = bytearray(max((offsets[b] + b.nbytes for b in offsets if b.kind == "constant"), default=0))
    for b, offset in offsets.items():
        if b.kind == "constant":
            data[offset : offset + b.nbytes] = b.data
    return offsets, end, bytes(data)


def _buffers(steps: Iterable[Step]) -> Iterable[VirtualBuffer]:
    for step in steps:
        if isinstance(step, Launch):
            yield from (o.buffer for o in step.operands)
        elif isinstance(step, Copy):
            yield from (step.source.buffer, step.destination.buffer)
        elif isinstance(step, Branch):
            yield step.predicate.buffer
            yield from _buffers((*step.then, *step.orelse))
        elif isinstance(step, Repeat):
            yield step.predicate.buffer
            yield from _buffers((*step.test, *step.body))
