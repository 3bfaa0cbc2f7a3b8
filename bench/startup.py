"""What starting costs, in fresh processes: from `import rlx` to the first answer, cold and from the compile cache.

    python bench/startup.py [--rounds 5] [--threads 2] [--json FILE]
    python bench/startup.py CACHE_DIRECTORY     # MiniLM once: a line of JSON, in seconds

Models: the MiniLM-L6 sentence encoder for one text of 128 tokens, from its Hugging Face directory, and ResNet-50 for
one image, from an ONNX file. A cold process finds an empty cache, a warm one what a cold one left; files are in the
page cache by then, and the modules' byte code was written by a first process, which does not count. NumPy is imported
before the clock starts. Shown are medians over the rounds, in milliseconds of
wall time, and of processor time in parentheses, which a busy machine stretches less:

    import   rlx and what a session needs      load     the model's file
    compile  a program, packing included       first    the first run
    pack     of compile, giving the program its weights, which packs them (wall time alone, as its report tells)
    ready    load and compile but for pack: what a process that has imported rlx waits for a program
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

MODELS = {"minilm": "MiniLM-L6, 1 x 128 tokens", "resnet50": "ResNet-50, batch 1"}
PHASES = ("import", "load", "compile", "first")

Clock = tuple[float, float]


def now() -> Clock:
    return time.perf_counter(), time.process_time()


def measure(model: str, file: Path, threads: int) -> dict[str, Any]:
    """In a process of its own: where the program came from; phases as wall and processor seconds; packing, wall."""
    inputs: dict[str, np.ndarray]
    if model == "minilm":
        ids = np.random.default_rng(1128).integers(1000, 30522, (1, 128))
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    else:
        inputs = {"image": np.random.default_rng(50).standard_normal((1, 3, 224, 224), np.float32)}
    marks = [now()]
    import rlx

    session = rlx.Session("cpu", rlx.Options(threads=threads))
    loader = rlx.load
    marks.append(now())
    network = loader(file)
    marks.append(now())
    program = session.compile(network, {name: array.shape for name, array in inputs.items()})
    marks.append(now())
    program.run(inputs)
    marks.append(now())
    spans = [[after[k] - before[k] for k in (0, 1)] for before, after in pairwise(marks)]
    phases = dict(zip(PHASES, spans, strict=True))
    return {"cache": program.report.cache, "phases": phases, "pack": program.report.binding_seconds}


def start(model: str, file: Path, threads: int, cache: Path, bytecode: Path | None = None) -> dict[str, Any]:
    """What `measure` prints in a process of its own. bytecode: where Python keeps it, if not as it is told to."""
    command = [sys.executable, __file__, "--threads", str(threads), "--one", model, str(file)]
    environment = {**os.environ, "RLX_CACHE_DIR": str(cache)}
    if bytecode:
        environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def cells(rows: list[dict[str, Any]]) -> list[str]:
    """The table's: medians in milliseconds."""
    shown = [
        f"{1e3 * median(r['phases'][p][0] for r in rows):.0f} ({1e3 * median(r['phases'][p][1] for r in rows):.0f})"
        for p in PHASES
    ]
    ready = median(r["phases"]["load"][0] + r["phases"]["compile"][0] - r["pack"] for r in rows)
    return [*shown, *(f"{1e3 * seconds:.0f}" for seconds in (median(r["pack"] for r in rows), ready))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", nargs="?", type=Path, metavar="CACHE_DIRECTORY")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "FILE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one[0], Path(asked.one[1]), asked.threads)))
        return
    from workloads.minilm import model_directory

    if asked.cache:
        row = start("minilm", model_directory(), asked.threads, asked.cache)
        wall = {name: phase[0] for name, phase in row["phases"].items()}
        ready = wall["load"] + wall["compile"]
        line = {"import": wall["import"], "compile": ready, "pack": row["pack"], "first_run": wall["first"]}
        print(json.dumps({**line, "cache": row["cache"]}))
        return
    import resnet50_model

    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {"minilm": model_directory(), "resnet50": Path(folder) / "resnet50.onnx"}
        resnet50_model.save_onnx(files["resnet50"])
        bytecode = Path(folder) / "bytecode"
        for model, file in files.items():
            start(model, file, asked.threads, Path(folder) / "uncounted", bytecode)
        for number in range(asked.rounds):
            for model, file in files.items():
                for state, expected in (("cold", "compiled"), ("warm", "disk")):
                    row = start(model, file, asked.threads, Path(folder) / f"cache{number}", bytecode)
                    if row["cache"] != expected:
                        raise SystemExit(f"{model}, {state}: the program came from {row['cache']!r}, not {expected!r}")
                    found.setdefault(f"{model}, {state}", []).append(row)
    print(f"\n{asked.threads} threads, medians of {asked.rounds} rounds; ms of wall time (of processor time)\n")
    columns = (*PHASES, "pack", "ready")
    print(f"| model | cache | {' | '.join(columns)} |")
    print(f"| --- | --- |{' ---: |' * len(columns)}")
    for name, rows in found.items():
        model, _, state = name.partition(", ")
        print(f"| {MODELS[model]} | {state} | {' | '.join(cells(rows))} |")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
