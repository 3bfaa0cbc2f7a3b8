"""Memory of whole models: RLX beside its peers, each in a process of its own.

    python bench/memory.py [MODEL ...] [--threads 2] [--json FILE]

Models: the MiniLM-L6 sentence encoder for 32 texts of 128 tokens, ResNet-50 for one image, and one step of decoding
with GPT-2 small at a context of 256, all f32. A process imports its library, notes its size, makes the model ready, and
runs it. Reported, in MB above that size: the peak while loading up to the first answer, and the peak of the runs after
it (VmHWM, set back by clear_refs), once what only loading needed is let go and malloc has handed its free memory back.
Resident pages of mapped files count, RLX's mapped weights among them.

RLX, onnxruntime and OpenVINO read a file; PyTorch and JAX are given weights that their process read or drew, so their
loading is not comparable, their running is. `rlx` compiles (and gives LLVM's pages back), `rlx, cached` finds the
program in the compile cache. `planned` is what RLX's plan says before anything runs: arena, scratch, and what its setup
makes of the weights; weights that runs read as they are come on top. Answers are compared with onnxruntime's. Linux
with glibc alone.
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
from functools import partial
from pathlib import Path

import gpt2_model
import numpy as np
import resnet50_model
from workloads import gpt2, minilm, resnet50

BATCH, LENGTH = 32, 128
SYSTEMS = ("onnxruntime", "openvino", "torch", "torch inductor", "jax", "rlx", "rlx, cached")
MODELS = {
    "minilm": "MiniLM-L6, 32 x 128 tokens",
    "resnet50": "ResNet-50, batch 1",
    "gpt2": "GPT-2 small, one token at 256",
}
OUTPUTS = {"minilm": "sentence_embedding", "resnet50": "logits", "gpt2": "logits"}
FEEDS = {
    "minilm": partial(minilm.feeds, BATCH, LENGTH),
    "resnet50": resnet50.feeds,
    "gpt2": gpt2_model.decode_feeds,
}
#: Of the largest answer; sums of some thousand f32 products, in another order.
TOLERANCE = 1e-4
RUNS = 5

Run = Callable[[], np.ndarray]
#: Once the model is ready: a run, and what RLX planned, in bytes.
Ready = tuple[Run, int | None]


def make_rlx(model: str, file: Path, threads: int) -> Ready:
    import rlx

    inputs = gpt2_model.in_place_feeds() if model == "gpt2" else FEEDS[model]()
    caches = [name for name in inputs if name.startswith("past")]
    session = rlx.Session("cpu", rlx.Options(threads=threads))
    program = session.compile(rlx.load(file), {name: array.shape for name, array in inputs.items()}, donate=caches)
    memory = program.report.memory
    planned = memory.arena_bytes + memory.persistent_bytes + memory.scratch_bytes
    if not caches:
        return lambda: program.run(inputs)[OUTPUTS[model]], planned
    result = np.empty((1, 1, gpt2_model.VOCABULARY), np.float32)

    def run() -> np.ndarray:
        program.run(inputs, {"logits": result})
        return result

    return run, planned


def make_onnxruntime(model: str, file: Path, threads: int) -> Ready:
    import onnxruntime

    inputs = FEEDS[model]()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda: session.run([OUTPUTS[model]], inputs)[0], None


def make_openvino(model: str, file: Path, threads: int) -> Ready:
    """Told f32: by default it takes bf16 where the CPU has it."""
    import openvino

    inputs, core = FEEDS[model](), openvino.Core()
    network = core.read_model(file)
    network.reshape({name: array.shape for name, array in inputs.items()})
    hints = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(network, "CPU", {**hints, "INFERENCE_NUM_THREADS": threads}).create_infer_request()
    del network
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)[OUTPUTS[model]], None


def make_torch(model: str, file: Path, threads: int, *, compiled: bool = False) -> Ready:
    make = {"minilm": partial(minilm.pytorch, BATCH, LENGTH), "resnet50": resnet50.pytorch}
    return make.get(model, partial(gpt2.pytorch, True))(threads, compiled=compiled), None


def make_jax(model: str, file: Path, threads: int) -> Ready:
    make = {"minilm": partial(minilm.jax, BATCH, LENGTH), "resnet50": resnet50.jax}
    return make.get(model, partial(gpt2.jax, True))(threads), None


MAKE: dict[str, Callable[[str, Path, int], Ready]] = {
    "onnxruntime": make_onnxruntime,
    "openvino": make_openvino,
    "torch": make_torch,
    "torch inductor": partial(make_torch, compiled=True),
    "jax": make_jax,
    "rlx": make_rlx,
}
#: What a process imports before its size is noted. The others load all at once; RLX loads a reader and a backend when
#: they are asked for, LLVM only to compile.
IMPORTS = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "torch": ("torch",),
    "torch inductor": ("torch", "torch._dynamo", "torch._inductor.compile_fx"),
    "jax": ("jax", "jax.numpy"),
    "rlx": (
        "rlx.runtime",
        "rlx.frontends.onnx.model",
        "rlx.frontends.huggingface.model",
        "rlx.backends.cpu.executable",
    ),
}


def save(folder: Path, model: str) -> dict[str, Path]:
    """Write a model's files: what RLX reads, and what the others read."""
    file = folder / f"{model}.onnx"
    if model == "minilm":
        minilm.save(file)
        return {"rlx": minilm.model_directory(), "others": file}
    if model == "resnet50":
        resnet50_model.save_onnx(file)
        return {"rlx": file, "others": file}
    gpt2_model.save_decode(file)
    gpt2_model.save_decode_in_place(folder / "gpt2-in-place.onnx")
    return {"rlx": folder / "gpt2-in-place.onnx", "others": file}


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
    gpt2_model.weights.cache_clear()
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


def compare(model: str, folder: Path, threads: int) -> dict[str, dict[str, float | None]]:
    """A row a system. Raises SystemExit where one's answer is another than the first's."""
    files = save(folder, model)
    environment = {**os.environ, "RLX_CACHE_DIR": str(folder / "cache")}
    rows: dict[str, dict[str, float | None]] = {}
    expected: np.ndarray | None = None
    for system in SYSTEMS:
        answer, file = folder / "answer.npy", files["rlx" if system.startswith("rlx") else "others"]
        command = [sys.executable, __file__, "--threads", str(threads), "--one", model, system, str(file), str(answer)]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        rows[system] = json.loads(done.stdout.splitlines()[-1])
        got = np.load(answer)
        expected = got if expected is None else expected
        difference = float(np.abs(got - expected).max() / np.abs(expected).max())
        if not difference <= TOLERANCE:
            raise SystemExit(f"{system} differs on {model} by {difference:.1e}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; all where none is named")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--one", nargs=4, metavar=("MODEL", "SYSTEM", "FILE", "ANSWER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        model, system, file, answer = asked.one
        measure(model, system, Path(file), asked.threads, Path(answer))
        return
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for model in asked.models or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            found[model] = rows = compare(model, Path(folder), asked.threads)
        print(f"\n{MODELS[model]}, {asked.threads} threads; MB\n")
        print("| system | after import | loading, beyond that | running, beyond that | running, in all | planned |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for system, row in rows.items():
            planned = "" if row["planned"] is None else f"{row['planned']:.0f}"
            sizes = (row["import"], row["loading"], row["running"], row["import"] + row["running"])
            print(f"| {system} | {' | '.join(f'{size:.0f}' for size in sizes)} | {planned} |", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
