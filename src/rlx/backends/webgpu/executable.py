"""Run a compiled artefact through WebGPU: one encoder and one submission a run.

A `WebGpuExecutable` owns its pipelines, its arena and its persistent memory (constants and what setup made of the
weights); it keeps copies of the parameters on the device. Bind groups are made when first needed and kept for as long
as the buffers of a call stay the same. Where control flow depends on a value, what is encoded so far is submitted and
the host reads the value back; nothing else returns to the host.

`run` returns when the work is submitted: the queue orders it before every later transfer or run on the device, and
whoever reads an output waits for it. Runs of one executable take turns (a lock), so any thread may call.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlx.backends.webgpu.gpu import ALIGNMENT
from rlx.backends.webgpu.memory import WebGpuMemory
from rlx.driver import Artifact, Buffer, Device, DeviceArena
from rlx.driver.planner import MemoryPlan
from rlx.errors import BindingLimit, DriverError
from rlx.ir import TensorType, dtypes
from rlx.options import Options

#: Calls with different buffers whose bind groups are kept.
_KEPT_CALLS = 8


class WebGpuExecutable:
    """A loaded program; see the module's contract."""

    def __init__(self, artifact: Artifact, device: Device, options: Options, memory: WebGpuMemory) -> None:
        manifest = artifact.manifest
        self.device = device
        self.inputs = _types(manifest["inputs"])
        self.outputs = _types(manifest["outputs"])
        self.parameters = _types(manifest["parameters"])
        self._manifest = manifest
        self._memory = memory
        self._gpu = memory.gpu
        if manifest["int64"] and "shader-int64" not in self._gpu.features:
            raise DriverError(f"the artefact needs 64-bit integers in shaders, which {device} lacks")
        self._debug = options.debug_memory
        self._lock = threading.Lock()
        self._sources: list[str] = json.loads(bytes(artifact.sections["wgsl"]))
        self._pipelines: dict[int, tuple[Any, Any]] = {}
        self._layouts: dict[int, Any] = {}
        self._arena = self._new_arena("steps")
        self._persistent = DeviceArena(device, max(manifest["persistent_bytes"], ALIGNMENT))
        constants = bytes(artifact.sections["constants"])
        if constants:
            host = np.frombuffer(constants, np.uint8)
            memory.copy_in(self._persistent.address, host.ctypes.data, host.nbytes)
        self._weights: list[Buffer] = []
        self._calls: dict[tuple[int, ...], list[dict[int, Any]]] = {}
        if not self.parameters:
            self.bind_parameters({})

    def _new_arena(self, name: str) -> DeviceArena:
        facts = self._manifest["lists"][name]
        size = max(facts["arena_bytes"], ALIGNMENT)
        plan = MemoryPlan(facts["offsets"], facts["sizes"], size, facts["lower_bound"], ALIGNMENT)
        return DeviceArena(self.device, plan, debug=self._debug)

    def bind_parameters(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy every parameter to the device and run the setup, once."""
        self._weights = []
        for name, type in self.parameters.items():
            weight = Buffer.empty(type, self.device, name=f"parameter {name}")
            weight.copy_from(Buffer.from_numpy(np.ascontiguousarray(arrays[name])))
            self._weights.append(weight)
        with self._new_arena("setup") as arena:
            spaces = {"arena": self._bytes(arena.address), "persistent": self._bytes(self._persistent.address)}
            spaces |= {f"parameter{i}": self._bytes(w.address) for i, w in enumerate(self._weights)}
            _Walk(self, spaces, {}).run(self._manifest["lists"]["setup"]["steps"])
            arena.check()

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        """Submit one run; buffers are contiguous and of the declared types."""
        with self._lock:
            self._gpu.check()
            if self._debug:
                self._arena.poison()
            copies = [b if self._is_aligned(b) else b.copy() for b in inputs]
            sinks = [b if self._is_aligned(b) else Buffer.empty(b.type, self.device) for b in outputs]
            addresses = tuple(b.address for b in (*copies, *sinks))
            groups = self._calls.pop(addresses, None) or [{}]
            self._calls[addresses] = groups  # the latest stands last
            while len(self._calls) > _KEPT_CALLS:
                del self._calls[next(iter(self._calls))]
            spaces = {"arena": self._bytes(self._arena.address), "persistent": self._bytes(self._persistent.address)}
            for kind, buffers in (("input", copies), ("output", sinks), ("parameter", self._weights)):
                spaces |= {f"{kind}{i}": self._bytes(b.address) for i, b in enumerate(buffers)}
            _Walk(self, spaces, groups[0]).run(self._manifest["lists"]["steps"]["steps"])
            for sink, output in zip(sinks, outputs, strict=True):
                if sink is not output:
                    output.copy_from(sink)
            if self._debug:
                self._arena.check()

    def _is_aligned(self, buffer: Buffer) -> bool:
        return self._memory.place(buffer.address)[1] % ALIGNMENT == 0

    def _bytes(self, address: int) -> tuple[Any, int]:
        return self._memory.place(address)

    def pipeline(self, number: int, bindings: int) -> tuple[Any, Any]:
        """(pipeline, bind group layout) of a shader, compiled by the driver when first run."""
        found = self._pipelines.get(number)
        if found is None:
            gpu = self._gpu
            layout = self._layouts.get(bindings)
            if layout is None:
                compute = gpu.wgpu.ShaderStage.COMPUTE
                entries = [
                    {"binding": i, "visibility": compute, "buffer": {"type": "storage"}} for i in range(bindings)
                ]
                layout = self._layouts[bindings] = gpu.device.create_bind_group_layout(entries=entries)
            try:
                module = gpu.device.create_shader_module(code=self._sources[number])
                pipeline = gpu.device.create_compute_pipeline(
                    layout=gpu.device.create_pipeline_layout(bind_group_layouts=[layout]),
                    compute={"module": module, "entry_point": "main"},
                )
            except gpu.wgpu.GPUError as error:
                raise gpu.failed(error, "compiling a shader") from error
            found = self._pipelines[number] = (pipeline, layout)
        return found

    def bind_group(self, layout: Any, places: Sequence[Sequence[Any]], spaces: Mapping[str, tuple[Any, int]]) -> Any:
        """A bind group over parts of the spaces. Raises BindingLimit for a tensor larger than a shader may see."""
        limit = self._gpu.limits["max-storage-buffer-binding-size"]
        entries = []
        for i, (space, offset, nbytes) in enumerate(places):
            buffer, start = spaces[space]
            size = min(nbytes, buffer.size - start - offset)
            if size > limit:
                raise BindingLimit(
                    f"a kernel reads {size} bytes of {space}, the device's shaders see {limit} at once",
                    where=f"on {self.device}",
                    hint="run a smaller batch, or the model on another device",
                )
            entries.append({"binding": i, "resource": {"buffer": buffer, "offset": start + offset, "size": size}})
        return self._gpu.device.create_bind_group(layout=layout, entries=entries)

    def report(self) -> Mapping[str, Any]:
        """What the compiler did: dispatch, kernels, and the memory plan in bytes."""
        facts = self._manifest["lists"]["steps"]
        return {
            **self._manifest["report"],
            "target": "wgsl",
            "memory": {
                "arena_bytes": facts["arena_bytes"],
                "lower_bound": facts["lower_bound"],
                "persistent_bytes": self._manifest["persistent_bytes"],
                "scratch_bytes": 0,
                "map": facts["arena_map"],
            },
        }

    def close(self) -> None:
        """Give the memory back; the executable cannot run afterwards."""
        with self._lock:
            self._calls.clear()
            self._pipelines.clear()
            for arena in (self._arena, self._persistent):
                arena.close()
            for weight in self._weights:
                weight.free()
            self._weights = []


class _Walk:
    """One pass over a step list. groups: bind groups made before for these spaces, by the step's identity."""

    def __init__(
        self, program: WebGpuExecutable, spaces: Mapping[str, tuple[Any, int]], groups: dict[int, Any]
    ) -> None:
        self._program = program
        self._gpu = program._gpu
        self._spaces = spaces
        self._groups = groups
        self._encoder: Any = None
        self._pass: Any = None

    def run(self, steps: Sequence[Any]) -> None:
        with self._gpu.lock:
            self._gpu.check()
            try:
                self._list(steps)
                self._submit()
            except self._gpu.wgpu.GPUError as error:
                raise self._gpu.failed(error, "running a program") from error

    def _list(self, steps: Sequence[Any]) -> None:
        for step in steps:
            if step[0] == "launch":
                self._launch(step)
            elif step[0] == "branch":
                self._list(step[2] if self._flag(step[1]) else step[3])
            else:
                while True:
                    self._list(step[1])
                    if not self._flag(step[2]):
                        break
                    self._list(step[3])

    def _launch(self, step: Any) -> None:
        _, number, places, (columns, rows), _ = step
        pipeline, layout = self._program.pipeline(number, len(places))
        group = self._groups.get(id(step))
        if group is None:
            group = self._groups[id(step)] = self._program.bind_group(layout, places, self._spaces)
        if self._pass is None:
            self._encoder = self._gpu.device.create_command_encoder()
            self._pass = self._encoder.begin_compute_pass()
        self._pass.set_pipeline(pipeline)
        self._pass.set_bind_group(0, group)
        self._pass.dispatch_workgroups(columns, rows, 1)

    def _submit(self) -> None:
        if self._pass is not None:
            self._pass.end()
            self._gpu.device.queue.submit([self._encoder.finish()])
            self._encoder = self._pass = None

    def _flag(self, place: Sequence[Any]) -> bool:
        """The bool byte at a place, once all that was encoded has run."""
        self._submit()
        buffer, start = self._spaces[place[0]]
        offset = start + place[1]
        word = self._program._memory.read_word(buffer, offset & ~3)
        return bool((word >> (8 * (offset & 3))) & 0xFF)


def _types(rows: Sequence[Sequence[Any]]) -> dict[str, TensorType]:
    return {name: TensorType(tuple(shape), dtypes.by_name(dtype)) for name, dtype, shape in rows}
