"""RLX beside its peers: the same work, inputs and thread counts, in one sitting.

    python bench/run.py [WORKLOAD ...] [--write docs/benchmarks.md] [--rounds 3] [--seconds 1.0] [--threads 1 2]

Without names every workload is measured; a name may be the beginning of several (`minilm`). The page is
written after each workload, so that a run that is cut off leaves what it measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from interleave import HERE, Cell, measure, python
from report import Startup, write_report
from workloads import ALL


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
        packing=float(np.median([r["pack"] for r in warm])),
        first_run=float(np.median([r["first_run"] for r in warm])),
    )


def measure_memory() -> str:
    """Tables of whole models' memory, beside other systems; see `bench/memory.py`."""
    return subprocess.run([sys.executable, HERE / "memory.py"], capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="RLX beside its peers.")
    parser.add_argument("names", nargs="*", help="workloads, or beginnings of their names; all without")
    parser.add_argument("--write", type=Path, help="write the report to this file as well")
    parser.add_argument("--rounds", type=int, default=3, help="processes a system and workload")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of timed runs in each process")
    parser.add_argument("--threads", type=int, nargs="*", help="only these thread counts")
    arguments = parser.parse_args()
    chosen = [w for w in ALL if not arguments.names or w.name.startswith(tuple(arguments.names))]
    if not chosen:
        raise SystemExit(f"no workload is called so; there are: {', '.join(w.name for w in ALL)}")
    cells: list[Cell] = []
    startup = None if arguments.names else measure_startup(arguments.rounds)
    memory = None if arguments.names else measure_memory()
    for workload in chosen:
        for threads in workload.threads:
            if not arguments.threads or threads in arguments.threads:
                cells.append(measure(workload, threads, rounds=arguments.rounds, seconds=arguments.seconds))
                print(cells[-1].line(), flush=True)
                if arguments.write:
                    report = write_report(cells, startup, memory, rounds=arguments.rounds)
                    arguments.write.write_text(report, encoding="utf-8")
    print(write_report(cells, startup, memory, rounds=arguments.rounds))


if __name__ == "__main__":
    main()
