"""Free ranges of reserved memory: best fit, with coalescing. Only numbers: no byte is touched, no device is asked.

`Holes` knows segments (what a device gave, whole) and the holes in them (what of that is free). Two holes that meet are
one, but never across segments, which may lie side by side by accident. The smallest hole that serves is taken, of equal
ones the lowest, so equal histories give equal addresses.

What was given back lately waits, by size, for a request of its very size, which costs a tenth of a search; it is joined
with its neighbours when a request finds nothing so.

Where memory cannot be divided, each segment is one hole or none. A hole serves requests that fill seven eighths of it.

Threads. One at a time; the owner locks. An exception between two steps (Ctrl-C) can lose bytes, never give them twice.
"""

from __future__ import annotations

from bisect import bisect_left, insort


class Holes:
    """See the module's contract. divisible: a segment may be handed out in parts."""

    def __init__(self, *, divisible: bool) -> None:
        self.divisible = divisible
        self._unused = 0  # bytes of segments of which nothing is taken
        self._waiting: dict[int, list[int]] = {}  # bytes -> starts of what was given back and is not joined yet
        self._segments: dict[int, int] = {}  # start -> bytes
        self._sizes: dict[int, int] = {}  # a hole's start -> bytes
        self._starts: dict[int, int] = {}  # a hole's end -> start
        self._sorted: list[tuple[int, int]] = []  # (bytes, start) of every hole

    def add(self, start: int, nbytes: int) -> None:
        """A new segment, all of it free."""
        self._segments[start] = nbytes
        self._insert(start, nbytes)

    def take(self, nbytes: int, alignment: int) -> tuple[int, int] | None:
        """(start, bytes) of a range that is no hole any more, or None where no hole serves.

        nbytes above 0 and alignment: multiples of the granularity. Of memory that cannot be divided, the range is a
        whole segment; of any other, it has just nbytes.
        """
        waiting = self._waiting.get(nbytes)
        if waiting and not waiting[-1] % alignment:
            return waiting.pop(), nbytes
        self._join()
        most = nbytes + nbytes // 7
        for at in range(bisect_left(self._sorted, (nbytes, 0)), len(self._sorted)):
            size, start = self._sorted[at]
            aligned = -(-start // alignment) * alignment
            if not self.divisible:
                if size > most:
                    return None
                if aligned == start:
                    self._remove(start, size)
                    return start, size
            elif aligned + nbytes <= start + size:
                self._remove(start, size)
                if aligned > start:
                    self._insert(start, aligned - start)
                if aligned + nbytes < start + size:
                    self._insert(aligned + nbytes, start + size - aligned - nbytes)
                return aligned, nbytes
        return None

    def give(self, start: int, nbytes: int) -> None:
        """Take back a range that `take` gave."""
        waiting = self._waiting.get(nbytes)
        if waiting is None:
            self._waiting[nbytes] = [start]
        else:
            waiting.append(start)

    @property
    def unused(self) -> int:
        """Bytes of segments of which nothing is taken."""
        self._join()
        return self._unused

    @property
    def largest(self) -> int:
        """Bytes of the largest hole; 0 where there is none."""
        self._join()
        return self._sorted[-1][0] if self._sorted else 0

    def drop_unused(self, keep: int = 0) -> list[tuple[int, int]]:
        """Forget segments of which nothing is taken until at most `keep` bytes of them are left; the smallest stay.

        Gives (start, bytes) of each.
        """
        dropped: list[tuple[int, int]] = []
        if self.unused > keep:
            for size, start in reversed(self._sorted):
                if self._segments.get(start) == size:
                    dropped.append((start, size))
                    if self._unused - sum(n for _, n in dropped) <= keep:
                        break
        for start, size in dropped:
            self._remove(start, size)
            del self._segments[start]
        return dropped

    def _join(self) -> None:
        """Make holes of what waits."""
        while self._waiting:
            nbytes, starts = self._waiting.popitem()
            for start in starts:
                self._join_one(start, nbytes)

    def _join_one(self, start: int, nbytes: int) -> None:
        end = start + nbytes
        before = self._starts.get(start)
        if before is not None and start not in self._segments:
            self._remove(before, start - before)
            start = before
        after = self._sizes.get(end)
        if after is not None and end not in self._segments:
            self._remove(end, after)
            end += after
        self._insert(start, end - start)

    def _insert(self, start: int, nbytes: int) -> None:
        self._sizes[start] = nbytes
        self._starts[start + nbytes] = start
        insort(self._sorted, (nbytes, start))
        if self._segments.get(start) == nbytes:
            self._unused += nbytes

    def _remove(self, start: int, nbytes: int) -> None:
        del self._sorted[bisect_left(self._sorted, (nbytes, start))]
        del self._sizes[start], self._starts[start + nbytes]
        if self._segments.get(start) == nbytes:
            self._unused -= nbytes
