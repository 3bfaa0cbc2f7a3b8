"""Who holds a device's bytes: blocks, and the account of them.

A `Block` is a range of addresses that lives as long as anyone holds it: buffers, NumPy views of buffers, operations
waiting on a stream. When the last holder lets go, the range goes back to where it came from. That is what makes
`Buffer.free` safe: it drops the buffer's hold, not the bytes under a reader.

`DeviceMemory` allocates blocks on one device and keeps its account: bytes in use, their peak, counts, a limit.
Bytes that belong to others (NumPy arrays, mapped files, DLPack tensors) are held but not counted.

Threads. Everything may be called from any thread.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass

from rlx.driver.backend import MemoryBackend
from rlx.driver.device import HOST, Device
from rlx.driver.fork import renew_in_child
from rlx.driver.host_memory import HOST_MEMORY
from rlx.errors import OutOfMemory

ALIGNMENT = 64


class Block:
    """nbytes bytes at `address` of a device's memory. Nobody frees it; it ends with its last reference."""

    __slots__ = ("__weakref__", "address", "keep", "memory", "nbytes")

    def __init__(self, memory: DeviceMemory, address: int, nbytes: int, keep: object = None) -> None:
        self.memory = memory
        self.address = address
        self.nbytes = nbytes
        self.keep = keep  # whoever owns the bytes, where that is not `memory`


@dataclass(frozen=True)
class MemoryStatistics:
    """One device's account, in bytes and counts.

    in_use, peak: bytes held now, and the most ever held since `reset_peak`.
    live: blocks held now; allocations: blocks ever made.
    limit: what `in_use` may reach.
    """

    in_use: int
    peak: int
    live: int
    allocations: int
    limit: int


class DeviceMemory:
    """One device's memory with its account; `device_memory` gives the one of each device."""

    def __init__(self, device: Device, backend: MemoryBackend) -> None:
        self.device = device
        self.backend = backend
        self._held: dict[int, tuple[int, str]] = {}  # address -> (bytes, whose)
        self._in_use = self._peak = self._allocations = 0
        self._limit = backend.capacity_bytes
        renew_in_child(self)

    def renew(self) -> None:
        """Make the lock anew; see `rlx.driver.fork`."""
        self._lock = threading.RLock()  # a garbage collection inside may end a block

    def allocate(self, nbytes: int, alignment: int = ALIGNMENT, *, whose: str = "a buffer") -> Block:
        """A block of nbytes bytes of unknown content. Raises OutOfMemory, naming the largest holders.

        whose: what the bytes are for, as an out-of-memory message tells it.
        """
        with self._lock:
            if self._in_use + nbytes > self._limit:
                raise self._out_of_memory(nbytes, "the limit is reached")
            self._in_use += nbytes  # reserved, so that two threads do not pass the limit together
        try:
            address = self.backend.allocate(max(nbytes, 1), alignment)
        except BaseException as error:
            with self._lock:
                self._in_use -= nbytes
                if isinstance(error, MemoryError):
                    raise self._out_of_memory(nbytes, str(error)) from error
            raise
        with self._lock:
            self._peak = max(self._peak, self._in_use)
            self._allocations += 1
            self._held[address] = (nbytes, whose)
        block = Block(self, address, nbytes)
        weakref.finalize(block, self._release, address).atexit = False
        return block

    def _release(self, address: int) -> None:
        with self._lock:
            self._in_use -= self._held.pop(address)[0]
        self.backend.free(address)

    @property
    def statistics(self) -> MemoryStatistics:
        """The account as it stands."""
        with self._lock:
            return MemoryStatistics(self._in_use, self._peak, len(self._held), self._allocations, self._limit)

    def reset_peak(self) -> None:
        """Let the peak start again from what is in use now."""
        with self._lock:
            self._peak = self._in_use

    def set_limit(self, nbytes: int | None) -> None:
        """Bound what may be in use; None is the device's capacity. What is in use already stays."""
        with self._lock:
            self._limit = self.backend.capacity_bytes if nbytes is None else nbytes

    def _out_of_memory(self, nbytes: int, why: str) -> OutOfMemory:
        largest = sorted(self._held.values(), reverse=True)[:5]
        holders = ", ".join(f"{whose} {size}" for size, whose in largest) or "nothing is held"
        return OutOfMemory(
            f"{self.device} has no room for {nbytes} bytes: {why}; "
            f"{self._in_use} of {self._limit} are in use, {max(0, self._limit - self._in_use)} free",
            where=f"largest holders, in bytes: {holders}",
            hint="free buffers, run smaller batches, or raise the limit with set_limit",
        )


_memories: dict[Device, DeviceMemory] = {}


def device_memory(device: Device) -> DeviceMemory:
    """The memory of a device, one object a device. Raises DeviceNotFound where the device is not here.

    The host's needs no backend.
    """
    memory = _memories.get(device)
    if memory is None:
        backend = HOST_MEMORY if device == HOST else device.backend.memory(device.ordinal)
        memory = _memories.setdefault(device, DeviceMemory(device, backend))
    return memory
