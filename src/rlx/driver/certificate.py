"""Certificates for memory plans: a check that trusts nothing of the planner.

It is a sweep over time that keeps the values alive sorted by offset, so that each newcomer is compared with its two
neighbours alone; n values take O(n log n) comparisons.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from rlx.driver.memory_plan import Interval, MemoryPlan
from rlx.errors import PlanError


def certify(plan: MemoryPlan, values: Sequence[Interval]) -> None:
    """Check that a plan is one for these values.

    Every value, and no other, has an offset that is aligned and inside the arena; no two values alive at one step share
    a byte; `lower_bound` is what these values make it. Raises PlanError, naming the value, or the two that overlap.
    """
    names = {value.name for value in values}
    if strangers := sorted(set(plan.offsets) - names):
        raise PlanError(f"the plan places {strangers[0]!r}, which is not among the values")
    for value in values:
        if value.name not in plan.offsets:
            raise PlanError(f"the plan has no offset for {value.name!r}")
        offset = plan.offsets[value.name]
        if offset % plan.alignment:
            raise PlanError(f"{value.name!r} is at offset {offset}, no multiple of {plan.alignment}")
        if offset < 0 or offset + value.size > plan.size:
            raise PlanError(
                f"{value.name!r} lies in bytes [{offset}, {offset + value.size}), the arena has {plan.size}"
            )
        if plan.sizes.get(value.name) != value.size:
            raise PlanError(f"{value.name!r} has {value.size} bytes, the plan says {plan.sizes.get(value.name)}")
    bound = _sweep(plan, values)
    if bound != plan.lower_bound:
        raise PlanError(f"the plan's lower bound is {plan.lower_bound}, these values make it {bound}")


def _sweep(plan: MemoryPlan, values: Sequence[Interval]) -> int:
    events: list[tuple[int, int, Interval]] = []
    for value in values:
        if value.size:
            events += [(value.start, 1, value), (value.end, 0, value)]  # ends come before starts: half-open
    events.sort(key=lambda event: event[:2])
    alive: list[tuple[int, str, Interval]] = []
    load = peak = 0
    for step, is_start, value in events:
        key = (plan.offsets[value.name], value.name, value)
        place = bisect_left(alive, key[:2], key=lambda entry: entry[:2])
        rounded = -(-value.size // plan.alignment) * plan.alignment
        if not is_start:
            del alive[place]
            load -= rounded
            continue
        for neighbour in alive[max(place - 1, 0) : place + 1]:
            other = neighbour[2]
            if neighbour[0] < key[0] + value.size and key[0] < neighbour[0] + other.size:
                raise PlanError(
                    f"{other.name!r} in bytes [{neighbour[0]}, {neighbour[0] + other.size}) and {value.name!r} in "
                    f"bytes [{key[0]}, {key[0] + value.size}) overlap, and both are alive at step {step}"
                )
        insort(alive, key, key=lambda entry: entry[:2])
        load += rounded
        peak = max(peak, load)
    return peak
