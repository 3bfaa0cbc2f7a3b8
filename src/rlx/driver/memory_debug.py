"""Red zones around a memory's blocks, and poison in those that were freed.

A guarded block stands between two red zones, which hold a pattern, and begins as poison, which reads as NaN or as a
huge number. When it ends, its zones are looked at, it is filled with poison, and it is kept out of use for a while; it
is looked at again before its bytes are given to anyone else. So both a write past the end and a write after the end are
found, and named by whose the block was.

What is found is raised as RedZoneError by the next `allocate` or `check`, on the thread that calls it, once. Blocks end
anywhere, even inside a garbage collection, so their bytes are looked at later, by the next call here.

Threads. Any thread may call; writing into blocks while they are looked at is the caller's to avoid.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from rlx.driver.allocator import CachingAllocator, NoRoom
from rlx.driver.backend import MemoryBackend
from rlx.driver.fork import renew_in_child
from rlx.errors import RedZoneError

_RED = 0xB5
_POISON = 0xFF  # NaN in every float type, -1 or the largest number in integer types
_ZONE = 256
#: Freed blocks that are kept out of use.
_KEPT = 64


@dataclass(frozen=True)
class _Guarded:
    start: int  # of the first red zone
    address: int
    nbytes: int
    zone: int  # bytes of each red zone
    whose: str


class Guards:
    """See the module's contract. It allocates from `allocator`, and reads and writes `memory`.

    on: guard what is allocated from here on.
    """

    def __init__(self, memory: MemoryBackend, allocator: CachingAllocator) -> None:
        self.on = True
        self._memory, self._allocator = memory, allocator
        self._live: dict[int, _Guarded] = {}  # by address
        self._ended: deque[_Guarded] = deque()  # not looked at yet
        self._kept: deque[_Guarded] = deque()  # poisoned
        self._found: list[RedZoneError] = []
        renew_in_child(self)

    def renew(self) -> None:
        """Make the lock anew; see `rlx.driver.fork`."""
        self._lock = threading.RLock()

    def allocate(self, nbytes: int, alignment: int, whose: str) -> int:
        """The address of nbytes, of poison between red zones while `on`. Raises NoRoom, RedZoneError."""
        self.sweep()
        self._raise_found()
        if not self.on:
            return self._allocator.allocate(nbytes, alignment, whose)
        zone = max(_ZONE, alignment)
        try:
            start = self._allocator.allocate(nbytes, alignment, whose, 2 * zone)
        except NoRoom:
            self.sweep(keep=0)
            start = self._allocator.allocate(nbytes, alignment, whose, 2 * zone)
        block = _Guarded(start, start + zone, nbytes, zone, whose)
        self._memory.fill(start, bytes([_RED]), zone)
        self._memory.fill(block.address + nbytes, bytes([_RED]), zone)
        self._fill(block.address, nbytes, _POISON)
        self._live[block.address] = block
        return block.address

    def release(self, address: int) -> bool:
        """A block has ended; False where it is none of these. Touches no byte."""
        block = self._live.pop(address, None)
        if block is None:
            return False
        self._ended.append(block)
        return True

    def sweep(self, keep: int = _KEPT) -> None:
        """Look at blocks that ended, poison them, and keep at most `keep` of them out of use."""
        keep = keep if self.on else 0
        with self._lock:
            while self._ended:
                block = self._ended.popleft()
                self._check_zones(block)
                self._fill(block.address, block.nbytes, _POISON)
                self._kept.append(block)
            while len(self._kept) > keep:
                block = self._kept.popleft()
                self._check_poison(block)
                self._allocator.release(block.start)

    def check(self) -> None:
        """Look at every block, live or ended. Raises RedZoneError."""
        self.sweep()
        with self._lock:
            for block in list(self._live.values()):
                self._check_zones(block)
            for block in self._kept:
                self._check_poison(block)
        self._raise_found()

    def _raise_found(self) -> None:
        if self._found:
            raise self._found.pop(0)

    def _check_zones(self, block: _Guarded) -> None:
        end = block.address + block.nbytes
        for zone, words in ((block.start, "before the start"), (end, "past the end")):
            changed = self._changed(zone, block.zone, _RED)
            if len(changed):
                away = int(changed[0]) if zone == end else block.zone - int(changed[-1])
                self._found.append(
                    RedZoneError(
                        f"{len(changed)} bytes that belong to nobody were overwritten, {away} bytes {words} of "
                        f"{block.whose} of {block.nbytes} bytes"
                    )
                )
                self._fill(zone, block.zone, _RED)  # found once

    def _check_poison(self, block: _Guarded) -> None:
        changed = self._changed(block.address, block.nbytes, _POISON)
        if len(changed):
            self._found.append(
                RedZoneError(
                    f"{block.whose} of {block.nbytes} bytes was written after it was freed: "
                    f"{len(changed)} bytes, from byte {int(changed[0])} on"
                )
            )
            self._fill(block.address, block.nbytes, _POISON)  # found once

    def _changed(self, address: int, nbytes: int, value: int) -> np.ndarray:
        content = np.empty(nbytes, np.uint8)
        if nbytes:
            self._memory.copy_out(content.ctypes.data, address, nbytes)
        return np.flatnonzero(content != value)

    def _fill(self, address: int, nbytes: int, value: int) -> None:
        if nbytes:
            self._memory.fill(address, bytes([value]), nbytes)
