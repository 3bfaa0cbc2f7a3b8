"""Who holds a device's bytes: blocks, and the account of them.

A `Block` is a range of addresses that lives as long as anyone holds it: buffers, NumPy views of buffers, operations
waiting on a stream. When the last holder lets go, the range goes back to where it came from. That is what makes
`Buffer.free` safe: it drops the buffer's hold, not the bytes under a reader.

`DeviceMemory` allocates blocks of one kind of memory on one device through a `CachingAllocator`, and keeps the account:
bytes in use and reserved, their peaks, counts, a limit. Bytes that belong to others (NumPy arrays, mapped files, DLPack
tensors) are held but not counted.

Debugging. `set_debug` puts red zones around blocks and poison into them; see `rlx.driver.memory_debug`.
`rlx.driver.track_allocations` tells where live blocks were allocated.
Threads. Everything may be called from any thread.
"""

from __future__ import annotations

from rlx.driver import allocation_sites
from rlx.driver.allocator import CachingAllocator, MemoryStatistics, NoRoom
from rlx.driver.backend import MemoryBackend, MemoryKind, MemoryOfKinds
from rlx.driver.device import HOST, Device
from rlx.driver.host_memory import HOST_MEMORY
from rlx.driver.memory_debug import Guards
from rlx.errors import LayoutError, MemoryKindError, OutOfMemory
from rlx.options import OptionError

ALIGNMENT = 64


class Block:
    """nbytes bytes at `address` of a device's memory. Nobody frees it; it ends with its last reference.

    keep: whoever owns the bytes, where that is not `memory`. is_file: the bytes are a mapped file's.
    """

    __slots__ = ("__weakref__", "address", "is_file", "keep", "memory", "nbytes")

    def __init__(
        self, memory: DeviceMemory, address: int, nbytes: int, keep: object = None, *, is_file: bool = False
    ) -> None:
        self.memory = memory
        self.address = address
        self.nbytes = nbytes
        self.keep = keep
        self.is_file = is_file

    def __reduce__(self) -> str:
        raise TypeError("a block of memory cannot be pickled or copied: it holds its bytes for itself")

    @property
    def kinds(self) -> tuple[MemoryKind, ...]:
        """Every kind of memory that these bytes are in, the most telling first."""
        return ("file", "host") if self.is_file else self.memory.kinds


class _OwnBlock(Block):
    """A block of the memory's own, which goes back there when it ends."""

    __slots__ = ()

    def __del__(self) -> None:
        self.memory.take_back(self.address)


class DeviceMemory:
    """One kind of memory of one device, with its account; `device_memory` gives the one of each.

    device: where the bytes are; HOST for pinned memory, whichever device it serves.
    backend: the raw memory. kind: "device" is the device's own.
    """

    def __init__(self, device: Device, backend: MemoryBackend, kind: MemoryKind = "device") -> None:
        self.device = device
        self.backend = backend
        self.kinds = _kinds(device, backend, kind)
        self._allocator = CachingAllocator(backend)
        self._guards: Guards | None = None

    def allocate(self, nbytes: int, alignment: int = ALIGNMENT, *, whose: str = "a buffer") -> Block:
        """A block of nbytes bytes of unknown content. Raises OutOfMemory, naming the largest holders.

        whose: what the bytes are for, as an out-of-memory message tells it. Raises LayoutError for an alignment that is
        none.
        """
        if alignment < 1:
            raise LayoutError(f"no address is a multiple of {alignment}: an alignment is a number of bytes above 0")
        try:
            if self._guards is None:
                address = self._allocator.allocate(nbytes, alignment, whose)
            else:
                address = self._guards.allocate(nbytes, alignment, whose)
        except NoRoom as error:
            raise self._out_of_memory(nbytes, str(error)) from error.__cause__
        block = _OwnBlock(self, address, nbytes)
        if allocation_sites.trackers:
            allocation_sites.note(block, whose)
        return block

    def take_back(self, address: int) -> None:
        """A block has ended. For blocks; may be called by a garbage collection, anywhere."""
        if self._guards is None or not self._guards.release(address):
            self._allocator.release(address)

    @property
    def statistics(self) -> MemoryStatistics:
        """The account as it stands."""
        if self._guards is not None:
            self._guards.sweep()
        return self._allocator.statistics

    def reset_peak(self) -> None:
        """Let the peaks start again from what is in use and reserved now."""
        self._allocator.reset_peak()

    def trim(self) -> int:
        """Give the device back what is reserved and unused, as far as whole segments are; how many bytes."""
        return self._allocator.trim()

    def set_limit(self, nbytes: int | None) -> None:
        """Bound what may be in use; None is the device's capacity. What is in use already stays. Raises OptionError."""
        if nbytes is not None and (not isinstance(nbytes, int) or nbytes < 0):
            raise OptionError(f"{nbytes!r} is no limit, expected a whole number of bytes, or None")
        self._allocator.limit = self.backend.capacity_bytes if nbytes is None else nbytes

    def set_kept(self, nbytes: int | None) -> None:
        """Bound the unused segments that are kept for later; None is a sixteenth of the device's capacity."""
        self._allocator.keep = self.backend.capacity_bytes // 16 if nbytes is None else nbytes
        if self._allocator.keep == 0:
            self.trim()

    def set_debug(self, on: bool) -> None:
        """Put red zones around blocks allocated from here on, and poison into freed ones; or stop doing so.

        Some freed blocks stay in use meanwhile, by the account too. `allocate` and `check` raise RedZoneError.
        """
        if self._guards is None:
            self._guards = Guards(self.backend, self._allocator)
        self._guards.on = on

    def check(self) -> None:
        """Look at all red zones and at what was freed lately. Raises RedZoneError; does nothing without `set_debug`."""
        if self._guards is not None:
            self._guards.check()

    def _out_of_memory(self, nbytes: int, why: str) -> OutOfMemory:
        now = self._allocator.statistics
        largest = sorted(((size, whose) for _, size, whose in self._allocator.holders()), reverse=True)[:5]
        holders = ", ".join(f"{whose} {size}" for size, whose in largest) or "nothing is held"
        return OutOfMemory(
            f"{self} has no room for {nbytes} bytes: {why}; "
            f"{now.in_use} of {now.limit} are in use, {max(0, now.limit - now.in_use)} free; "
            f"{now.reserved} are reserved, and the largest hole in them has {now.largest_hole}",
            where=f"largest holders, in bytes: {holders}",
            hint="free buffers, run smaller batches, or raise the limit with set_limit",
        )

    def __str__(self) -> str:
        return f"the pinned memory of {self.device}" if self.kinds[0] == "pinned" else str(self.device)


def _kinds(device: Device, backend: MemoryBackend, kind: MemoryKind) -> tuple[MemoryKind, ...]:
    if kind == "pinned":
        return ("pinned", "host")
    if device == HOST:
        return ("host", "device", "unified")
    if kind == "unified" or backend.host_visible:
        return ("unified", "device")
    return ("device",)


_memories: dict[tuple[Device, MemoryKind], DeviceMemory] = {}


def device_memory(device: Device | str, kind: MemoryKind = "device") -> DeviceMemory:
    """The memory of a device, or of the one of this name; one object a device and kind.

    kind: "host" is the host's whichever device is named; "unified" is the device's own where the host may read it.
    Raises DeviceNameError, DeviceNotFound where the device is not here (the host needs no backend), and MemoryKindError
    where it has no memory of that kind.
    """
    memory = _memories.get((device, kind))  # type: ignore[arg-type]  # a name is not found
    if memory is None:
        key = Device(device), kind
        memory = _memories.get(key) or _memories.setdefault(key, _open(*key))
    return memory


def _open(device: Device, kind: MemoryKind) -> DeviceMemory:
    backend = HOST_MEMORY if device == HOST else device.backend.memory(device.ordinal)
    if kind == "device":
        return DeviceMemory(device, backend)
    if kind == "host":
        return device_memory(HOST)
    others = backend.kinds if isinstance(backend, MemoryOfKinds) else {}
    if kind in others:
        return DeviceMemory(HOST if kind == "pinned" else device, others[kind], kind)
    if kind == "unified" and backend.host_visible:
        return device_memory(device)
    has = ["device", "host", *others] + (["unified"] if backend.host_visible and "unified" not in others else [])
    raise MemoryKindError(
        f"{device} has no memory of kind {kind!r}; it has: {', '.join(has)}",
        hint="Buffer.map_file maps a file" if kind == "file" else None,
    )
