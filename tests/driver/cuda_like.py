"""A device of kind "cuda" without one: the example plug-in's memory, CUDA's numbers, a queue that takes notes."""

from __future__ import annotations

from typing import Any

from opaque_device.backend import OpaqueBackend
from opaque_device.memory import OpaqueMemory

from rlx.driver import DeviceProperties, HostMemory


class CudaLikeMemory(OpaqueMemory):
    granularity = 256
    queue = 7001

    def __init__(self) -> None:
        super().__init__()
        self.orders: list[tuple[int, int]] = []
        self.kinds = {"pinned": HostMemory()}

    def order(self, first: int, then: int) -> None:
        self.orders.append((first, then))


class CudaLikeBackend(OpaqueBackend):
    kind = "cuda"

    def __init__(self) -> None:
        self.memories: list[Any] = [CudaLikeMemory()]

    def properties(self, ordinal: int) -> DeviceProperties:
        return DeviceProperties("like CUDA", self.memories[0].capacity_bytes, dlpack_device=(2, 0))


backend = CudaLikeBackend()
