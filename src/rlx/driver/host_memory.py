"""Host memory: this process's own, from the operating system.

Large allocations are anonymous mappings of their own, aligned to huge pages and advised to use them (a first touch of
64 MiB costs 7 ms so, 23 ms with 4 KiB pages), and go back to the system when freed. Small ones come from the C heap.

Locked memory never leaves physical memory. The system bounds how much a process may lock (`ulimit -l`); the copy that a
forked child has is not locked.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rlx.driver.backend import MemoryBackend, MemoryKind
from rlx.driver.huge_pages import HUGE_PAGE
from rlx.driver.layout import array_at

_MAPPED = 1 << 20  # allocations from this size on are mappings


class HostMemory:
    """The `MemoryBackend` of the host. Any thread may call it; `HOST_MEMORY` is the only one a process needs.

    locked: pages are locked in physical memory. kinds: see `MemoryOfKinds`.
    """

    host_visible = True
    granularity = 64  # a cache line: two parts never share one

    def __init__(self, *, locked: bool = False, kinds: Mapping[MemoryKind, MemoryBackend] | None = None) -> None:
        self._owners: dict[int, mmap.mmap | np.ndarray] = {}
        self._locked = locked
        self.kinds: Mapping[MemoryKind, MemoryBackend] = kinds or {}
        self.capacity_bytes = _lockable() if locked else _capacity()

    def allocate(self, nbytes: int, alignment: int) -> int:
        """See `MemoryBackend.allocate`."""
        if nbytes >= HUGE_PAGE:
            alignment = max(alignment, HUGE_PAGE)
        mapped = self._locked or nbytes >= _MAPPED
        owner, start = _map(nbytes + alignment) if mapped else _heap(nbytes + alignment)
        address = -(-start // alignment) * alignment
        if self._locked:
            _lock(address, nbytes)
        self._owners[address] = owner
        return address

    def free(self, address: int) -> None:
        """See `MemoryBackend.free`. Closing a mapping unlocks it."""
        owner = self._owners.pop(address)
        if isinstance(owner, mmap.mmap):
            owner.close()

    def copy_in(self, destination: int, host_source: int, nbytes: int) -> None:
        ctypes.memmove(destination, host_source, nbytes)

    def copy_out(self, host_destination: int, source: int, nbytes: int) -> None:
        ctypes.memmove(host_destination, source, nbytes)

    def copy_within(self, destination: int, source: int, nbytes: int) -> None:
        ctypes.memmove(destination, source, nbytes)

    def fill(self, destination: int, pattern: bytes, count: int) -> None:
        if len(set(pattern)) == 1:
            ctypes.memset(destination, pattern[0], len(pattern) * count)
            return
        element = np.frombuffer(pattern, np.dtype((np.void, len(pattern))))
        array_at(destination, (count,), (len(pattern),), element.dtype)[:] = element


def _map(nbytes: int) -> tuple[mmap.mmap, int]:
    try:
        mapping = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a forked child gets its own
    except (OSError, OverflowError) as error:
        raise MemoryError(f"the system does not map {nbytes} bytes: {error}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            mapping.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without huge pages: 4 KiB pages serve
            pass
    return mapping, ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def _heap(nbytes: int) -> tuple[np.ndarray, int]:
    owner = np.empty(nbytes, np.uint8)
    return owner, owner.ctypes.data


def _lock(address: int, nbytes: int) -> None:
    """Keep the pages of a range in physical memory until they are unmapped."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(nbytes)) != 0:
        why = os.strerror(ctypes.get_errno())
        raise MemoryError(
            f"the system does not lock {nbytes} bytes in physical memory: {why}; "
            f"this process may lock {_lockable()} in all (ulimit -l)"
        )


def _lockable() -> int:
    """Bytes that this process may lock, as far as the system says beforehand."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return _capacity() if limit == resource.RLIM_INFINITY or os.geteuid() == 0 else min(limit, _capacity())


def _capacity() -> int:
    """Physical memory, or what this control group may use where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


#: The memory that NumPy arrays live in.
HOST_MEMORY = HostMemory(kinds={"pinned": HostMemory(locked=True)})
