"""Each kernel of a program beside its own limit: what the machine would need at least, and what was taken.

`measure_roofline` runs a program kernel by kernel a few times and takes each launch's median. A launch's limit follows
from its operations and bytes, which the compiler counted, and from measured ceilings (`rlx.driver.Ceilings`): bytes are
charged at the rate of the nearest cache that could hold all that the launch touches, so that a limit is never too high,
and weights that come from further away show as a small share. `lost` is the time above the limit, which is what a
faster kernel could win; launches are listed by it.

Timing one launch at a time costs about a microsecond each, so the sum is a little above a run's time; programs of tiny
kernels are better judged as a whole. One thread at a time, as the program's runs.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from rlx.driver import Buffer, Ceilings
from rlx.errors import RunError
from rlx.runtime.program import CompiledGraph
from rlx.runtime.report import KernelReport


@runtime_checkable
class TimedExecutable(Protocol):
    """An executable that can run kernel by kernel, telling how long each took."""

    def time_kernels(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> list[tuple[str, int]]:
        """Run once: (label, nanoseconds) of each launch, in the order they ran."""
        ...


@dataclass(frozen=True)
class KernelShare:
    """One launch of the program's text: `step` counts launches in program order.

    seconds: median time of a run's launches of it together (a loop's body is launched many times), `launches` of them.
    least: seconds that they would need at the ceilings. bound: which ceiling that is.
    """

    step: int
    report: KernelReport
    launches: int
    seconds: float
    least: float
    bound: str

    @property
    def lost(self) -> float:
        """Seconds above the limit."""
        return max(0.0, self.seconds - self.least)

    @property
    def share(self) -> float:
        """Of its limit: 1.0 cannot be improved."""
        return self.least / self.seconds


@dataclass(frozen=True)
class Roofline:
    """All launches of one program, the one with most time to win first."""

    ceilings: Ceilings
    kernels: tuple[KernelShare, ...]

    @property
    def seconds(self) -> float:
        """Time of all launches."""
        return sum(k.seconds for k in self.kernels)

    @property
    def least(self) -> float:
        """Time of all launches, were each at its limit."""
        return sum(k.least for k in self.kernels)


def measure_roofline(
    program: CompiledGraph, inputs: Mapping[str, np.ndarray], ceilings: Ceilings, *, runs: int = 5
) -> Roofline:
    """Time every launch on these inputs, host arrays as `CompiledGraph.run` takes them; `runs` runs after a first one.

    Raises RunError where the program's backend cannot time kernels.
    """
    executable = program.executable
    if not isinstance(executable, TimedExecutable):
        raise RunError(f"programs on {program.device} cannot time their kernels")
    feeds = [Buffer.from_numpy(np.ascontiguousarray(inputs[name])).to(program.device) for name in program.inputs]
    sinks = [Buffer.empty(type, program.device) for type in program.outputs.values()]
    executable.time_kernels(feeds, sinks)
    taken: dict[int, list[list[int]]] = defaultdict(list)
    for _ in range(runs):
        for step, times in _by_step(program.report.steps, executable.time_kernels(feeds, sinks)).items():
            taken[step].append(times)
    shares = [
        _share(step, program.report.steps[step], statistics.median(map(sum, each)) / 1e9, len(each[0]), ceilings)
        for step, each in taken.items()
    ]
    return Roofline(ceilings, tuple(sorted(shares, key=lambda share: -share.lost)))


def _share(step: int, report: KernelReport, seconds: float, launches: int, ceilings: Ceilings) -> KernelShare:
    arithmetic, memory = report.flops / ceilings.arithmetic(report.factors), report.bytes / ceilings.rate(report.bytes)
    bound = "arithmetic" if arithmetic > memory else "memory"
    return KernelShare(step, report, launches, seconds, launches * max(arithmetic, memory), bound)


def _by_step(steps: Sequence[KernelReport], times: Sequence[tuple[str, int]]) -> dict[int, list[int]]:
    """Nanoseconds of each step's launches.

    Launches are told apart by label, and those of one label by their turn, which a loop begins again. What has no step
    (copies, branches) is left out.
    """
    labelled: dict[str, list[int]] = defaultdict(list)
    for number, step in enumerate(steps):
        labelled[step.label].append(number)
    seen: dict[str, int] = defaultdict(int)
    found: dict[int, list[int]] = defaultdict(list)
    for label, nanoseconds in times:
        if label in labelled:
            turns = labelled[label]
            found[turns[seen[label] % len(turns)]].append(nanoseconds)
            seen[label] += 1
    return found
