"""The caching allocator: between a device's raw memory and those who ask for bytes.

What is released is kept and given again, so a program in steady state asks the device for nothing. The device gives
segments; small requests share one, large ones get one each. Released ranges coalesce inside their segment and serve
what fits best (`rlx.driver.holes`). Where a memory cannot be divided (see `DivisibleMemory`), whole allocations are
kept.

Limit. `in_use`, the bytes that were asked for and are not released, never passes `limit`. `reserved`, what the device
gave, may: by holes between what is in use, by nothing else, since unused segments go back first.
Keeping. Segments of which nothing is in use are kept up to `keep` bytes, a sixteenth of the device's capacity at first;
`trim` gives all of them back.
No room. Before a request fails, unused segments are given back and the device is asked again, for just what is needed.
Threads. Any thread may call anything. `release` may be called by a garbage collection inside any other call: it never
waits for a lock. The device is never called while the allocator's own lock is held.
Fork. A forked child goes on with the state at the fork, of which it has a copy.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from rlx.driver.backend import DivisibleMemory, MemoryBackend
from rlx.driver.fork import hold_over_forks
from rlx.driver.holes import Holes

#: Bytes of a segment that small requests share, on a device that has room for many.
_SEGMENT = 2 << 20
#: What sizes are rounded up to where memory cannot be divided.
_WHOLE = 256


@dataclass(frozen=True)
class MemoryStatistics:
    """One device's account, in bytes and counts.

    in_use, peak: bytes asked for and not released, and the most there ever were since `reset_peak`.
    reserved, peak_reserved: bytes that the device gave and has not back, and the most there ever were.
    live: blocks in use; allocations: blocks ever made; device_allocations: how often the device gave memory.
    largest_hole: the most bytes that can be had without asking the device.
    limit: what `in_use` may reach.
    """

    in_use: int
    peak: int
    reserved: int
    peak_reserved: int
    live: int
    allocations: int
    device_allocations: int
    largest_hole: int
    limit: int


class NoRoom(MemoryError):
    """A request that neither holes nor the device can serve; says why."""


class CachingAllocator:
    """See the module's contract."""

    def __init__(self, memory: MemoryBackend) -> None:
        self.memory = memory
        self.limit = memory.capacity_bytes
        self.keep = memory.capacity_bytes // 16
        divisible = isinstance(memory, DivisibleMemory)
        self._granularity = memory.granularity if divisible else _WHOLE
        self._segment = self._round(min(_SEGMENT, memory.capacity_bytes // 64)) if divisible else 0
        self._small, self._large = Holes(divisible=divisible), Holes(divisible=divisible)
        self._held: dict[int, tuple[int, int, Holes, str]] = {}  # address -> (asked for, taken, of which, whose)
        self._released: deque[int] = deque()
        self._in_use = self._peak = self._reserved = self._peak_reserved = 0
        self._allocations = self._device_allocations = 0
        self._growing: list[int] = []  # bytes that are in use already, and that the device is being asked for
        self._lock = threading.Lock()
        hold_over_forks(self)

    # -- asking and releasing --------------------------------------------------------------------------------------

    def allocate(self, nbytes: int, alignment: int, whose: str, padding: int = 0) -> int:
        """The address of nbytes and as many as `padding`, of unknown content; only nbytes are in the account.

        whose: for `holders`. Raises NoRoom.
        """
        size = self._round(nbytes + padding)
        holes = self._small if size * 4 <= self._segment else self._large
        with self._lock:
            surplus = self._take_back() if self._released else ()
            if self._in_use + nbytes > self.limit:
                found, refused = None, True
            else:
                found, refused = holes.take(size, alignment), False
                self._in_use += nbytes  # before the device is asked, so that two threads do not pass the limit together
                if found is None:
                    self._growing.append(nbytes)
                else:
                    self._note(found, nbytes, holes, whose)
        self._free(surplus)
        if refused:
            raise NoRoom("the limit is reached")
        if found is None:
            found = self._grow(nbytes, size, alignment, holes, whose)
        if self._released:
            self._settle()
        return found[0]

    def release(self, address: int) -> None:
        """Take back what `allocate` gave, now or soon."""
        self._released.append(address)
        self._settle()

    def trim(self) -> int:
        """Give the device back every segment of which nothing is in use; how many bytes."""
        with self._lock:
            surplus = [*self._take_back(), *self._drop(0)]
        self._free(surplus)
        return sum(size for _, size in surplus)

    def _round(self, nbytes: int) -> int:
        return -(-max(nbytes, 1) // self._granularity) * self._granularity

    def _note(self, found: tuple[int, int], nbytes: int, holes: Holes, whose: str) -> None:
        self._held[found[0]] = (nbytes, found[1], holes, whose)
        self._allocations += 1
        self._peak = max(self._peak, self._in_use)

    def _grow(self, nbytes: int, size: int, alignment: int, holes: Holes, whose: str) -> tuple[int, int]:
        """Serve a request that no hole of its kind serves, and whose bytes are in the account already."""
        alignment = max(alignment, self._granularity)
        segment = self._segment if holes is self._small else size
        try:
            start, segment = self._ask(size, segment, alignment)
        except MemoryError as error:
            with self._lock:
                other = self._large if holes is self._small else self._small
                found = other.take(size, alignment)
                self._growing.remove(nbytes)
                if found is None:
                    self._in_use -= nbytes
                    raise NoRoom(str(error)) from error
                self._note(found, nbytes, other, whose)
                return found
        except BaseException:
            with self._lock:
                self._growing.remove(nbytes)
                self._in_use -= nbytes
            raise
        with self._lock:
            holes.add(start, segment)
            found = holes.take(size, alignment)
            assert found is not None, "a fresh segment serves what it was made for"
            self._reserved += segment
            self._peak_reserved = max(self._peak_reserved, self._reserved)
            self._device_allocations += 1
            self._growing.remove(nbytes)
            self._note(found, nbytes, holes, whose)
        return found

    def _ask(self, size: int, segment: int, alignment: int) -> tuple[int, int]:
        """(start, bytes) of a new segment, of at least `size` bytes. Raises MemoryError where there is no room."""
        if self._reserved + segment > self.limit:
            self.trim()
        if self._reserved + segment <= self.limit and segment > size:
            try:
                return self.memory.allocate(segment, alignment), segment
            except MemoryError:  # a smaller one may be had
                pass
        try:
            return self.memory.allocate(size, alignment), size
        except MemoryError:
            if not self.trim():
                raise
            return self.memory.allocate(size, alignment), size

    # -- taking back -----------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Take back what was released, unless someone holds the lock: they do it when they are done."""
        while self._released:
            if not self._lock.acquire(blocking=False):
                return
            try:
                surplus = self._take_back()
            finally:
                self._lock.release()
            self._free(surplus)

    def _take_back(self) -> list[tuple[int, int]]:
        """Make holes of what was released; gives segments to free. Under the lock."""
        while self._released:
            address = self._released.popleft()
            nbytes, size, holes, _ = self._held.pop(address)
            self._in_use -= nbytes
            holes.give(address, size)
        if self._reserved - self._in_use > self.keep:
            return self._drop(self.keep)
        return []

    def _drop(self, keep: int) -> list[tuple[int, int]]:
        dropped = self._large.drop_unused(max(0, keep - self._small.unused))
        dropped += self._small.drop_unused(keep)
        self._reserved -= sum(size for _, size in dropped)
        return dropped

    def _free(self, segments: list[tuple[int, int]] | tuple[()]) -> None:
        for start, _ in segments:
            self.memory.free(start)

    # -- the account -----------------------------------------------------------------------------------------------

    @property
    def statistics(self) -> MemoryStatistics:
        """The account as it stands."""
        with self._lock:
            surplus = self._take_back()
            statistics = MemoryStatistics(
                self._in_use, self._peak, self._reserved, self._peak_reserved, len(self._held), self._allocations,
                self._device_allocations, max(self._small.largest, self._large.largest), self.limit,
            )  # fmt: skip
        self._free(surplus)
        return statistics

    def holders(self) -> list[tuple[int, int, str]]:
        """(address, bytes, whose) of all that is in use."""
        with self._lock:
            surplus = self._take_back()
            held = [(address, nbytes, whose) for address, (nbytes, _, _, whose) in self._held.items()]
        self._free(surplus)
        return held

    def reset_peak(self) -> None:
        """Let the peaks start again from what is in use and reserved now."""
        with self._lock:
            surplus = self._take_back()
            self._peak, self._peak_reserved = self._in_use, self._reserved
        self._free(surplus)

    # -- forks -----------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """See `rlx.driver.fork.hold_over_forks`."""
        self._lock.acquire()

    def let_go(self, in_child: bool) -> None:
        """See `rlx.driver.fork.hold_over_forks`."""
        if in_child:  # who was asking the device is not here
            self._in_use -= sum(self._growing)
            self._growing.clear()
        self._lock.release()
