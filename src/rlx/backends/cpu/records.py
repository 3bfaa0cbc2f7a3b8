"""Flatten a lowered program into the tables that the native walker executes (formats: walker.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlx.backends.cpu.walker import (
    ALIGNMENT,
    ARENA,
    BRANCH,
    COPY,
    END,
    FIRST_ARGUMENT,
    JUMP,
    LAUNCH,
    PERSISTENT,
    RECORD_WORDS,
)
from rlx.codegen.kernel import Const, Cost, Kernel, LoopKernel
from rlx.codegen.printer import kernel_identity
from rlx.codegen.program import Branch, Copy, Launch, LoweredProgram, Operand, Repeat, Step, VirtualBuffer, walk_steps
from rlx.driver.planner import Interval, MemoryPlan, plan_apart, plan_memory

#: Modest single-thread rates for estimating costs: FLOP/ns and bytes/ns.
FLOPS_PER_NS, BYTES_PER_NS = 40.0, 12.0
#: Seconds of search for a memory plan, spent only where the heuristics miss the bound; small beside emitting code.
PLAN_BUDGET_S = 0.2


@dataclass
class Lifetimes:
    """When each temporary buffer is first and last touched, in steps; loops stretch what crosses their edge."""

    spans: dict[VirtualBuffer, list[int]] = field(default_factory=dict)
    loops: list[tuple[int, int]] = field(default_factory=list)
    now: int = 0

    def touch(self, buffers: Iterable[VirtualBuffer]) -> None:
        for buffer in buffers:
            if buffer.kind == "temporary":
                self.spans.setdefault(buffer, [self.now, self.now])[1] = self.now

    def intervals(self) -> tuple[list[VirtualBuffer], list[Interval]]:
        """Buffers and their half-open lifetimes."""
        for start, end in self.loops:  # inner loops end first, so they stand first
            for span in self.spans.values():
                inside = span[0] <= end and span[1] >= start
                if inside and (span[0] < start or span[1] > end):
                    span[0], span[1] = min(span[0], start), max(span[1], end)
        buffers = list(self.spans)
        return buffers, [
            Interval(f"{i}:{b.name}", self.spans[b][0], self.spans[b][1] + 1, b.nbytes) for i, b in enumerate(buffers)
        ]


@dataclass(frozen=True)
class Tables:
    """One flattened step list: int64 arrays [n, 8] and [m, 3], the memory plan, and what each record is, for people."""

    records: np.ndarray
    relocations: np.ndarray
    slots: int
    plan: MemoryPlan
    arena_map: list[tuple[str, int, int, int, int]]  # name, first step, end step, offset, bytes
    labels: list[str]


def nanoseconds(cost: Cost) -> int:
    """A rough time on one thread."""
    return max(200, int(max(cost.flops / FLOPS_PER_NS, cost.bytes / BYTES_PER_NS)))


def grid_size(kernel: Kernel) -> int:
    """Indices in the kernel's grid, which must be known by now."""
    grid = kernel.grid
    if isinstance(kernel, LoopKernel) and isinstance(grid, Const):
        return int(grid.value)
    assert isinstance(grid, int), f"kernel {kernel.label} has a grid known only at run time"
    return grid


class Flattener:
    """Collects the records of one step list; `finish` plans its memory."""

    def __init__(
        self,
        program: LoweredProgram,
        functions: dict[Kernel, int],
        persistent: dict[VirtualBuffer, int],
        pieces: Sequence[VirtualBuffer] = (),
    ) -> None:
        self._functions = functions
        self._persistent = persistent
        self._first_output = FIRST_ARGUMENT + len(program.inputs)
        self._first_parameter = self._first_output + len(program.outputs)
        first_piece = self._first_parameter + len(program.parameters)
        self._pieces = {buffer: first_piece + i for i, buffer in enumerate(pieces)}
        self._records: list[list[int]] = []
        self._slots: list[Operand] = []
        self._labels: list[str] = []
        self._lifetimes = Lifetimes()

    def add(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self._lifetimes.now += 1
            if isinstance(step, Launch):
                self._lifetimes.touch((*step.reads, *step.writes, *(o.buffer for o in step.operands)))
                grid = grid_size(step.kernel)
                if grid:
                    cost = nanoseconds(step.kernel.cost)
                    function = self._functions[step.kernel]
                    self._emit(LAUNCH, step.operands, function=function, grid=grid, cost=cost, label=step.kernel.label)
            elif isinstance(step, Copy):
                self._lifetimes.touch((step.source.buffer, step.destination.buffer))
                if step.nbytes:
                    cost = nanoseconds(Cost(bytes=2 * step.nbytes))
                    self._emit(COPY, (step.destination, step.source), grid=step.nbytes, cost=cost, label="copy")
            elif isinstance(step, Branch):
                self._branch(step)
            else:
                self._repeat(step)

    def _branch(self, step: Branch) -> None:
        self._lifetimes.touch((step.predicate.buffer,))
        test = self._emit(BRANCH, (step.predicate,), label="branch")
        self.add(step.then)
        leave = self._emit(JUMP, (), label="jump")
        test[6] = len(self._records)
        self.add(step.orelse)
        leave[6] = len(self._records)

    def _repeat(self, step: Repeat) -> None:
        start, first = self._lifetimes.now, len(self._records)
        self.add(step.test)
        self._lifetimes.touch((step.predicate.buffer,))
        test = self._emit(BRANCH, (step.predicate,), label="loop test")
        self.add(step.body)
        back = self._emit(JUMP, (), label="loop back")
        back[6] = first
        test[6] = len(self._records)
        self._lifetimes.now += 1
        self._lifetimes.loops.append((start, self._lifetimes.now))

    def _emit(
        self,
        opcode: int,
        operands: tuple[Operand, ...],
        *,
        function: int = 0,
        grid: int = 0,
        cost: int = 20,
        label: str,
    ) -> list[int]:
        record = [opcode, function, len(self._slots), grid, 1, cost, 0, 0]
        self._slots += operands
        self._records.append(record)
        self._labels.append(label)
        return record

    def finish(self, *, debug: bool) -> Tables:
        """The tables; debug: give every value bytes of its own, with red zones between."""
        self._emit(END, (), label="end")
        buffers, intervals = self._lifetimes.intervals()
        if debug:
            plan = plan_apart(intervals, alignment=ALIGNMENT)
        else:
            plan = plan_memory(intervals, alignment=ALIGNMENT, budget_s=PLAN_BUDGET_S)
        offsets = {b: plan.offsets[v.name] for b, v in zip(buffers, intervals, strict=True)}
        relocations = [(i, *self._place(operand, offsets)) for i, operand in enumerate(self._slots)]
        arena_map = [(b.name, v.start, v.end, offsets[b], v.size) for b, v in zip(buffers, intervals, strict=True)]
        return Tables(
            np.array(self._records, np.int64).reshape(-1, RECORD_WORDS),
            np.array(relocations, np.int64).reshape(-1, 3),
            len(self._slots),
            plan,
            arena_map,
            self._labels,
        )

    def _place(self, operand: Operand, offsets: dict[VirtualBuffer, int]) -> tuple[int, int]:
        buffer, offset = operand.buffer, operand.byte_offset
        if buffer.kind == "temporary":
            return ARENA, offsets[buffer] + offset
        if buffer in self._pieces:
            return self._pieces[buffer], offset
        if buffer.kind in ("persistent", "constant"):
            return PERSISTENT, self._persistent[buffer] + offset
        first = {"input": FIRST_ARGUMENT, "output": self._first_output, "parameter": self._first_parameter}[buffer.kind]
        return first + buffer.index, offset


def buffers_of(steps: Iterable[Step]) -> Iterable[VirtualBuffer]:
    """Every buffer that a step list names, with repeats; predicates aside, which are some step's result."""
    for step in walk_steps(steps):
        if isinstance(step, Launch):
            yield from (o.buffer for o in step.operands)
        else:
            yield from (step.source.buffer, step.destination.buffer)


def place_persistent(
    program: LoweredProgram, apart: Collection[VirtualBuffer]
) -> tuple[dict[VirtualBuffer, int], int, bytes]:
    """Offsets of constants (first) and persistent buffers, some left `apart`; their end; the bytes of the constants."""
    found = dict.fromkeys((*buffers_of(program.setup), *buffers_of(program.steps)))
    constants = [b for b in found if b.kind == "constant"]
    offsets: dict[VirtualBuffer, int] = {}
    end = 0
    for buffer in (*constants, *(b for b in found if b.kind == "persistent" and b not in apart)):
        offsets[buffer] = end
        end += -(-buffer.nbytes // ALIGNMENT) * ALIGNMENT
    data = bytearray(max((offsets[b] + b.nbytes for b in constants), default=0))
    for b in constants:
        data[offsets[b] : offsets[b] + b.nbytes] = b.data
    return offsets, end, bytes(data)


def packed_pieces(program: LoweredProgram) -> dict[VirtualBuffer, dict[str, Any]]:
    """The buffers that setup packs from parameters alone, with what tells whether two programs' are the same.

    nbytes; packing: a digest of the kernels and places that make the piece; sources: the parameters it is made of.
    """
    packs: dict[VirtualBuffer, list[Launch]] = {}
    other: set[VirtualBuffer] = set()
    for step in program.setup:
        if isinstance(step, Launch) and step.sources == ("pack",) and step.operands[0].buffer.kind == "parameter":
            packs.setdefault(step.operands[1].buffer, []).append(step)
        else:
            other.update(buffers_of([step]))
    return {
        buffer: {
            "nbytes": buffer.nbytes,
            "packing": hashlib.sha256(repr([_packing(step) for step in steps]).encode()).hexdigest(),
            "sources": [step.operands[0].buffer.index for step in steps],
        }
        for buffer, steps in packs.items()
        if buffer not in other and buffer.kind == "persistent"
    }


def _packing(step: Launch) -> tuple[str, int, int]:
    source, packed = step.operands
    return kernel_identity(step.kernel), source.byte_offset, packed.byte_offset
