"""Order of work for peak memory: the order sets the bound that no memory plan can beat.

Work is units in a valid order that touch buffers; a buffer is alive from the first unit that touches it to the last.
A few list schedulers propose orders, the peak of each is computed exactly, and the given order stays unless another's
peak is smaller: never worse than program order. Deterministic: ties go to program order.

Method: greedy by the bytes that a unit adds, from the inputs on and (the same, mirrored) from the outputs back; and
depth first, the operand whose making needs most memory first (Sethi & Ullman 1970). Some 20 ms for 1,000 units.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Units to order, by their positions in a valid order.

    after: for each unit the earlier ones that it must follow, once each.
    touches: for each unit the buffers it reads or writes, once each.
    sizes: bytes of each buffer.
    inside: bytes that each unit needs only while it runs.
    """

    after: Sequence[Sequence[int]]
    touches: Sequence[Sequence[int]]
    sizes: Sequence[int]
    inside: Sequence[int]

    def touching(self) -> list[list[int]]:
        """For each buffer the units that touch it."""
        found: list[list[int]] = [[] for _ in self.sizes]
        for unit, buffers in enumerate(self.touches):
            for buffer in buffers:
                found[buffer].append(unit)
        return found

    def before(self) -> list[list[int]]:
        """For each unit those that must follow it."""
        found: list[list[int]] = [[] for _ in self.after]
        for unit, earlier in enumerate(self.after):
            for other in earlier:
                found[other].append(unit)
        return found


def peak(work: Work, order: Sequence[int]) -> int:
    """The most bytes alive at once when the units run in this order."""
    left = [len(units) for units in work.touching()]
    started = [False] * len(left)
    alive = most = 0
    for unit in order:
        for buffer in work.touches[unit]:
            if not started[buffer]:
                started[buffer] = True
                alive += work.sizes[buffer]
        most = max(most, alive + work.inside[unit])
        for buffer in work.touches[unit]:
            left[buffer] -= 1
            if not left[buffer]:
                alive -= work.sizes[buffer]
    return most


def order_work(work: Work) -> list[int]:
    """Positions in the order to run them; program order where no proposal has a smaller peak."""
    best = list(range(len(work.after)))
    least = peak(work, best)
    proposals: tuple[Callable[[Work], list[int]], ...] = (_from_inputs, _from_outputs, _depth_first)
    for propose in proposals if least else ():
        order = propose(work)
        found = peak(work, order)
        if found < least:
            best, least = order, found
    return best


def _from_inputs(work: Work) -> list[int]:
    return _greedy(work, work.before(), [len(earlier) for earlier in work.after], 1)


def _from_outputs(work: Work) -> list[int]:
    return _greedy(work, work.after, [len(later) for later in work.before()], -1)[::-1]


def _greedy(work: Work, followers: Sequence[Sequence[int]], missing: list[int], sign: int) -> list[int]:
    """Of the units that nothing holds back, the one that adds fewest bytes, freed ones subtracted, comes next.

    missing: how many units each still waits for. sign: 1 breaks ties by position, -1 by position from the end.
    """
    touching = work.touching()
    left = [len(units) for units in touching]
    started = [False] * len(left)
    done = [False] * len(missing)

    def added(unit: int) -> int:
        begun = sum(work.sizes[b] for b in work.touches[unit] if not started[b])
        return begun - sum(work.sizes[b] for b in work.touches[unit] if left[b] == 1)

    waiting = [(added(unit), sign * unit) for unit, count in enumerate(missing) if not count]
    heapq.heapify(waiting)
    order: list[int] = []
    while waiting:
        cost, key = heapq.heappop(waiting)
        unit = sign * key
        if done[unit] or cost != added(unit):  # another entry says what it costs by now
            continue
        done[unit] = True
        order.append(unit)
        for follower in followers[unit]:
            missing[follower] -= 1
        changed = dict.fromkeys(followers[unit])
        for buffer in work.touches[unit]:
            left[buffer] -= 1
            if not started[buffer] or left[buffer] == 1:
                changed.update(dict.fromkeys(touching[buffer]))
            started[buffer] = True
        for other in changed:
            if not missing[other] and not done[other]:
                heapq.heappush(waiting, (added(other), sign * other))
    return order


def _depth_first(work: Work) -> list[int]:
    """From each result down; of a unit's operands the one that needs most memory beyond what it leaves comes first."""
    makes = [0] * len(work.after)  # bytes of the buffers that a unit is the first to touch
    for buffer, units in enumerate(work.touching()):
        if units:
            makes[units[0]] += work.sizes[buffer]
    needed: list[int] = []  # bytes at the peak of making a unit from nothing, as if it were a tree
    for unit, earlier in enumerate(work.after):
        held = highest = 0
        for other in sorted(earlier, key=lambda o: makes[o] - needed[o]):
            highest = max(highest, held + needed[other])
            held += makes[other]
        needed.append(max(highest, held + makes[unit] + work.inside[unit]))
    order: list[int] = []
    done = [False] * len(needed)
    for root in (unit for unit, later in enumerate(work.before()) if not later):
        stack = [(root, False)]
        while stack:
            unit, ready = stack.pop()
            if done[unit]:
                continue
            if ready:
                done[unit] = True
                order.append(unit)
                continue
            stack.append((unit, True))
            # the last one pushed is made first
            below = sorted((o for o in work.after[unit] if not done[o]), key=lambda o: (needed[o] - makes[o], -o))
            stack += [(other, False) for other in below]
    return order
