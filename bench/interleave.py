"""Measure a workload: every system in fresh processes, in turns, answers compared before any time is believed.

Each round begins with another system, so that a machine which slows down or warms up meets them all alike, and measures
the ceilings too. A process that other work disturbed is run again, up to twice, and the least disturbed of its runs
counts. Rounds are added while RLX's processes, or the best peer's, do not agree.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cell import Cell, Sample
from results import taken
from workload import Workload

from rlx.backends.cpu.ceiling import measure_ceilings

HERE = Path(__file__).parent
#: Of a processor, taken by others: more than this, and a process is run again.
DISTURBED = 0.1
AGAIN = 2
#: Of the median: processes further apart than this do not agree.
UNSTEADY = 0.05
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def measure(workload: Workload, threads: int, *, rounds: int, most: int, seconds: float) -> Cell:
    """All systems, `rounds` to `most` processes each, `seconds` of timed runs in each process.

    Raises SystemExit where a process fails, or where an answer is not the judge's.
    """
    cell = _round(workload, threads, 0, seconds)
    for turn in range(1, most):
        if turn >= rounds and not cell.unsteady(UNSTEADY):
            break
        cell = cell.joined(_round(workload, threads, turn, seconds))
    return cell


def _round(workload: Workload, threads: int, turn: int, seconds: float) -> Cell:
    """One process a system."""
    samples: dict[str, list[Sample]] = {}
    missing: dict[str, str] = {}
    answers: dict[str, np.ndarray] = {}
    names = list(workload.systems)
    first = turn % len(names)
    ceilings = measure_ceilings(threads)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.npy"
        for system in names[first:] + names[:first]:
            found = _least_disturbed(workload, system, threads, seconds, answer)
            if isinstance(found, str):
                missing[system] = found
            else:
                samples[system] = [found]
                answers[system] = np.load(answer)
    return Cell(
        workload.name,
        threads,
        taken(),
        [f"{datetime.now(UTC):%Y-%m-%d}"],
        [ceilings],
        {system: samples[system] for system in names if system in samples},
        missing,
        _differences(workload, answers),
    )


def _least_disturbed(workload: Workload, system: str, threads: int, seconds: float, answer: Path) -> Sample | str:
    best: Sample | None = None
    for _ in range(1 + AGAIN):
        found = json.loads(
            _python(HERE / "worker.py", workload.name, system, threads, seconds, answer, threads=threads)
        )
        if isinstance(found, str):
            return found
        sample = Sample(float(np.median(found["times"])), min(found["times"]), len(found["times"]), found["others"])
        if best is None or sample.others < best.others:
            best = sample
        if best.others <= DISTURBED:
            break
    assert best is not None  # AGAIN is not negative
    return best


def _python(*arguments: object, threads: int) -> str:
    """The last line that a fresh Python process prints. Raises SystemExit with what it complained of.

    threads: what libraries are told that make their threads when they are loaded, as NumPy's BLAS does.
    """
    command = [sys.executable, *map(str, arguments)]
    told = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=os.environ | told)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


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
