"""Run a compiled artefact through WebGPU: one encoder and one submission a run, control flow aside (see `walk`).

A `WebGpuExecutable` owns its pipelines, its arena and its persistent memory (constants and what setup made of the
weights); it keeps copies of the parameters on the device. Pipelines and bind groups are made when first needed; bind
groups are kept for as long as the buffers of a call stay the same.

Donation. An output of `in_inputs` is computed in the memory of a donated input, and copied from there where the memory
given for it is elsewhere.

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
from rlx.backends.webgpu.shader import shader_module
from rlx.backends.webgpu.timestamps import Timestamps
from rlx.backends.webgpu.walk import Prepared, Walk
from rlx.driver import Artifact, Buffer, Device, DeviceArena
from rlx.driver.file_map import let_pages_go
from rlx.driver.planner import MemoryPlan
from rlx.errors import DriverError
from rlx.ir import TensorType, dtypes
from rlx.options import Options

#: Calls with different buffers whose bind groups are kept.
_KEPT_CALLS = 8


class WebGpuExecutable:
    """A loaded program; see the module's contract."""

    def __init__(self, artifact: Artifact, device: Device, options: Options, memory: WebGpuMemory) -> None:
        manifest = artifact.manifest
        self.device = device
        self.inputs = types_of(manifest["inputs"])
        self.outputs = types_of(manifest["outputs"])
        self.parameters = types_of(manifest["parameters"])
        self.in_inputs: dict[str, str] = dict(manifest["in_inputs"])
        self._manifest = manifest
        self._memory = memory
        self._gpu = memory.gpu
        if manifest["int64"] and "shader-int64" not in self._gpu.features:
            raise DriverError(f"the artefact needs 64-bit integers in shaders, which {device} lacks")
        needs, limit = manifest["max_binding_bytes"], self._gpu.limits["max-storage-buffer-binding-size"]
        if needs > limit or manifest["max_buffer_bytes"] != self._gpu.largest_buffer:
            raise DriverError(
                f"the artefact was compiled for bindings of {needs} bytes in buffers of "
                f"{manifest['max_buffer_bytes']}, {device} has {limit} and {self._gpu.largest_buffer}"
            )
        self._debug = options.debug_memory
        self._lock = threading.RLock()
        self._own: tuple[list[Buffer], list[Buffer]] | None = None  # what host arrays are copied to, and from
        self._sources: list[str] = json.loads(bytes(artifact.sections["wgsl"]))
        self._within = frozenset(manifest["within"])
        self._pipelines: dict[int, tuple[Any, Any]] = {}
        self._layouts: dict[int, Any] = {}
        self._arena = self._new_arena("steps")
        self._persistent = DeviceArena(device, max(manifest["persistent_bytes"], ALIGNMENT))
        constants = bytes(artifact.sections["constants"])
        if constants:
            host = np.frombuffer(constants, np.uint8)
            memory.copy_in(self._persistent.address, host.ctypes.data, host.nbytes)
        self._weights: list[Buffer] = []
        self._calls: dict[tuple[int, ...], Prepared] = {}  # by the buffers' addresses
        self._timestamps: Timestamps | None = None
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
            let_pages_go(arrays[name])
            self._weights.append(weight)
        with self._new_arena("setup") as arena:
            spaces = {"arena": arena.address, "persistent": self._persistent.address, **self._spaces(self._weights)}
            Walk(self._memory, self, spaces, {}).run(self._manifest["lists"]["setup"]["steps"])
            arena.check()

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        """Submit one run; buffers are contiguous and of the declared types."""
        self._run(inputs, outputs, None)

    def run_arrays(self, arrays: Sequence[np.ndarray]) -> None:
        """One run on host arrays, inputs then outputs: C-contiguous. All outputs are read back together."""
        with self._lock:
            if self._own is None:
                feeds = [Buffer.empty(t, self.device, name="a program's own copy") for t in self.inputs.values()]
                self._own = feeds, self._places(feeds, [None] * len(self.outputs))
            feeds, results = self._own
            for buffer, array in zip(feeds, arrays, strict=False):
                self._memory.copy_in(buffer.address, array.ctypes.data, array.nbytes)
            self._run(feeds, results, None)
            taken = zip(results, arrays[len(feeds) :], strict=True)
            self._memory.copy_all_out([(a.ctypes.data, b.address, a.nbytes) for b, a in taken])

    def time_kernels(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> list[tuple[str, int]]:
        """Run once, a pass a kernel: (label, nanoseconds by the device's clock) in the order they ran.

        Raises RunError where the adapter has no timestamps.
        """
        with self._lock:
            if self._timestamps is None:
                self._timestamps = Timestamps(self._gpu)
            self._timestamps.times.clear()
        self._run(inputs, outputs, self._timestamps)
        return list(self._timestamps.times)

    def _run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], timestamps: Timestamps | None) -> None:
        with self._lock:
            self._gpu.check()
            if self._debug:
                self._arena.poison()
            copies = [b if self._is_bindable(b) else b.copy() for b in inputs]
            sinks = self._places(copies, [b if self._is_bindable(b) else None for b in outputs])
            addresses = tuple(b.address for b in (*copies, *sinks))
            prepared = self._calls.pop(addresses, None)
            if prepared is None:
                prepared = {}
            self._calls[addresses] = prepared  # the latest stands last
            while len(self._calls) > _KEPT_CALLS:
                del self._calls[next(iter(self._calls))]
            spaces = {"arena": self._arena.address, "persistent": self._persistent.address}
            spaces |= self._spaces(self._weights)
            for kind, buffers in (("input", copies), ("output", sinks)):
                spaces |= {f"{kind}{i}": b.address for i, b in enumerate(buffers)}
            Walk(self._memory, self, spaces, prepared, timestamps).run(self._manifest["lists"]["steps"]["steps"])
            for sink, output in zip(sinks, outputs, strict=True):
                if sink.address != output.address:
                    output.copy_from(sink)
            if self._debug:
                self._arena.check()

    def _places(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer | None]) -> list[Buffer]:
        """Where a run writes each output: in its donated input, in the Buffer given for it, or in one of its own."""
        donated = dict(zip(self.inputs, inputs, strict=True))
        return [
            donated[self.in_inputs[name]] if name in self.in_inputs else given or Buffer.empty(type, self.device)
            for (name, type), given in zip(self.outputs.items(), outputs, strict=True)
        ]

    def _is_bindable(self, buffer: Buffer) -> bool:
        """Whether it lies as the plan supposes: at an aligned offset, in one wgpu buffer or from one's start."""
        place, offset = self._memory.place(buffer.address)
        return offset % ALIGNMENT == 0 and (offset == 0 or offset + buffer.type.nbytes <= place.size)

    @staticmethod
    def _spaces(weights: Sequence[Buffer]) -> dict[str, int]:
        return {f"parameter{i}": w.address for i, w in enumerate(weights)}

    def prepare(self, step: Sequence[Any], spaces: Mapping[str, int]) -> tuple[Any, Any]:
        """(pipeline, bind group) of a launch step; the driver compiles its shader when it is first run."""
        _, number, places, _, _ = step
        pipeline, layout = self._pipeline(number, len(places))
        entries = []
        for i, (space, offset, nbytes) in enumerate(places):
            buffer, start = self._memory.place(spaces[space] + offset)
            assert start + nbytes <= buffer.size, "the plan cuts where buffers end"
            entries.append({"binding": i, "resource": {"buffer": buffer, "offset": start, "size": nbytes}})
        return pipeline, self._gpu.device.create_bind_group(layout=layout, entries=entries)

    def _pipeline(self, number: int, bindings: int) -> tuple[Any, Any]:
        """(pipeline, bind group layout) of a shader."""
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
                module = shader_module(gpu, self._sources[number], within=number in self._within)
                pipeline = gpu.device.create_compute_pipeline(
                    layout=gpu.device.create_pipeline_layout(bind_group_layouts=[layout]),
                    compute={"module": module, "entry_point": "main"},
                )
            except gpu.wgpu.GPUError as error:
                raise gpu.failed(error, "compiling a shader") from error
            found = self._pipelines[number] = (pipeline, layout)
        return found

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
            self._timestamps = None
            for arena in (self._arena, self._persistent):
                arena.close()
            feeds, results = self._own or ([], [])
            for buffer in (*self._weights, *feeds, *(r for r in results if r not in feeds)):
                buffer.free()
            self._weights, self._own = [], None


def types_of(rows: Sequence[Sequence[Any]]) -> dict[str, TensorType]:
    """Names -> types, from a manifest's rows."""
    return {name: TensorType(tuple(shape), dtypes.by_name(dtype)) for name, dtype, shape in rows}
