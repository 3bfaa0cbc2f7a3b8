"""A stranger's device, found through its entry point: two devices with memory that the host cannot read.

Addresses are made up, far from any pointer, so that reading one as host memory cannot go unnoticed.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from typing import Any

from rlx.driver import Artifact, Device, DeviceProperties, Executable

CAPACITY = 1 << 20


class OpaqueMemory:
    host_visible = False
    capacity_bytes = CAPACITY

    def __init__(self) -> None:
        self.next = 1 << 52
        self.ranges: dict[int, bytearray] = {}
        self.calls: list[str] = []

    def allocate(self, nbytes: int, alignment: int) -> int:
        self.next = -(-self.next // alignment) * alignment
        address, self.next = self.next, self.next + nbytes + 4096
        self.ranges[address] = bytearray(nbytes)
        return address

    def free(self, address: int) -> None:
        del self.ranges[address]

    def _place(self, address: int, nbytes: int) -> memoryview:
        starts = sorted(self.ranges)
        start = starts[bisect_right(starts, address) - 1]
        at = address - start
        assert at >= 0
        assert at + nbytes <= len(self.ranges[start])
        return memoryview(self.ranges[start])[at : at + nbytes]

    def copy_in(self, destination: int, host_source: int, nbytes: int) -> None:
        self.calls.append("copy_in")
        self._place(destination, nbytes)[:] = ctypes.string_at(host_source, nbytes)

    def copy_out(self, host_destination: int, source: int, nbytes: int) -> None:
        self.calls.append("copy_out")
        ctypes.memmove(host_destination, bytes(self._place(source, nbytes)), nbytes)

    def copy_within(self, destination: int, source: int, nbytes: int) -> None:
        self.calls.append("copy_within")
        self._place(destination, nbytes)[:] = bytes(self._place(source, nbytes))

    def fill(self, destination: int, pattern: bytes, count: int) -> None:
        self.calls.append("fill")
        self._place(destination, len(pattern) * count)[:] = pattern * count


class OpaqueBackend:
    kind = "opaque"
    compiler = "opaque_device"

    def __init__(self) -> None:
        self.memories = [OpaqueMemory(), OpaqueMemory()]

    def device_count(self) -> int:
        return len(self.memories)

    def properties(self, ordinal: int) -> DeviceProperties:
        # 12 is DLPack's kDLExtDev; only the first device has a number there
        return DeviceProperties("Opaque", CAPACITY, {"window": False}, dlpack_device=(12, 0) if ordinal == 0 else None)

    def memory(self, ordinal: int) -> OpaqueMemory:
        return self.memories[ordinal]

    def target_key(self, device: Device, options: Any) -> dict[str, str]:
        return {}

    def load(self, artifact: Artifact, device: Device, options: Any) -> Executable:
        raise NotImplementedError("this device only remembers")


backend = OpaqueBackend()
