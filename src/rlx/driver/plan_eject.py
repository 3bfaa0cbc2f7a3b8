"""Ejection search for memory plans: a local search for components on which the exact search gets no further.

The search holds a partial plan below a capacity, and values that are absent from it. A step inserts an absent value
at the offset where the values in its way have the least blame, and evicts them (ejection chains, Glover 1996); a value
that had to evict others gains blame, so that whatever is hard to place stays once it is in (guided local search,
Voudouris & Tsang 1999; with ejection, Nagata & Bräysy 2009). Then a few values slide down or up until they touch one
that they meet, which joins free places. When none is absent the capacity shrinks a little, and what sticks out of it is
evicted, so there is something to show for any amount of work. It proves nothing.

Plans are the same on every machine: random numbers are seeded, blame is whole numbers, and work is counted in nominal
microseconds by steps, never by a clock.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from rlx.driver.plan_search import Component

#: Work units, nominal microseconds, of a step and its slides.
STEP = 120
_SLIDES = 10  # values that slide after a step
_SHRINK = 400  # the capacity shrinks by one part in this many
#: Reductions as they are, without the checks of the methods that wrap them: a slide is a few microseconds long.
_maximum, _minimum = np.maximum.reduce, np.minimum.reduce
_BLAME, _BLAME_POWER = 16, 0.3  # a value's blame at first, and what it gains: 16 * size ** 0.3, rounded


def eject(component: Component, offsets: Sequence[int], lowest: int, work: int) -> list[int]:
    """Offsets of at most the height of `offsets`, as near to `lowest` as `work` units allow.

    offsets: a plan, in which values that meet never overlap. lowest: a height below which nothing need be sought.
    """
    search = _Ejection(component, offsets)
    best = list(offsets)
    height = search.height()
    if height <= lowest:
        return best
    search.shrink(max(lowest, height - max(1, height // _SHRINK)))
    for _ in range(work // STEP):
        search.step()
        if not search.absent:
            best = search.offsets.tolist()
            height = search.height()
            if height <= lowest:
                break
            search.shrink(max(lowest, height - max(1, height // _SHRINK)))
    return best


class _Ejection:
    """A partial plan: absent values lie from `far` on, above all capacities, where they are in nobody's way."""

    def __init__(self, component: Component, offsets: Sequence[int]) -> None:
        self.sizes, self.meeting = component.sizes, component.meeting
        sizes = np.array(component.sizes, np.int64)
        self.offsets = np.array(offsets, np.int64)
        self.tops = self.offsets + sizes
        self.capacity = self.height()
        self.far = 2 * self.capacity + 1
        self.gain = np.maximum(1, np.rint(_BLAME * sizes**_BLAME_POWER)).astype(np.int64)
        self.blame = self.gain.copy()
        self.absent: list[int] = []
        self.random = random.Random(0).random  # noqa: S311 - no secret hangs on it

    def height(self) -> int:
        return int(self.tops.max())

    def shrink(self, capacity: int) -> None:
        self.capacity = capacity
        self._evict(np.flatnonzero(self.tops > capacity))

    def _evict(self, values: np.ndarray) -> None:
        self.offsets[values] = self.far
        self.tops[values] = 2 * self.far
        self.absent += values.tolist()

    def step(self) -> None:
        self._insert(self._take())
        for _ in range(_SLIDES):
            self._slide(int(self.random() * len(self.sizes)))

    def _take(self) -> int:
        """Of two absent values drawn at random, the one with more blame; absent no more."""
        at, other = (int(self.random() * len(self.absent)) for _ in range(2))
        if self.blame[self.absent[other]] > self.blame[self.absent[at]]:
            at = other
        self.absent[at], self.absent[-1] = self.absent[-1], self.absent[at]
        return self.absent.pop()

    def _insert(self, value: int) -> None:
        """Put it where it costs the least blame, at an end of the arena or right above or below one that it meets."""
        near, size = self.meeting[value], self.sizes[value]
        bottoms, tops, blame = self.offsets[near], self.tops[near], self.blame[near]
        places = np.concatenate((tops, bottoms - size, (0, self.capacity - size)))
        places = places[(places >= 0) & (places <= self.capacity - size)]
        # those in the way begin below the value's top, less those that end at its bottom or below
        cost = _sums(bottoms, blame, places + (size - 1)) - _sums(tops, blame, places)
        least = cost.min()
        equal = (cost == least).nonzero()[0]
        place = int(places[equal[int(self.random() * len(equal))]])
        if least:
            self.blame[value] += self.gain[value]
            self._evict(near[(bottoms < place + size) & (tops > place)])
        self._move(value, place)

    def _slide(self, value: int) -> None:
        """Move it down or up to the next one that it meets, or the end of the arena."""
        place = self.offsets.item(value)
        if place == self.far:
            return
        near, size = self.meeting[value], self.sizes[value]
        if self.random() < 0.5:
            tops = self.tops[near]
            self._move(value, int(_maximum(tops[tops <= place], initial=0)))
        else:
            bottoms = self.offsets[near]
            self._move(value, int(_minimum(bottoms[bottoms >= place + size], initial=self.capacity)) - size)

    def _move(self, value: int, place: int) -> None:
        self.offsets[value] = place
        self.tops[value] = place + self.sizes[value]


def _sums(at: np.ndarray, blame: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """For each limit, the blame of those with `at` <= limit."""
    order = at.argsort()
    sums = np.zeros(len(at) + 1, np.int64)
    np.cumsum(blame[order], out=sums[1:])
    return sums[at[order].searchsorted(limits, side="right")]
