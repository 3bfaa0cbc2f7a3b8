"""The device's memory: bytes behind made-up addresses, far from any pointer, so that none is read as host memory."""

from __future__ import annotations

import ctypes
import threading
from bisect import bisect_right

from rlx.errors import DeviceLost

CAPACITY = 8 << 20
_FIRST = 1 << 52
_APART = 4096


class OpaqueMemory:
    """See `rlx.driver.MemoryBackend` for what each method promises.

    calls: what was asked for, for tests. lost: True once the device is gone, and what was on it.
    """

    host_visible = False
    capacity_bytes = CAPACITY

    def __init__(self) -> None:
        self.next = _FIRST
        self.ranges: dict[int, bytearray] = {}
        self.calls: list[str] = []
        self.lost = False
        self._used = 0
        self._lock = threading.RLock()  # a garbage collection in one call may free in another, on the same thread

    def allocate(self, nbytes: int, alignment: int) -> int:
        with self._lock:
            self.synchronize()
            if nbytes + self._used > CAPACITY:
                raise MemoryError(f"the device holds {CAPACITY} bytes")
            self._used += nbytes
            address = -(-self.next // alignment) * alignment
            self.next = address + nbytes + _APART
            self.ranges[address] = bytearray(nbytes)
            return address

    def free(self, address: int) -> None:
        with self._lock:
            self._used -= len(self.ranges.pop(address))

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

    def synchronize(self) -> None:
        """See `rlx.driver.AsynchronousMemory`: nothing is ever under way here, but a lost device is found."""
        if self.lost:
            raise DeviceLost("the device Opaque is lost", hint="start the process again")

    def _place(self, address: int, nbytes: int) -> memoryview:
        """The bytes at an address; a range that leaves its allocation is a defect of the caller."""
        with self._lock:
            self.synchronize()
            starts = sorted(self.ranges)
            start = starts[bisect_right(starts, address) - 1]
            content = self.ranges[start]
        at = address - start
        assert at >= 0
        assert at + nbytes <= len(content)
        return memoryview(content)[at : at + nbytes]
