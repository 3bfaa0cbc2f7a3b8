"""RLX beside onnxruntime and PyTorch on MiniLM: the same weights, tokens and thread counts, in one sitting.

    python bench/minilm.py [--write docs/benchmarks.md] [--rounds 5] [--seconds 1.0]

Every measurement is a process of its own (bench/minilm_peers.py). The systems take turns, and each round begins with
another one, so that a machine which slows down or warms up meets them all alike. Answers are compared with PyTorch's
before any time is believed. The ceilings are measured in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from minilm_peers import PEERS
from minilm_report import Cell, Startup, write_report

from rlx.backends.cpu.ceiling import measure_ceilings
from rlx.driver import Ceilings

SIZES = ((1, 16), (1, 128), (32, 128))
THREADS = (1, 2)
#: Greatest difference of any component of a unit vector from PyTorch's, f32.
TOLERANCE = 2e-5
HERE = Path(__file__).parent


def python(*arguments: object) -> str:
    """The last line that a fresh Python process prints. Raises SystemExit with what it complained of."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def measure_cell(batch: int, length: int, threads: int, rounds: int, seconds: float, folder: Path) -> Cell:
    """All systems on one size with one thread count."""
    samples: dict[str, list[float]] = {peer: [] for peer in PEERS}
    answers: dict[str, np.ndarray] = {}
    ceilings: list[Ceilings] = []
    names = list(PEERS)
    for turn in range(rounds):
        ceilings.append(measure_ceilings(threads))
        for peer in names[turn % len(names) :] + names[: turn % len(names)]:
            answer = folder / "answer.npy"
            found = python(HERE / "minilm_peers.py", peer, batch, length, threads, seconds, answer)
            samples[peer].append(float(np.median(json.loads(found))))
            answers[peer] = np.load(answer)
    differences = {peer: float(np.abs(answers[peer] - answers["PyTorch"]).max()) for peer in PEERS}
    wrong = {peer: gap for peer, gap in differences.items() if not gap < TOLERANCE}
    if wrong:
        raise SystemExit(f"answers differ from PyTorch's by more than {TOLERANCE}: {wrong}")
    best = Ceilings(threads, max(c.flops for c in ceilings), max(c.read_bytes for c in ceilings))
    return Cell(batch, length, threads, best, samples, differences)


def measure_startup(rounds: int) -> Startup:
    """Import, compile and first run of MiniLM (1, 128): with an empty cache, and in a second process."""
    cold, warm = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(json.loads(python(HERE / "startup.py", cache)))
            warm.append(json.loads(python(HERE / "startup.py", cache)))
    if {c["cache"] for c in cold} != {"compiled"} or {w["cache"] for w in warm} != {"disk"}:
        raise SystemExit("the compile cache did not do what is being measured")
    return Startup(
        imports=float(np.median([r["import"] for r in cold + warm])),
        cold=float(np.median([r["compile"] for r in cold])),
        warm=float(np.median([r["compile"] for r in warm])),
        first_run=float(np.median([r["first_run"] for r in warm])),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="RLX beside onnxruntime and PyTorch on MiniLM.")
    parser.add_argument("--write", type=Path, help="write the report to this file as well")
    parser.add_argument("--rounds", type=int, default=5, help="processes a system and size")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of timed runs in each process")
    arguments = parser.parse_args()
    startup = measure_startup(min(3, arguments.rounds))
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        for threads in THREADS:
            for batch, length in SIZES:
                cells.append(measure_cell(batch, length, threads, arguments.rounds, arguments.seconds, Path(folder)))
                print(cells[-1].line(), flush=True)
    report = write_report(cells, startup, rounds=arguments.rounds)
    if arguments.write:
        arguments.write.write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
