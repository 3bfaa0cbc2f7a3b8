"""Programs for AArch64 on a machine of another kind: compiled here, run by a Python that qemu emulates.

`make aarch64` brings what it needs into .aarch64 of the repository: the emulator, Debian's Python for AArch64, NumPy.
Bringing and running them needs no root user. The emulated processor has ARMv8.0 and no more: later instructions fault.

The emulated process runs this module. It reads names of folders, a line each; in each it finds an artefact and arrays,
runs the program twice, writes the outputs there and answers "done". It needs no LLVM. `Emulator` owns the process,
starts it at the first run and again after a crash; one thread at a time may use it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlx.backends.cpu.backend import backend
from rlx.driver import Artifact, Buffer, Device
from rlx.errors import RLXError
from rlx.ir import Graph, TensorType, dtypes
from rlx.options import Options

ROOT = Path(__file__).parents[3] / ".aarch64"
PROCESSOR = "cortex-a57"
Arrays = Mapping[str, np.ndarray]


class EmulationError(RLXError, RuntimeError):
    """The emulated process ended: its program crashed, or its Python raised."""

    code = "RLX-T001"


def available() -> bool:
    """Whether `make aarch64` was run."""
    return (ROOT / "ready").exists()


def compile_for_neon(graph: Graph, options: Options) -> Artifact:
    """The graph's artefact for AArch64; `options.target` is not looked at."""
    from rlx.backends.cpu.compiler import compile_graph

    return compile_graph(graph, Device("cpu"), replace(options, target="neon"))


class Emulator:
    """A process of an AArch64 machine that runs artefacts; see the module's contract."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def compute(self, graph: Graph, inputs: Arrays, options: Options) -> dict[str, np.ndarray]:
        """The graph's outputs on the inputs. Raises EmulationError where the process ends."""
        return self.run(compile_for_neon(graph, options), inputs, {p.name: p.data for p in graph.parameters}, options)

    def run(self, artifact: Artifact, inputs: Arrays, weights: Arrays, options: Options) -> dict[str, np.ndarray]:
        """The outputs of an artefact that was compiled with the same options. Raises EmulationError likewise."""
        manifest = artifact.manifest
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            for section, data in artifact.sections.items():
                (place / f"section.{section}").write_bytes(data)
            for kind, arrays in (("input", inputs), ("parameter", weights)):
                for i, (array, _, _) in enumerate(manifest[f"{kind}s"]):
                    (place / f"{kind}.{i}").write_bytes(np.ascontiguousarray(arrays[array]).tobytes())
            request = {
                "manifest": manifest,
                "sections": [*artifact.sections],
                "threads": options.threads,
                "debug_memory": options.debug_memory,
            }
            (place / "request").write_text(json.dumps(request))
            self._ask(name)
            types = {n: TensorType(tuple(sizes), dtypes.by_name(d)) for n, d, sizes in manifest["outputs"]}
            return {n: _array(place / f"output.{i}", t) for i, (n, t) in enumerate(types.items())}

    def _ask(self, line: str) -> None:
        if self._process is None:
            self._process = self._start()
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        if process.stdout.readline() != "done\n":
            self._process = None
            _, words = process.communicate()
            raise EmulationError(f"the emulated process ended with {process.returncode}: {words[-2000:]}")

    def _start(self) -> subprocess.Popen[str]:
        root = ROOT / "root"
        python = min((root / "usr/bin").glob("python3.[0-9]*"))
        command = [ROOT / "qemu-aarch64-static", "-cpu", PROCESSOR, "-L", root, python, "-S", "-m", __name__]
        paths = f"{Path(__file__).parents[2]}:{root / 'site'}"
        pipe, environment = subprocess.PIPE, {"PYTHONPATH": paths, "PYTHONFAULTHANDLER": "1"}
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)

    def close(self) -> None:
        """End the process. Closing twice is allowed."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _array(place: Path, type_: TensorType) -> np.ndarray:
    return np.frombuffer(place.read_bytes(), type_.dtype.numpy).reshape(type_.sizes).copy()


# -- the emulated half ---------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests until the input ends."""
    for line in sys.stdin:
        _answer(Path(line.rstrip("\n")))
        sys.stdout.write("done\n")
        sys.stdout.flush()


def _answer(place: Path) -> None:
    request = json.loads((place / "request").read_text())
    sections = {name: (place / f"section.{name}").read_bytes() for name in request["sections"]}
    options = Options(threads=request["threads"], debug_memory=request["debug_memory"], cache=False)
    executable = backend.load(Artifact("cpu", request["manifest"], sections), Device("cpu"), options)
    parameters = enumerate(executable.parameters.items())
    executable.bind_parameters({n: _array(place / f"parameter.{i}", t) for i, (n, t) in parameters})
    given = [_array(place / f"input.{i}", t) for i, t in enumerate(executable.inputs.values())]
    results = [np.frombuffer(b"\xfb" * t.nbytes, t.dtype.numpy).copy() for t in executable.outputs.values()]
    results = [r.reshape(t.sizes) for r, t in zip(results, executable.outputs.values(), strict=True)]
    for _ in range(2):
        executable.run([Buffer.from_numpy(a) for a in given], [Buffer.from_numpy(a) for a in results])
    for i, array in enumerate(results):
        (place / f"output.{i}").write_bytes(array.tobytes())
    executable.close()


if __name__ == "__main__":
    serve()
