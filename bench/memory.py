"""Memory of whole models: RLX beside onnxruntime and PyTorch, each in a process of its own.

    python bench/memory.py [--threads 2] [--json FILE]

Models: the MiniLM-L6 sentence encoder for 32 texts of 128 tokens, and ResNet-50 for one image, both f32. A process
imports its library, notes its size, makes the model ready, and runs it. Reported, in MB above that size: the peak while
loading up to the first answer, and the peak of the runs after it (VmHWM, set back by clear_refs), once what only
loading needed is let go and malloc has handed its free memory back. Resident pages of mapped files count, RLX's mapped
weights among them.

RLX runs twice: `rlx` compiles (and gives LLVM's pages back), `rlx, cached` finds the program in the compile cache.
`planned` is what its plan says before anything runs: arena, scratch, and what its setup makes of the weights; weights
that runs read as they are come on top. Answers are compared with onnxruntime's. Linux with glibc alone.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import resnet50_model
from workloads import minilm

BATCH, LENGTH = 32, 128
SYSTEMS = ("onnxruntime", "torch", "rlx", "rlx, cached")
MODELS = {"minilm": "MiniLM-L6, 32 x 128 tokens", "resnet50": "ResNet-50, batch 1"}
OUTPUTS = {"minilm": "sentence_embedding", "resnet50": "logits"}
#: Of the largest answer; sums of some thousand f32 products, in another order.
TOLERANCE = 1e-4
RUNS = 5

#: Once the model is ready: a run, and what RLX planned, in bytes.
Ready = tuple[Callable[[], np.ndarray], int | None]


def feeds(model: str) -> dict[str, np.ndarray]:
    return minilm.feeds(BATCH, LENGTH) if model == "minilm" else {"image": resnet50_model.image()}


def make_rlx(model: str, file: Path, threads: int) -> Ready:
    import rlx

    inputs = feeds(model)
    source = minilm.model_directory() if model == "minilm" else file
    session = rlx.Session("cpu", rlx.Options(threads=threads))
    program = session.compile(rlx.load(source), {name: array.shape for name, array in inputs.items()})
    memory = program.report.memory
    planned = memory.arena_bytes + memory.persistent_bytes + memory.scratch_bytes
    return lambda: program.run(inputs)[OUTPUTS[model]], planned


def make_onnxruntime(model: str, file: Path, threads: int) -> Ready:
    import onnxruntime

    inputs = feeds(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda: session.run([OUTPUTS[model]], inputs)[0], None


def make_torch(model: str, file: Path, threads: int) -> Ready:
    import torch

    torch.set_num_threads(threads)
    if model == "minilm":
        return minilm.pytorch(BATCH, LENGTH, threads), None
    network, image = resnet50_model.torch_network(), torch.from_numpy(resnet50_model.image())

    def run() -> np.ndarray:
        with torch.inference_mode():
            return network(image).numpy()

    return run, None


MAKE = {"onnxruntime": make_onnxruntime, "torch": make_torch, "rlx": make_rlx}
#: What a process imports before its size is noted. The others load all at once; RLX loads a reader and a backend when
#: they are asked for, LLVM only to compile.
IMPORTS = {
    "onnxruntime": ("onnxruntime",),
    "torch": ("torch",),
    "rlx": (
        "rlx.runtime",
        "rlx.frontends.onnx.model",
        "rlx.frontends.huggingface.model",
        "rlx.backends.cpu.executable",
    ),
}


def resident(field: str) -> float:
    """A field of this process's status, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {field}: this measures on Linux alone")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(model: str, system: str, file: Path, threads: int, answer: Path) -> None:
    """In a process of its own: print the figures as JSON, save the answer."""
    library = system.partition(",")[0]
    for module in IMPORTS[library]:
        importlib.import_module(module)
    base = resident("VmRSS")
    run, planned = MAKE[library](model, file, threads)
    np.save(answer, run())
    loading = resident("VmHWM") - base
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    forget_peak()
    for _ in range(RUNS):
        run()
    figures = {
        "import": base,
        "loading": loading,
        "running": resident("VmHWM") - base,
        "planned": planned and planned / 2**20,
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--one", nargs=4, metavar=("MODEL", "SYSTEM", "FILE", "ANSWER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        model, system, file, answer = asked.one
        measure(model, system, Path(file), asked.threads, Path(answer))
        return
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {model: Path(folder) / f"{model}.onnx" for model in MODELS}
        minilm.save(files["minilm"])
        resnet50_model.save_onnx(files["resnet50"])
        environment = {**os.environ, "RLX_CACHE_DIR": str(Path(folder) / "cache")}
        for model, file in files.items():
            expected: np.ndarray | None = None
            for system in SYSTEMS:
                answer = Path(folder) / "answer.npy"
                command = [sys.executable, __file__, "--threads", str(asked.threads), "--one", model, system]
                command += [str(file), str(answer)]
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                found.setdefault(model, {})[system] = json.loads(done.stdout)
                got = np.load(answer)
                expected = got if expected is None else expected
                difference = float(np.abs(got - expected).max() / np.abs(expected).max())
                if difference > TOLERANCE:
                    raise SystemExit(f"{system} differs on {model} by {difference:.1e}")
    for model, rows in found.items():
        print(f"\n{MODELS[model]}, {asked.threads} threads; MB\n")
        print("| system | after import | loading, beyond that | running, beyond that | planned |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for system, row in rows.items():
            planned = "" if row["planned"] is None else f"{row['planned']:.0f}"
            print(f"| {system} | {row['import']:.0f} | {row['loading']:.0f} | {row['running']:.0f} | {planned} |")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
