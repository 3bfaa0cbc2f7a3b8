"""Real models on a WebGPU device: whether they agree with the CPU, and how long they take.

    python bench/webgpu_models.py [--device webgpu] [--rounds R] [--minilm DIRECTORY] [--save FILE] [--against FILE]
        [NAME ...]

For each model, once its results agree: `call`, the best time of a call with host arrays in and out; `queued`, that of
one of many runs behind each other, with inputs and outputs on the device; `kernels`, the sum of the launches' times by
the device's clock. The models are those of tests/frontends/models.py, at the sizes given there, and the sentence
encoder in DIRECTORY, at the sizes (1, 128) and (32, 128).

--save: write inputs and the CPU's results to FILE, and run nothing else. --against: compare with such a file, for
machines on which there is no LLVM.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

import rlx
from rlx.driver import Buffer, Device, device_memory
from rlx.errors import ModelWarning
from rlx.options import Options
from rlx.runtime import CompiledGraph

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "frontends"))
from models import MODELS, fresh_inputs  # noqa: E402  # the tests' own list

#: Greatest difference from the CPU, relative to the largest element.
TOLERANCE = 1e-4
ENCODER = ((1, 128), (32, 128))
Arrays = Mapping[str, np.ndarray]
Case = tuple[str, "rlx.frontends.model.Model", dict[str, tuple[int, ...]]]


def cases(names: list[str], minilm: Path | None) -> Iterator[Case]:
    """(name, model, shapes) of every model that is installed."""
    for name, model in MODELS.items():
        path = model.find()
        if path is not None and (name in names if names else not name.startswith("light")):
            yield name, rlx.load(path), model.shapes
    if minilm is not None and (not names or "minilm" in names):
        model = rlx.load(minilm)
        for shape in ENCODER:
            yield f"minilm {shape[0]}x{shape[1]}", model, dict.fromkeys(model.inputs, shape)


def inputs_of(name: str, program: CompiledGraph) -> Arrays:
    """The same inputs wherever this runs."""
    if not name.startswith("minilm"):
        made = fresh_inputs(name, {n: t.sizes for n, t in program.inputs.items()}, 0)
        return {n: np.asarray(array).astype(program.inputs[n].dtype.numpy) for n, array in made.items()}
    rng = np.random.default_rng(0)
    made = {}
    for key, type in program.inputs.items():
        values = rng.integers(1000, 20000, type.sizes) if "ids" in key and "type" not in key else np.ones(type.sizes)
        made[key] = np.asarray(np.zeros(type.sizes) if "type" in key else values).astype(type.dtype.numpy)
    return made


def difference(got: Arrays, expected: Arrays) -> float:
    """The greatest difference of an element, relative to its array's largest."""
    return max(
        float(np.abs(got[n].astype(np.float64) - e).max() / max(np.abs(e).max(), 1e-30)) for n, e in expected.items()
    )


def measure(program: CompiledGraph, inputs: Arrays, rounds: int) -> tuple[float, float, float, int]:
    """Seconds: (call, queued, kernels), and launches of a run."""
    device = program.device
    calls = []
    for _ in range(rounds):
        start = time.perf_counter()
        program.run(inputs)
        calls.append(time.perf_counter() - start)
    feeds = [Buffer.from_numpy(np.ascontiguousarray(inputs[n])).to(device) for n in program.inputs]
    sinks = [Buffer.empty(t, device) for t in program.outputs.values()]
    synchronize = device_memory(device).backend.synchronize
    executable, queued = program.executable, []
    for _ in range(3):
        synchronize()
        start = time.perf_counter()
        for _ in range(rounds):
            executable.run(feeds, sinks)
        synchronize()
        queued.append((time.perf_counter() - start) / rounds)
    timed = [executable.time_kernels(feeds, sinks) for _ in range(min(rounds, 10))]
    kernels = statistics.median(sum(t for _, t in run) for run in timed) * 1e-9
    return min(calls), min(queued), kernels, len(timed[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default="webgpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--against", type=Path)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", ModelWarning)
    saved: dict[str, np.ndarray] = {}
    known = dict(np.load(chosen.against)) if chosen.against else {}
    for name, model, shapes in cases(chosen.names, chosen.minilm):
        if chosen.save or not known:
            on_cpu = rlx.Session("cpu", Options(cache=False)).compile(model, shapes=shapes)
            inputs = inputs_of(name, on_cpu)
            expected = on_cpu.run(inputs)
        else:
            expected = {key.split("|")[2]: a for key, a in known.items() if key.startswith(f"{name}|out|")}
            inputs = {key.split("|")[2]: a for key, a in known.items() if key.startswith(f"{name}|in|")}
        if chosen.save:
            saved |= {f"{name}|in|{key}": array for key, array in inputs.items()}
            saved |= {f"{name}|out|{key}": array for key, array in expected.items()}
            continue
        start = time.perf_counter()
        with rlx.Session(Device(chosen.device), Options(cache=False)).compile(model, shapes=shapes) as program:
            compiled = time.perf_counter() - start
            got = program.run(inputs)
            first = time.perf_counter() - start - compiled
            apart = difference(got, expected)
            on_host = [row for row in program.report.dispatch if row[2] == "host"]
            call, queued, kernels, launches = measure(program, inputs, chosen.rounds)
        print(
            f"{name:18} {'agrees' if apart <= TOLERANCE else 'DIFFERS'} to {apart:.1e}, {len(on_host)} ops on the "
            f"host, {launches:4} launches; compiled in {compiled:6.2f} s, first run {first:6.2f} s; "
            f"call {call * 1e3:8.2f} ms, queued {queued * 1e3:8.2f} ms, kernels {kernels * 1e3:8.2f} ms",
            flush=True,
        )
    if chosen.save:
        np.savez_compressed(chosen.save, **saved)


if __name__ == "__main__":
    main()
