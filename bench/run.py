"""RLX beside its peers: the same work, inputs and thread counts, in one sitting.

    python bench/run.py [NAME ...] [--write docs/benchmarks.md] [--rounds 3] [--most 5] [--seconds 0.4] [--threads 1 2]

Without names everything is measured; a name is a workload's, or the beginning of several (`minilm`), or `startup` or
`memory`. The page is written after each measurement, so that a run which is cut off leaves what it measured, and the
measurements beside it, in a JSON file of the same name: so a cell can be measured again without the others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from interleave import HERE, measure
from report import write_report
from results import Results
from workloads import ALL


def printed(script: str, *arguments: object) -> str:
    """What one of the other benchmarks prints: tables in Markdown. Raises SystemExit where it fails."""
    command = [sys.executable, HERE / script, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench/{script} failed")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="RLX beside its peers.")
    parser.add_argument("names", nargs="*", help="workloads, or beginnings of their names; startup; memory")
    parser.add_argument("--write", type=Path, help="the page to write; measurements are kept beside it")
    parser.add_argument("--rounds", type=int, default=3, help="processes a system and workload, at least")
    parser.add_argument("--most", type=int, default=5, help="the same where they disagree")
    parser.add_argument("--seconds", type=float, default=0.4, help="seconds of timed runs in each process")
    parser.add_argument("--threads", type=int, nargs="*", help="only these thread counts")
    asked = parser.parse_args()
    chosen = [w for w in ALL if not asked.names or w.name.startswith(tuple(asked.names))]
    texts = [part for part in ("startup", "memory") if not asked.names or part in asked.names]
    if not chosen and not texts:
        raise SystemExit(f"nothing is called so; there are: {', '.join(w.name for w in ALL)}, startup, memory")
    results = Results.read(asked.write.with_suffix(".json") if asked.write else None)

    def keep() -> None:
        if asked.write:
            results.write()
            asked.write.write_text(write_report(results, ALL), encoding="utf-8")

    if "startup" in texts:
        results.startup = printed("startup.py", "--rounds", asked.rounds)
        print(results.startup, flush=True)
        keep()
    if "memory" in texts:
        results.memory = printed("memory.py")
        print(results.memory, flush=True)
        keep()
    for workload in chosen:
        for threads in workload.threads:
            if not asked.threads or threads in asked.threads:
                found = measure(workload, threads, rounds=asked.rounds, most=asked.most, seconds=asked.seconds)
                print(results.add(found).line(), flush=True)
                keep()


if __name__ == "__main__":
    main()
