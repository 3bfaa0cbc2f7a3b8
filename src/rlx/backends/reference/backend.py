"""The reference backend: programs run in NumPy, one operation after another, as their op records say.

It is slow and right, and it is the smallest complete backend: three files, one a part of the contract. To add a kind of
device, copy them into a package of your own and declare the entry point (`rlx.driver.registry` shows it):

    backend.py     which devices there are, what they are, their memory; cheap to import
    compiler.py    Graph -> Artifact; imported only when something must be compiled, so it may be heavy
    executable.py  Artifact -> something that runs; needs no compiler, so that cached programs start fast

Memory. This device computes in the host's memory, so it hands out `HOST_MEMORY`. A device with memory of its own
implements `rlx.driver.MemoryBackend`, with `host_visible` False.
Threads. Any may call: the backend keeps no state.
Options. There is no instruction set, no thread and no arena here for an option to act on.
"""

from __future__ import annotations

from typing import ClassVar

from rlx.backends.reference.executable import ReferenceExecutable
from rlx.driver import HOST_MEMORY, Artifact, Device, DeviceProperties, HostMemory
from rlx.errors import DriverError
from rlx.options import Options


class ReferenceBackend:
    """One device, `reference:0`. See `rlx.driver.Backend` for what each method promises."""

    kind = "reference"
    compiler = "rlx.backends.reference.compiler"
    precisions = ("f32", "bf16", "int8-dynamic")
    #: What the conformance kit is told (see `rlx.testing.conformance`).
    conformance: ClassVar[dict[str, dict[str, str]]] = {
        "unsupported": {"device_loss/*": "the interpreter computes in the process itself, which cannot lose it"}
    }

    def device_count(self) -> int:
        return 1

    def properties(self, ordinal: int) -> DeviceProperties:
        return DeviceProperties("NumPy interpreter", HOST_MEMORY.capacity_bytes, dlpack_device=(1, 0))

    def memory(self, ordinal: int) -> HostMemory:
        return HOST_MEMORY

    def target_key(self, device: Device, options: Options) -> dict[str, str]:
        """An artefact is the graph's text, the same for every machine: the form of it is all that may change."""
        return {"form": "graph text 1"}

    def load(self, artifact: Artifact, device: Device, options: Options) -> ReferenceExecutable:
        if artifact.backend != self.kind:
            raise DriverError(f"an artefact compiled for {artifact.backend!r} cannot run on {device}")
        return ReferenceExecutable(artifact)


#: What the entry point names.
backend = ReferenceBackend()
