"""From lowered steps to what the executable walks: shaders, places in memory, and a memory plan.

A step list becomes JSON:

    ["launch", shader, [[space, offset, bytes], ...], [columns, rows], label]
    ["branch", [space, offset], then, orelse]
    ["repeat", test, [space, offset], body]

Spaces: "arena", "persistent", "inputN", "outputN", "parameterN". A binding is a whole virtual buffer, so its offset is
a multiple of 256 bytes; where an argument starts within it is part of the shader. What is larger than the device binds
at once is several bindings (`rlx.codegen.wgsl.split`). A copy is a shader too, as WebGPU refuses to copy within one
buffer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlx.backends.webgpu.gpu import ALIGNMENT
from rlx.backends.webgpu.ranges import axes, part_of, touched
from rlx.codegen.kernel import Const, Kernel, Load, LoopKernel, Memory, Store, Var
from rlx.codegen.program import Branch, Copy, Launch, LoweredProgram, Operand, Repeat, Step, VirtualBuffer, walk_steps
from rlx.codegen.wgsl import Shader, WgslTarget, emit_kernel, split_bindings
from rlx.driver.planner import Interval, plan_apart, plan_memory
from rlx.errors import BindingLimit, UnsupportedKernel
from rlx.ir.dtypes import i64, u8, u32

Place = list[Any]


@dataclass
class _Lifetimes:
    """When each temporary buffer is first and last touched, in steps; loops stretch what crosses their edge."""

    scratch: Mapping[Launch, VirtualBuffer]
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


#: Launches that one kernel is divided into at most, where its arguments take too many bindings.
_MOST_PARTS = 256
#: A loop kernel's arrays of an invocation's own: masked loads may reach past them.
_OWN_ARRAY = re.compile(r"\bvar l\d+: array<")


class Planner:
    """Plans one step list.

    shaders: source -> number, shared by the lists of a program. within: numbers of those that overrun no array but
        storage, shared likewise.
    """

    def __init__(
        self, target: WgslTarget, persistent: dict[VirtualBuffer, int], shaders: dict[str, int], within: set[int]
    ) -> None:
        self._target = target
        self._persistent = persistent
        self._shaders = shaders
        self._within = within
        self._offsets: dict[VirtualBuffer, int] = {}
        self._emitted: dict[tuple[Kernel, tuple[int, ...]], Shader] = {}
        self._scratch: dict[Launch, VirtualBuffer] = {}

    def plan(self, steps: Sequence[Step], *, debug: bool) -> dict[str, Any]:
        """The list as JSON, with the memory plan of its arena; debug: every value has bytes of its own."""
        for step in walk_steps(steps):
            if isinstance(step, Launch) and not _is_empty(step.kernel):
                nbytes = self._shader_of(step).scratch
                if nbytes:
                    self._scratch[step] = VirtualBuffer(f"scratch of {step.kernel.label}", nbytes, "temporary")
        lifetimes = _Lifetimes(self._scratch)
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
                listed += self._launch(step.kernel, step.operands, self._scratch.get(step))
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
        return self._launch(kernel, (step.source, step.destination))

    def _launch(self, kernel: Kernel, operands: Sequence[Operand], scratch: VirtualBuffer | None = None) -> list[Any]:
        if _is_empty(kernel):
            return []
        # From the buffer's start, whatever the offset: a view may step backwards from it.
        windows = [(o.buffer, 0, _words(o.buffer)) for o in operands]
        if scratch is not None:
            windows.append((scratch, 0, _words(scratch)))
        bindings, cuts = self._bindings(windows)
        if len(bindings) <= self._target.max_bindings:
            return [self._step(kernel, self._shader(kernel, operands), bindings, cuts)]
        if isinstance(kernel, LoopKernel) and scratch is None:
            steps = self._launches_over_ranges(kernel, operands)
            if steps is not None:
                return steps
        raise BindingLimit(
            f"kernel {kernel.label} binds {len(bindings)} parts of its tensors, of at most "
            f"{self._target.max_binding_bytes} bytes, the device binds {self._target.max_bindings} at once",
            hint="run a smaller batch, or the model on another device",
        )

    def _launches_over_ranges(self, kernel: LoopKernel, operands: Sequence[Operand]) -> list[Any] | None:
        """Launches that do the kernel's work by turns, in the fewest parts whose bindings are few enough."""
        for axis, turns in axes(kernel).items():
            parts = 2
            while parts <= min(turns, _MOST_PARTS):
                each = -(-turns // parts)
                steps = []
                for start in range(0, turns, each):
                    step = self._launch_over(part_of(kernel, axis, start, min(each, turns - start)), operands)
                    if step is None:
                        break
                    steps.append(step)
                else:
                    return steps
                parts *= 2
        rows = axes(kernel).get("grid", 0)
        if not 0 < rows <= _MOST_PARTS:
            return None
        divided = [self._launches_over_ranges(part_of(kernel, "grid", row, 1), operands) for row in range(rows)]
        return None if None in divided else [step for steps in divided if steps is not None for step in steps]

    def _launch_over(self, part: LoopKernel, operands: Sequence[Operand]) -> Any | None:
        """A launch bound to what the kernel touches; None where that is still too many bindings."""
        reach = touched(part)
        windows, bases = [], []
        for memory, operand in zip(part.args, operands, strict=True):
            size, base = memory.dtype.itemsize, operand.byte_offset // memory.dtype.itemsize
            start, end = 0, _words(operand.buffer)
            interval = reach.get(memory.name, (0, 0))
            if interval is not None:
                start = min(max((base + interval[0]) * size, 0), end - 8) // ALIGNMENT * ALIGNMENT
                end = max(min(-(-(base + interval[1] + 1) * size // 4) * 4, end), start + 8)
            windows.append((operand.buffer, start, end))
            bases.append(base - start // size)
        bindings, cuts = self._bindings(windows)
        if len(bindings) > self._target.max_bindings:
            return None
        return self._step(part, emit_kernel(part, self._target, bases), bindings, cuts)

    def _bindings(self, windows: Sequence[tuple[VirtualBuffer, int, int]]) -> tuple[list[list[Any]], list[list[int]]]:
        """Bindings for ranges of bytes of buffers, and where each range is cut."""
        bindings, cuts = [], []
        for buffer, start, end in windows:
            space, offset = self._place(Operand(buffer))
            cuts.append(self._cuts(offset + start, end - start))
            ends = [*cuts[-1], end - start]
            starts = [0, *cuts[-1]]
            bindings += [[space, offset + start + a, b - a] for a, b in zip(starts, ends, strict=True)]
        return bindings, cuts

    def _step(self, kernel: Kernel, shader: Shader, bindings: list[list[Any]], cuts: list[list[int]]) -> list[Any]:
        if any(cuts):
            shader = split_bindings(shader, cuts)
        number = self._shaders.setdefault(shader.source, len(self._shaders))
        if not isinstance(kernel, LoopKernel) or not _OWN_ARRAY.search(shader.source):
            self._within.add(number)
        return ["launch", number, bindings, list(shader.workgroups), kernel.label]

    def _cuts(self, offset: int, nbytes: int) -> list[int]:
        """Where a range of a space is cut, so that each part can be bound and lies in one of the device's buffers."""
        found, at = [], 0
        while True:
            room = self._target.max_buffer_bytes - (offset + at) % self._target.max_buffer_bytes
            at += min(self._target.max_binding_bytes, room)
            if at >= nbytes:
                return found
            found.append(at)

    def _shader_of(self, step: Launch) -> Shader:
        try:
            return self._shader(step.kernel, step.operands)
        except UnsupportedKernel as error:
            message = f"{', '.join(step.sources) or step.kernel.label}: {error.message}"
            raise UnsupportedKernel(message, where=error.where or f"at {step.location}", hint=error.hint) from error

    def _shader(self, kernel: Kernel, operands: Sequence[Operand]) -> Shader:
        pairs = zip(kernel.args, operands, strict=True)
        bases = tuple(operand.byte_offset // memory.dtype.itemsize for memory, operand in pairs)
        key = (kernel, bases)
        if key not in self._emitted:
            if isinstance(kernel, LoopKernel):
                self._emitted[key] = emit_kernel(kernel, self._target, bases)
            else:
                made: list[Shader] = []
                kernel.emit((bases, made.append))
                self._emitted[key] = made[0]
        return self._emitted[key]

    def _place(self, operand: Operand) -> Place:
        buffer, offset = operand.buffer, operand.byte_offset
        if buffer.kind == "temporary":
            return ["arena", self._offsets[buffer] + offset]
        if buffer.kind in ("persistent", "constant"):
            return ["persistent", self._persistent[buffer] + offset]
        return [f"{buffer.kind}{buffer.index}", offset]


def _words(buffer: VirtualBuffer) -> int:
    """Bytes of a buffer in whole words, and no fewer than a binding needs."""
    return max(-(-buffer.nbytes // 4) * 4, 8)


def _is_empty(kernel: Kernel) -> bool:
    return kernel.grid == 0 or (isinstance(kernel.grid, Const) and kernel.grid.value == 0)


def _visit(steps: Sequence[Step], lifetimes: _Lifetimes) -> None:
    for step in steps:
        lifetimes.now += 1
        if isinstance(step, Launch):
            lifetimes.touch((*step.reads, *step.writes, *(o.buffer for o in step.operands)))
            if step in lifetimes.scratch:
                lifetimes.touch((lifetimes.scratch[step],))
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
