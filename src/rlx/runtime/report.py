"""What the compiler did with a graph, for people and for tools.

A report is plain data made from the artefact: it costs nothing at run time and needs no compiler. `text()` is for a
terminal, `data` is JSON-able.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlx import driver
from rlx.driver import Interval, MemoryPlan


@dataclass(frozen=True)
class MemoryReport:
    """Bytes that one program takes beside its weights, inputs and outputs.

    arena_bytes: the plan's size for values inside a run. lower_bound: the most that are ever alive at once.
    persistent_bytes: constants, and what setup made of the weights; `shared_bytes` of it lie where an earlier program
    has packed them. scratch_bytes: for all threads.
    map: (value, first step, end step, offset, bytes), in order of first step.
    """

    arena_bytes: int
    lower_bound: int
    persistent_bytes: int
    scratch_bytes: int
    map: tuple[tuple[str, int, int, int, int], ...]
    shared_bytes: int = 0

    @property
    def ratio(self) -> float:
        """Plan size over its lower bound; 1.0 cannot be improved."""
        return self.arena_bytes / self.lower_bound if self.lower_bound else 1.0

    def text(self) -> str:
        """What is alive when the arena is fullest, and where it lies."""
        return driver.memory_map(*self._plan())

    def svg(self) -> str:
        """The arena over the program's steps, as an SVG document; see `rlx.driver.memory_map_svg`."""
        return driver.memory_map_svg(*self._plan())

    def _plan(self) -> tuple[MemoryPlan, list[Interval]]:
        values = [Interval(f"{i}:{row[0]}", row[1], row[2], row[4]) for i, row in enumerate(self.map)]
        offsets = {v.name: row[3] for v, row in zip(values, self.map, strict=True)}
        sizes = {v.name: v.size for v in values}
        return MemoryPlan(offsets, sizes, self.arena_bytes, self.lower_bound, alignment=1), values


@dataclass(frozen=True)
class KernelReport:
    """One launch: the native function, what it computes, the graph ops fused into it, and its least work.

    factors: dtype of its multiplications' factors, by name, which says how fast the machine can do them.
    schedule: in words, where tuning found a better one than the planner's; else empty.
    """

    kernel: str
    label: str
    ops: tuple[str, ...]
    flops: float
    bytes: float
    location: str
    factors: str = "f32"
    schedule: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that is known about a compiled program.

    dispatch: (composite op, where it came from, "native" or "inlined"). steps and setup: launches in program order.
    cache: "compiled", "memory" or "disk": where the artefact came from. seconds: what getting the program took;
    binding_seconds: of these, giving it its weights, packing them included.
    """

    dispatch: tuple[tuple[str, str, str], ...]
    steps: tuple[KernelReport, ...]
    setup: tuple[KernelReport, ...]
    memory: MemoryReport
    cache: str
    seconds: float
    binding_seconds: float
    data: Mapping[str, Any]

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the distinct native kernels."""
        return tuple(dict.fromkeys(s.kernel for s in (*self.setup, *self.steps)))

    @property
    def fusion(self) -> tuple[tuple[str, ...], ...]:
        """The graph ops of each launch, in program order."""
        return tuple(s.ops for s in self.steps)

    def text(self) -> str:
        """A page for a terminal."""
        memory = self.memory
        lines = [
            f"{len(self.steps)} launches of {len({s.kernel for s in self.steps})} distinct kernels, "
            f"{len(self.setup)} launches in setup; {self.cache} in {self.seconds:.3f} s, "
            f"{self.binding_seconds:.3f} of them binding weights",
            f"arena {memory.arena_bytes:,} bytes (lower bound {memory.lower_bound:,}, ratio {memory.ratio:.3f}), "
            f"persistent {memory.persistent_bytes:,}, scratch {memory.scratch_bytes:,}",
        ]
        ways = Counter((op, way) for op, _, way in self.dispatch)
        lines += [f"composite {op}: {way} x{count}" for (op, way), count in sorted(ways.items())]
        lines += [
            f"{i:4}  {s.kernel:12} {s.label}{f' (tuned: {s.schedule})' if s.schedule else ''}"
            for i, s in enumerate(self.steps)
        ]
        return "\n".join(lines)


def make_report(data: Mapping[str, Any], *, cache: str, seconds: float, binding_seconds: float) -> Report:
    """From an executable's `report()`; parts that a backend does not tell are empty."""
    memory = data.get("memory", {})
    return Report(
        dispatch=tuple((a, b, c) for a, b, c in data.get("dispatch", ())),
        steps=tuple(_kernel(row) for row in data.get("steps", ())),
        setup=tuple(_kernel(row) for row in data.get("setup", ())),
        memory=MemoryReport(
            arena_bytes=memory.get("arena_bytes", 0),
            lower_bound=memory.get("lower_bound", 0),
            persistent_bytes=memory.get("persistent_bytes", 0),
            shared_bytes=memory.get("shared_bytes", 0),
            scratch_bytes=memory.get("scratch_bytes", 0),
            map=tuple(tuple(row) for row in memory.get("map", ())),
        ),
        cache=cache,
        seconds=seconds,
        binding_seconds=binding_seconds,
        data=data,
    )


def _kernel(row: Mapping[str, Any]) -> KernelReport:
    return KernelReport(**{**row, "ops": tuple(row["ops"])})
