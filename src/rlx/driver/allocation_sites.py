"""Where live memory was allocated: for finding leaks.

    with track_allocations() as allocations:
        ...
    print(allocations)  # what was allocated inside and is live, the largest first, each with its file and line

Costs a walk up the calling frames an allocation while someone tracks, and the test of an empty list otherwise.

Threads. Allocations of every thread are noted. Trackers may overlap.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlx.driver.memory import Block


@dataclass(frozen=True)
class LiveAllocation:
    """A block that is held. where: "file:line" of the nearest caller outside RLX."""

    device: str
    nbytes: int
    whose: str
    where: str

    def __str__(self) -> str:
        return f"{self.nbytes} bytes on {self.device} for {self.whose}, allocated at {self.where}"


class Allocations:
    """What was allocated while this was tracking."""

    def __init__(self) -> None:
        self._noted: list[tuple[weakref.ref[Block], LiveAllocation]] = []

    @property
    def live(self) -> list[LiveAllocation]:
        """Those that are held still, the largest first."""
        self._noted = [(block, what) for block, what in self._noted if block() is not None]
        return sorted((what for _, what in self._noted), key=lambda what: -what.nbytes)

    def note(self, block: Block, what: LiveAllocation) -> None:
        """For `note`, below."""
        self._noted.append((weakref.ref(block), what))
        if len(self._noted) % 1024 == 0:
            _ = self.live  # forgets those that ended

    def __str__(self) -> str:
        live = self.live
        total = f"{len(live)} live allocations, {sum(what.nbytes for what in live)} bytes"
        return "\n".join([total, *(f"  {what}" for what in live)])


#: Who tracks now.
trackers: list[Allocations] = []


@contextmanager
def track_allocations() -> Iterator[Allocations]:
    """Note every allocation on every device while the body runs; see the module."""
    allocations = Allocations()
    trackers.append(allocations)
    try:
        yield allocations
    finally:
        trackers.remove(allocations)


def note(block: Block, whose: str) -> None:
    """A block was allocated. For `DeviceMemory`."""
    what = LiveAllocation(str(block.memory), block.nbytes, whose, _caller())
    for tracker in list(trackers):
        tracker.note(block, what)


def _caller() -> str:
    """The nearest line outside RLX; where all is RLX's, as on a command line, the outermost."""
    frame = sys._getframe(1)
    while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith("rlx."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
