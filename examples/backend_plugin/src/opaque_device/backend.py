"""The backend: which devices there are and what they are; cheap to import. Two of them, each with its own memory."""

from __future__ import annotations

from typing import Any

from opaque_device.executable import OpaqueExecutable
from opaque_device.memory import CAPACITY, OpaqueMemory
from rlx.driver import Artifact, Device, DeviceProperties, Executable
from rlx.errors import DriverError


class OpaqueBackend:
    """See `rlx.driver.Backend` for what each method promises."""

    kind = "opaque"
    compiler = "opaque_device.compiler"

    def __init__(self) -> None:
        # what the conformance kit is to expect, ids of cases with their reasons: nothing is left out, nothing fails
        self.conformance: dict[str, dict[str, str]] = {"unsupported": {}, "expected failure": {}}
        self.memories = [OpaqueMemory(), OpaqueMemory()]

    def device_count(self) -> int:
        return len(self.memories)

    def properties(self, ordinal: int) -> DeviceProperties:
        # 12 is DLPack's kDLExtDev; only the first device has a number there
        return DeviceProperties("Opaque", CAPACITY, {"window": False}, dlpack_device=(12, 0) if ordinal == 0 else None)

    def memory(self, ordinal: int) -> OpaqueMemory:
        return self.memories[ordinal]

    def lose_device(self, ordinal: int) -> None:
        """Lose a device for good, so that the conformance kit can see what happens then."""
        self.memories[ordinal].lost = True

    def target_key(self, device: Device, options: Any) -> dict[str, str]:
        """An artefact is the graph's text, the same for every device."""
        return {"form": "graph text 1"}

    def load(self, artifact: Artifact, device: Device, options: Any) -> Executable:
        if artifact.backend != self.kind:
            raise DriverError(f"an artefact compiled for {artifact.backend!r} cannot run on {device}")
        return OpaqueExecutable(artifact)


#: What the entry point names.
backend = OpaqueBackend()
