"""Exact search for small memory plans: branch and bound with conflict analysis, on one time-connected component.

What is searched. In a solution worth having every value rests on the bottom or on a value below it, so a solution is an
order in which values are put on top of each other (the canonical solutions of Moffitt, MiniMalloc, ASPLOS 2023). The
search keeps for every value a floor: the lowest offset it can still have. A decision puts down the value with the
lowest floor, before all those that meet it, which lifts theirs; refuted, it means that one of them comes first, which
lifts its own. A section, a step with a maximal set of values alive, prunes: its lowest floor plus the sizes still to
come must fit the capacity. When no decision is left to refute, the capacity is proven too small.

What makes it fast. Each floor knows the decisions it follows from, one bit each, so a failure names the decisions to
blame, and the search jumps back to the latest of them (conflict-directed backjumping). Values in sections that fail
collect blame; runs are cut off and begin anew (Luby's sequence), and where floors are equal the most blamed goes first.

Plans are the same on every machine: work is counted in nominal microseconds, by what was touched, never by a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Work units, nominal microseconds: what a decision costs, and values looked at for one unit, by NumPy and by Python.
_DECISION, _VECTOR, _SCALAR = 60, 100, 3
_SECTIONS_EXAMINED = 4  # of those that fail at once
_TURN = 1_000_000  # units after which another order begins, with nobody to blame
_HALFWAY = 3  # each third run seeks something half-way
_PLACED = np.iinfo(np.int64).max


class Component:
    """Values to place, in the form that the search needs.

    starts, ends: half-open lifetimes; sizes: all above 0, in any unit. Values are named by their position.
    """

    def __init__(self, starts: Sequence[int], ends: Sequence[int], sizes: Sequence[int]) -> None:
        first, last = np.array(starts, np.int64), np.array(ends, np.int64)
        self.sizes = list(sizes)
        units = np.array(sizes, np.int64)
        # a section is maximal where a value starts and one ends before the next starts
        steps = np.array(sorted(set(starts)), np.int64)  # np.unique imports a megabyte of masked arrays
        following = np.append(steps[1:], _PLACED)
        ends_sorted = np.sort(last)
        steps = steps[ends_sorted[np.searchsorted(ends_sorted, steps, side="right")] <= following]
        self.first_section = np.searchsorted(steps, first, side="left")
        self.last_section = np.searchsorted(steps, last, side="left")
        sections = [np.flatnonzero((first <= step) & (step < last)) for step in steps]
        self.sections = [members.tolist() for members in sections]
        self.load = np.array([units[members].sum() for members in sections], np.int64)
        self.meeting = [np.flatnonzero((first < last[i]) & (first[i] < last)) for i in range(len(sizes))]
        self.meeting = [near[near != i] for i, near in enumerate(self.meeting)]
        # the members of all sections in one array, each section closed by a value that is never put down
        self.members = np.concatenate([np.append(members, len(sizes)) for members in sections])
        self.bounds = np.cumsum([0] + [len(members) + 1 for members in sections])

    def height(self, offsets: Sequence[int]) -> int:
        """Where the highest of the values ends."""
        return max(offset + size for offset, size in zip(offsets, self.sizes, strict=True))


@dataclass(frozen=True)
class Outcome:
    """How a run ended: with offsets, with a proof that there are none, or (neither) cut off."""

    offsets: list[int] | None
    impossible: bool
    work: int


def improve(
    component: Component, offsets: Sequence[int], orders: Sequence[Sequence[int]], lowest: int, work: int
) -> tuple[list[int], int]:
    """Offsets of at most the height of `offsets`, as near to `lowest` as `work` units allow; and a height, at least
    `lowest`, below which none are possible.

    orders: which of the values goes first where floors are equal, several ways to begin. lowest: a height below which
    nothing need be sought. Runs alternate between `lowest` and half-way to it, so that there is something to show for
    any amount of work.
    """
    best = list(offsets)
    height = component.height(best)
    turn = 0
    while work > 0 and height > lowest:
        order = np.array(orders[turn % len(orders)], np.int64)
        turn += 1
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        blame = np.zeros(len(order), np.int64)
        share = min(_TURN, work)
        work -= share
        number = 0
        while share > 0 and height > lowest:
            number += 1
            capacity = (lowest + height) // 2 if number % _HALFWAY == 0 else lowest
            limit = min(_luby(number) * len(order) * _DECISION // 2, share)
            found = search(component, capacity, np.lexsort((rank, -blame)), limit, blame)
            share -= max(found.work, 1)
            if found.offsets is not None:
                best = found.offsets
                height = component.height(best)
            if found.impossible:
                lowest = capacity + 1
        work += share
    return best, lowest


def search(component: Component, capacity: int, order: np.ndarray, limit: int, blame: np.ndarray) -> Outcome:
    """One run: offsets with which every value ends at `capacity` or below, if there are any.

    order: positions of all values; where floors are equal the earlier goes first. limit: units of work.
    blame: one more for each value in each section that failed; written.
    """
    if int(component.load.max()) > capacity:
        return Outcome(None, True, 0)
    return _Search(component, capacity, order).run(limit, blame)


class _Search:
    """The state of one run. Floors are kept as floor * count + rank: one minimum finds the value to put down next."""

    def __init__(self, component: Component, capacity: int, order: np.ndarray) -> None:
        count = len(component.sizes)
        self.component, self.capacity, self.count = component, capacity, count
        self.rank = np.empty(count, np.int64)
        self.rank[order] = np.arange(count)
        self.keys = np.append(self.rank, capacity * count)
        self.left = component.load * count  # sizes still to come in each section, scaled as the keys are
        self.offsets = [0] * count
        self.open = [True] * count
        #: for each value the floors it has had, each with the decisions it follows from, bit k for trail[k]
        self.floors: list[list[tuple[int, int]]] = [[(0, 0)] for _ in range(count)]
        #: (value, its key before, those it lifted, their keys before), or (value, its key before, None, None) if lifted
        self.trail: list[tuple[int, int, np.ndarray | None, np.ndarray | None]] = []

    def run(self, limit: int, blame: np.ndarray) -> Outcome:
        closed = work = 0
        while closed < self.count:
            if work >= limit:
                return Outcome(None, False, work)
            first, last = self._put_down(int(self.keys[:-1].argmin()))
            closed += 1
            work += _DECISION
            while failed := self._failing(first, last):
                work += sum(len(self.component.sections[s]) for s in failed) // _SCALAR
                culprits, reason = min((self._explain(s) for s in failed), key=lambda found: found[1])
                blame[culprits] += 1
                if not reason:
                    return Outcome(None, True, work)
                level = reason.bit_length() - 1
                value = self.trail[level][0]
                while len(self.trail) > level:
                    closed -= self._undo()
                first, last = self._lift(value, reason ^ (1 << level))
                work += len(self.component.meeting[value]) // _SCALAR
            work += int(self.component.bounds[last] - self.component.bounds[first]) // _VECTOR
        return Outcome(self.offsets, False, work)

    def _put_down(self, value: int) -> tuple[int, int]:
        """Give it its floor as its offset, and lift what meets it; the range of sections to look at."""
        component, count = self.component, self.count
        key = int(self.keys[value])
        offset = key // count
        top = offset + component.sizes[value]
        near = component.meeting[value]
        before = self.keys[near]
        low = before < top * count
        lifted, before = near[low], before[low]
        floor = (top, self.floors[value][-1][1] | 1 << len(self.trail))
        for other in lifted.tolist():
            self.floors[other].append(floor)
        self.trail.append((value, key, lifted, before))
        self.keys[lifted] = self.rank[lifted] + top * count
        self.keys[value] = _PLACED
        self.open[value] = False
        self.offsets[value] = offset
        first, last = int(component.first_section[value]), int(component.last_section[value])
        self.left[first:last] -= component.sizes[value] * count
        if len(lifted):
            first = min(first, int(component.first_section[lifted].min()))
            last = max(last, int(component.last_section[lifted].max()))
        return first, last

    def _failing(self, first: int, last: int) -> list[int]:
        """Sections in the range that cannot end at the capacity any more; not all where there are many."""
        bounds = self.component.bounds
        begin = bounds[first]
        least = np.minimum.reduceat(self.keys[self.component.members[begin : bounds[last]]], bounds[first:last] - begin)
        least += self.left[first:last]
        over = (self.capacity + 1) * self.count
        if least.max() < over:
            return []
        return (np.flatnonzero(least >= over)[:_SECTIONS_EXAMINED] + first).tolist()

    def _explain(self, section: int) -> tuple[list[int], int]:
        """The highest values of a section that overflow by themselves, and the decisions that make them."""
        sizes, floors = self.component.sizes, self.floors
        waiting = sorted(
            ((floors[v][-1][0], v) for v in self.component.sections[section] if self.open[v]), reverse=True
        )
        total = 0
        culprits: list[int] = []
        for floor, value in waiting:
            culprits.append(value)
            total += sizes[value]
            if floor + total > self.capacity:
                break
        reason = 0
        for value in culprits:
            reason |= self._reason(value, self.capacity + 1 - total)
        return culprits, reason

    def _reason(self, value: int, floor: int) -> int:
        """The decisions by which `value` first got at least this floor: the fewer, the further back a failure jumps."""
        floors = self.floors[value]
        at = len(floors) - 1
        while at and floors[at - 1][0] >= floor:
            at -= 1
        return floors[at][1]

    def _undo(self) -> bool:
        """Take the last entry off the trail; whether its value had been put down."""
        value, key, lifted, before = self.trail.pop()
        self.keys[value] = key
        if lifted is None:
            self.floors[value].pop()
            return False
        self.keys[lifted] = before
        for other in lifted.tolist():
            self.floors[other].pop()
        self.open[value] = True
        first, last = self.component.first_section[value], self.component.last_section[value]
        self.left[first:last] += self.component.sizes[value] * self.count
        return True

    def _lift(self, value: int, reason: int) -> tuple[int, int]:
        """Some value that meets this one comes before it, for `reason`; the range of sections to look at."""
        sizes, floors = self.component.sizes, self.floors
        waiting = [other for other in self.component.meeting[value].tolist() if self.open[other]]
        floor = min((floors[other][-1][0] + sizes[other] for other in waiting), default=self.capacity + 1)
        floor = min(floor, self.capacity + 1 - sizes[value])  # higher floors fail as well, for more reasons
        for other in waiting:
            reason |= self._reason(other, floor - sizes[other])
        self.trail.append((value, int(self.keys[value]), None, None))
        self.floors[value].append((floor, reason))
        self.keys[value] = floor * self.count + int(self.rank[value])
        return int(self.component.first_section[value]), int(self.component.last_section[value])


def _luby(number: int) -> int:
    """The sequence 1 1 2 1 1 2 4 1 1 2 1 1 2 4 8 ..., from number 1 on."""
    while number & (number + 1):
        number -= (1 << (number.bit_length() - 1)) - 1
    return (number + 1) // 2
