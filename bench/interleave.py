"""Measure workloads: every system in fresh processes, in turns, answers compared before any time is believed.

Each round begins with another system, so that a machine which slows down or warms up meets them all alike. The ceilings
are measured in the same rounds, and the best of them counts: a disturbed one would flatter every system.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from workload import Workload

from rlx.backends.cpu.ceiling import measure_ceilings
from rlx.driver import Ceilings

HERE = Path(__file__).parent
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Cell:
    """One workload with one thread count.

    samples: system -> medians, one a process, in seconds. missing: system -> why it has none.
    differences: system -> greatest difference from the judge, relative to the judge's largest element.
    """

    workload: Workload
    threads: int
    ceilings: Ceilings
    samples: Mapping[str, Sequence[float]]
    missing: Mapping[str, str]
    differences: Mapping[str, float]

    def median(self, system: str) -> float:
        return float(np.median(self.samples[system]))

    @property
    def best_peer(self) -> str:
        """The fastest system that is not RLX."""
        return min((s for s in self.samples if not s.startswith("RLX")), key=self.median)

    @property
    def ratio(self) -> float:
        """RLX's time over the best peer's."""
        return self.median("RLX") / self.median(self.best_peer)

    def line(self) -> str:
        """One line for a terminal."""
        times = ", ".join(f"{system} {self.median(system) * 1e3:.3g} ms" for system in self.samples)
        return f"{self.workload.name}, {self.threads} threads: {self.ratio:.2f} of {self.best_peer}; {times}"


def python(*arguments: object, threads: int | None = None) -> str:
    """The last line that a fresh Python process prints. Raises SystemExit with what it complained of.

    threads: what libraries are told that make their threads when they are loaded, as NumPy's BLAS does.
    """
    command = [sys.executable, *map(str, arguments)]
    told = dict.fromkeys(_THREAD_VARIABLES, str(threads)) if threads else {}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=os.environ | told)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def measure(workload: Workload, threads: int, *, rounds: int, seconds: float) -> Cell:
    """All systems, `rounds` processes each, `seconds` of timed runs in each process."""
    samples: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    answers: dict[str, np.ndarray] = {}
    ceilings: list[Ceilings] = []
    names = list(workload.systems)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.npy"
        for turn in range(rounds):
            ceilings.append(measure_ceilings(threads))
            for system in names[turn % len(names) :] + names[: turn % len(names)]:
                if system in missing:
                    continue
                worker = (HERE / "worker.py", workload.name, system, threads, seconds, answer)
                found = json.loads(python(*worker, threads=threads))
                if isinstance(found, str):
                    missing[system] = found
                    continue
                samples.setdefault(system, []).append(float(np.median(found)))
                answers[system] = np.load(answer)
    best = Ceilings(
        threads,
        flops=max(c.flops for c in ceilings),
        read_bytes=max(c.read_bytes for c in ceilings),
        levels=tuple(
            max(same, key=lambda level: level.read_bytes) for same in zip(*(c.levels for c in ceilings), strict=True)
        ),
        copy_bytes=max(c.copy_bytes or 0.0 for c in ceilings),
        products={name: max(c.products[name] for c in ceilings) for name in ceilings[0].products},
    )
    in_order = {system: samples[system] for system in names if system in samples}
    return Cell(workload, threads, best, in_order, missing, _differences(workload, answers))


def _differences(workload: Workload, answers: Mapping[str, np.ndarray]) -> dict[str, float]:
    judge = answers[workload.judge].astype(np.float64)
    scale = float(np.abs(judge).max())
    found = {system: float(np.abs(answer - judge).max()) / scale for system, answer in answers.items()}
    wrong = {system: gap for system, gap in found.items() if not gap <= workload.tolerance}
    if wrong:
        raise SystemExit(
            f"{workload.name}: answers differ from {workload.judge}'s by more than {workload.tolerance}: {wrong}"
        )
    return found
