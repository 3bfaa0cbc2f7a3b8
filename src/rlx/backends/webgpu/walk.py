"""One pass over a program's steps: launches are encoded, and submitted together.

Where control flow depends on a value, what is encoded so far is submitted and the host reads the value back; nothing
else returns to the host. A timed walk gives each launch a pass of its own, with a timestamp at either end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rlx.backends.webgpu.gpu import Gpu
from rlx.backends.webgpu.memory import WebGpuMemory
from rlx.backends.webgpu.timestamps import Timestamps

#: Name of a space -> address of its start.
Spaces = Mapping[str, int]
#: A launch's pipeline and bind group, by the step's identity.
Prepared = dict[int, tuple[Any, Any]]


class Launches(Protocol):
    """What makes a launch step ready."""

    def prepare(self, step: Sequence[Any], spaces: Spaces) -> tuple[Any, Any]:
        """(pipeline, bind group)."""
        ...


class Walk:
    """A walk over step lists, for one run.

    prepared: what earlier walks over the same spaces made ready; grows. timestamps: given for a timed walk.
    """

    def __init__(
        self,
        memory: WebGpuMemory,
        launches: Launches,
        spaces: Spaces,
        prepared: Prepared,
        timestamps: Timestamps | None = None,
    ) -> None:
        self._memory = memory
        self._gpu: Gpu = memory.gpu
        self._launches = launches
        self._spaces = spaces
        self._prepared = prepared
        self._timestamps = timestamps
        self._encoder: Any = None
        self._pass: Any = None
        self._pipeline: Any = None

    def run(self, steps: Sequence[Any]) -> None:
        """Submit all steps. Raises DeviceLost."""
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
        found = self._prepared.get(id(step))
        native = self._gpu.native if found is not None and self._timestamps is None else None
        if found is None:
            found = self._prepared[id(step)] = self._launches.prepare(step, self._spaces)
        pipeline, group = found
        if self._encoder is None:
            self._encoder = self._gpu.device.create_command_encoder()
        if self._timestamps is not None:
            self._end_pass()
            self._pass = self._encoder.begin_compute_pass(timestamp_writes=self._timestamps.next(step[4]))
        elif self._pass is None:
            self._pass = self._encoder.begin_compute_pass()
        columns, rows = step[3]
        if native is not None:  # encoded before: checked then, and 3 us less here
            library, handle = native.lib, self._pass._internal
            if pipeline is not self._pipeline:
                library.wgpuComputePassEncoderSetPipeline(handle, pipeline._internal)
            library.wgpuComputePassEncoderSetBindGroup(handle, 0, group._internal, 0, native.ffi.NULL)
            library.wgpuComputePassEncoderDispatchWorkgroups(handle, columns, rows, 1)
        else:
            if pipeline is not self._pipeline:
                self._pass.set_pipeline(pipeline)
            self._pass.set_bind_group(0, group)
            self._pass.dispatch_workgroups(columns, rows, 1)
        self._pipeline = pipeline
        if self._timestamps is not None and self._timestamps.is_full:
            self._submit()

    def _end_pass(self) -> None:
        if self._pass is not None:
            self._pass.end()
            self._pass = self._pipeline = None

    def _submit(self) -> None:
        if self._encoder is None:
            return
        self._end_pass()
        if self._timestamps is not None:
            self._timestamps.resolve(self._encoder)
        commands = self._encoder.finish()
        self._encoder = None
        with self._gpu.lock:
            self._gpu.check()
            self._gpu.device.queue.submit([commands])
        if self._timestamps is not None:
            self._timestamps.take(self._memory)

    def _flag(self, place: Sequence[Any]) -> bool:
        """The bool byte at a place, once all that was encoded has run."""
        self._submit()
        buffer, offset = self._memory.place(self._spaces[place[0]] + place[1])
        word = self._memory.read_word(buffer, offset & ~3)
        return bool((word >> (8 * (offset & 3))) & 0xFF)
