"""Ejection search for memory plans: a local search for components on which the exact search gets no further.

What is searched. A partial plan is an order: of two values that meet, it says which lies below. Every value can then
slide between the lowest offset, on top of what must be below it, and the highest, under what must be above. A step
inserts an absent value where the values in its way have the least blame, and evicts those. In the way is only what can
neither slide below nor above, so whatever has room makes room; offsets alone would hide it. A value that had to evict
others gains blame, so that what is hard to place stays once it is in (ejection chains, Glover 1996; guided local
search, Voudouris & Tsang 1999; both with insertion, Nagata & Bräysy 2009). Now and then some value moves to another
place that is free. When none is absent the capacity shrinks a little, and what sticks out of it is evicted, so there is
something to show for any amount of work. It proves nothing.

What makes it fast. The order is kept as edges from each value to those right above it, and an insertion or eviction
slides only the values that it moves, some ten a step.

Plans are the same on every machine: random numbers are seeded, blame is whole numbers, and work is counted in nominal
microseconds by what was touched, never by a clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from rlx.driver.plan_search import Component

#: Work units, nominal microseconds: of an insertion or eviction, and of a value that slides.
_PLACING, _SLIDING = 60, 2
_SHRINK = 400  # the capacity shrinks by one part in this many
_MOVING = 0.2  # steps after which a value moves, as a part of all
_BLAME, _BLAME_POWER = 16, 0.3  # a value's blame at first, and what it gains: 16 * size ** 0.3, rounded


def eject(component: Component, offsets: Sequence[int], lowest: int, work: int) -> list[int]:
    """Offsets of at most the height of `offsets`, as near to `lowest` as `work` units allow.

    offsets: a plan, in which values that meet never overlap. lowest: a height below which nothing need be sought.
    """
    best = list(offsets)
    height = component.height(best)
    if height <= lowest or work <= 0:
        return best
    search = _Ejection(component, best, height)
    while True:
        if not search.absent:
            best = list(search.lows)
            height = max(search.tops)
            if height <= lowest:
                break
            search.shrink(max(lowest, height - max(1, height // _SHRINK)))
        if search.work >= work:
            break
        search.step()
    return best


class _Ejection:
    """A partial plan, and the edges from each of its values to those right above it.

    Of a value that is present, `lows` and `highs` are its lowest and its highest offset, `tops` is where it ends at its
    lowest. An absent value has no edges, ends at 0 and begins at `far`, above all capacities, so it is in nobody's way.
    Edges may be more than are needed (where something came between two that meet elsewhere as well), never fewer.
    """

    def __init__(self, component: Component, offsets: Sequence[int], capacity: int) -> None:
        count = len(offsets)
        self.sizes, self.meeting = component.sizes, component.meeting
        first, last = component.first_section.tolist(), component.last_section.tolist()
        self.spans = [(1 << b) - (1 << a) for a, b in zip(first, last, strict=True)]  # sections, a bit each
        self.capacity, self.far = capacity, 2 * capacity
        self.gain = [max(1, round(_BLAME * size**_BLAME_POWER)) for size in self.sizes]
        self.blame = np.array(self.gain, np.int64)
        self.random = random.Random(0).random  # noqa: S311  # seeded, so that a file has one plan; no secret hangs on it
        self.work = 0
        self.lows, self.tops, self.highs = [0] * count, [0] * count, [self.far] * count
        self.tops_seen, self.highs_seen = np.zeros(count, np.int64), np.full(count, self.far)  # the same for NumPy
        self.below: list[set[int]] = [set() for _ in range(count)]
        self.above: list[set[int]] = [set() for _ in range(count)]
        self.absent: list[int] = []
        #: values whose lowest, highest offset may have changed, since something below, above them came or went
        self.unsettled: tuple[list[int], list[int]] = [], []
        order = sorted(range(count), key=offsets.__getitem__)
        for value in order:
            self._insert(value, offsets[value])
        self._settle()

    def shrink(self, capacity: int) -> None:
        lower = self.capacity - capacity
        self.capacity = capacity
        self.highs = [high if high == self.far else high - lower for high in self.highs]
        self.highs_seen = np.array(self.highs, np.int64)
        self._evict([value for value, top in enumerate(self.tops) if top > capacity])
        self._settle()

    def step(self) -> None:
        self._place(self._take())
        if self.random() < _MOVING:
            value = int(self.random() * len(self.sizes))
            if self.tops[value]:
                self._evict([value])
                self._settle()
                self.absent.pop()
                self._place(value)

    def _take(self) -> int:
        """Of two absent values drawn at random, the one with more blame; absent no more."""
        at, other = (int(self.random() * len(self.absent)) for _ in range(2))
        if self.blame[self.absent[other]] > self.blame[self.absent[at]]:
            at = other
        self.absent[at], self.absent[-1] = self.absent[-1], self.absent[at]
        return self.absent.pop()

    def _place(self, value: int) -> None:
        """Insert it where the values in its way have the least blame, and evict those."""
        near, size = self.meeting[value], self.sizes[value]
        tops, blame = self.tops_seen[near], self.blame[near]
        # one is in the way from `starts` to its top: before, it can slide above, and after, it lies below
        starts = self.highs_seen[near]
        starts -= size - 1
        np.minimum(starts, tops, out=starts)
        np.maximum(starts, 0, out=starts)
        places = np.concatenate(((0,), starts, tops))
        order = places.argsort()
        places = places[order]
        cost = np.concatenate(((0,), blame, -blame))[order].cumsum()
        # a cost holds up to the next place; of offsets that cost the same, the ends of each stretch are tried
        following = np.append(places[1:], self.far)
        cost[(places == following) | (places > self.capacity - size)] = _NEVER
        least = int(cost.min())
        equal = (cost == least).nonzero()[0]
        at = int(equal[int(self.random() * len(equal))])
        lowest = self.random() < 0.5
        offset = int(places[at]) if lowest else min(int(following[at]) - 1, self.capacity - size)
        if least:
            self.blame[value] += self.gain[value]
            self._evict(near[(tops > offset) & (self.highs_seen[near] < offset + size)].tolist())
        self._insert(value, offset)
        self._settle()

    def _evict(self, values: list[int]) -> None:
        lower, higher = self.unsettled
        for value in values:
            below, above, span = self.below[value], self.above[value], self.spans[value]
            top, high = self.tops[value], self.highs[value]
            for other in below:
                self.above[other].remove(value)
                if self.highs[other] + self.sizes[other] == high:
                    higher.append(other)
            stack = sorted(above, key=self.lows.__getitem__)
            for other in stack:
                self.below[other].remove(value)
                if self.lows[other] == top:
                    lower.append(other)
            for other in below:
                for upper in self._nearest(stack, self.spans[other] & span):
                    self.above[other].add(upper)
                    self.below[upper].add(other)
            self.below[value], self.above[value] = set(), set()
            self._set_low(value, 0, 0)
            self._set_high(value, self.far)
        self.absent += values
        self.work += _PLACING

    def _insert(self, value: int, offset: int) -> None:
        """Put it above all that meet it and end at `offset` or below, and below the others, which have room for it."""
        near, span, size = self.meeting[value], self.spans[value], self.sizes[value]
        tops = self.tops_seen[near]
        order = tops.argsort()
        split = int(tops[order].searchsorted(offset, side="right"))
        stack = near[order].tolist()
        below = self._nearest(reversed(stack[:split]), span)
        above = self._nearest(stack[split:], span)
        for other in below:
            edges, outside = self.above[other], self.spans[other] & ~span
            for upper in above & edges:
                if not outside & self.spans[upper]:
                    edges.remove(upper)
                    self.below[upper].remove(other)
            edges.add(value)
        for other in above:
            self.below[other].add(value)
        self.below[value], self.above[value] = below, above
        low = max([self.tops[other] for other in below], default=0)
        self._set_low(value, low, low + size)
        self._set_high(value, min([self.highs[other] for other in above], default=self.capacity) - size)
        self.work += _PLACING
        lower, higher = self.unsettled
        lower += [value, *(other for other in above if self.lows[other] < self.tops[value])]
        higher += [value, *(other for other in below if self.highs[other] + self.sizes[other] > self.highs[value])]

    def _nearest(self, values: Iterable[int], span: int) -> set[int]:
        """Those of `values`, nearest first, that are the first in some section of the span."""
        found: set[int] = set()
        for value in values:
            if span & self.spans[value] and self.tops[value]:
                found.add(value)
                span &= ~self.spans[value]
                if not span:
                    break
        return found

    def _settle(self) -> None:
        lower, higher = self.unsettled
        self.unsettled = [], []
        self._slide_lows([value for value in lower if self.tops[value]])
        self._slide_highs([value for value in higher if self.tops[value]])

    def _slide_lows(self, values: list[int]) -> None:
        """Renew the lowest offsets of these values, and of all above that this moves, from the bottom up."""
        lows, tops, below, above = self.lows, self.tops, self.below, self.above
        heap = [(lows[value], value) for value in values]
        heapify(heap)
        while heap:
            _, value = heappop(heap)
            low, before = max([tops[other] for other in below[value]], default=0), lows[value]
            self.work += _SLIDING
            if low == before:
                continue
            top_before, top = tops[value], low + self.sizes[value]
            self._set_low(value, low, top)
            for other in above[value]:
                if lows[other] == top_before or lows[other] < top:
                    heappush(heap, (lows[other], other))

    def _slide_highs(self, values: list[int]) -> None:
        """Renew the highest offsets of these values, and of all below that this moves, from the top down."""
        highs, below, above, sizes = self.highs, self.below, self.above, self.sizes
        heap = [(-highs[value], value) for value in values]
        heapify(heap)
        while heap:
            _, value = heappop(heap)
            high = min([highs[other] for other in above[value]], default=self.capacity) - sizes[value]
            self.work += _SLIDING
            before = highs[value]
            if high == before:
                continue
            self._set_high(value, high)
            for other in below[value]:
                top = highs[other] + sizes[other]
                if top == before or top > high:
                    heappush(heap, (-highs[other], other))

    def _set_low(self, value: int, low: int, top: int) -> None:
        self.lows[value], self.tops[value], self.tops_seen[value] = low, top, top

    def _set_high(self, value: int, high: int) -> None:
        self.highs[value] = self.highs_seen[value] = high


_NEVER = np.iinfo(np.int64).max
