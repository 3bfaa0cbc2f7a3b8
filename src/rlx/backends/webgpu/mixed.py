"""Programs of which some parts run on the host: those that the device cannot express, where the user allowed it.

Parts run one after the other; those that depend on weights alone, once, when the weights are bound. What a host part
reads is copied to the host, which waits for the device, and what it computes is copied back; the interpreter runs it
(`rlx.ir.interpret`). Values that pass between parts have device buffers, made when the program is loaded.

Threads. Runs take turns (a lock).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlx.backends.webgpu.executable import WebGpuExecutable, types_of
from rlx.backends.webgpu.memory import WebGpuMemory
from rlx.driver import HOST, Artifact, Buffer, Device
from rlx.errors import DriverError
from rlx.ir import Graph, interpret, parse_text
from rlx.options import Options


class _HostPart:
    """A graph that the interpreter runs between copies from the device and back."""

    def __init__(self, text: str, manifest: Mapping[str, Any]) -> None:
        self.parameters = types_of(manifest["parameters"])
        self.label = manifest["label"]
        self._text = text
        self._graph: Graph | None = None
        if not self.parameters:
            self.bind_parameters({})

    def bind_parameters(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._graph = parse_text(self._text, arrays, origin=self.label)

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        if self._graph is None:
            raise DriverError(f"{self.label} has no parameters bound yet, or was closed")
        arrays = {v.name: b.to(HOST).numpy() for v, b in zip(self._graph.inputs, inputs, strict=True)}
        results = interpret(self._graph, arrays)
        for name, buffer in zip(self._graph.output_names, outputs, strict=True):
            buffer.copy_from(Buffer.from_numpy(np.ascontiguousarray(results[name])))

    def time_kernels(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> list[tuple[str, int]]:
        """The part as one kernel, its copies included, by the host's clock."""
        start = time.perf_counter_ns()
        self.run(inputs, outputs)
        return [(self.label, time.perf_counter_ns() - start)]

    def close(self) -> None:
        self._graph = None


#: A part, and the names of what it reads and writes.
_PlacedPart = tuple[_HostPart | WebGpuExecutable, list[str], list[str]]


class MixedExecutable:
    """A loaded program in parts; see the module's contract, and `rlx.driver.Executable`."""

    def __init__(self, artifact: Artifact, device: Device, options: Options, memory: WebGpuMemory) -> None:
        manifest = artifact.manifest
        self.inputs = types_of(manifest["inputs"])
        self.outputs = types_of(manifest["outputs"])
        self.parameters = types_of(manifest["parameters"])
        self._report = manifest["report"]
        self._lock = threading.Lock()
        self._parts: list[_PlacedPart] = []
        self._once = sum(row["once"] for row in manifest["parts"])  # how many of the parts, the first ones
        for number, row in enumerate(manifest["parts"]):
            part: _HostPart | WebGpuExecutable
            if row["on_host"]:
                part = _HostPart(bytes(artifact.sections[f"{number}.graph"]).decode(), row["manifest"])
            else:
                sections = {name: artifact.sections[f"{number}.{name}"] for name in ("wgsl", "constants")}
                part = WebGpuExecutable(Artifact(artifact.backend, row["manifest"], sections), device, options, memory)
            self._parts.append((part, row["inputs"], row["outputs"]))
        self._between = {
            name: Buffer.empty(type, device, name=f"{name} between parts")
            for name, type in types_of(manifest["between"]).items()
        }
        if not self.parameters:
            self.bind_parameters({})

    def bind_parameters(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Give every part the weights that it reads, once, and run those that need nothing else."""
        for part, _, _ in self._parts:
            if part.parameters:
                part.bind_parameters({name: arrays[name] for name in part.parameters})
        self._each("run", self._parts[: self._once], self._between)

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        """Run the parts; what the device computes last may still be under way on return."""
        self._each("run", self._parts[self._once :], self._values(inputs, outputs))

    def time_kernels(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> list[tuple[str, int]]:
        """Run once: (label, nanoseconds) of every launch, and of every part on the host."""
        parts = self._parts[self._once :]
        return [row for rows in self._each("time_kernels", parts, self._values(inputs, outputs)) for row in rows]

    def _values(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> dict[str, Buffer]:
        """All that parts of one run read and write."""
        values = {f"input{i}": b for i, b in enumerate(inputs)} | {f"output{i}": b for i, b in enumerate(outputs)}
        return self._between | values

    def _each(self, call: str, parts: Sequence[_PlacedPart], values: Mapping[str, Buffer]) -> list[Any]:
        with self._lock:
            return [
                getattr(part, call)([values[n] for n in reads], [values[n] for n in writes])
                for part, reads, writes in parts
            ]

    def report(self) -> Mapping[str, Any]:
        """What the compiler did: dispatch, which names each op on the host, and kernels."""
        return self._report

    def close(self) -> None:
        """Give the memory back; the executable cannot run afterwards."""
        with self._lock:
            for part, _, _ in self._parts:
                part.close()
            for buffer in self._between.values():
                buffer.free()
            self._parts, self._between = [], {}
