"""Memory plans: one arena, an offset a value.

The planner knows lifetimes and sizes, no graph. Plans are deterministic: the same values in the same order give the
same plan, on any machine. `rlx.driver.certificate` checks a plan without trusting any of this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from rlx.driver.memory_plan import Interval, MemoryPlan
from rlx.driver.plan_eject import eject
from rlx.driver.plan_merge import Box, merge, spread
from rlx.driver.plan_search import Component, improve
from rlx.errors import PlanError

#: Units of the searches' work that `budget_s` buys a second of.
WORK_PER_SECOND = 1_000_000
_BEYOND = 1 << 62  # of steps and bytes: sums of what is smaller are exact in 64 bits
_EXACT = 2 * WORK_PER_SECOND  # the most that the exact search gets: beyond, the local one finds more
_MERGED = 0.75  # of the budget, for plans that keep merged values together


def plan_memory(values: Sequence[Interval], *, alignment: int = 64, budget_s: float = 1.0) -> MemoryPlan:
    """Give every value an offset in one arena, so that values alive together never overlap.

    values: half-open lifetimes [start, end) in schedule steps, sizes in bytes; zero-sized values are allowed.
    alignment: bytes, a power of two; every offset is a multiple of it.
    budget_s: seconds that searches may take where the heuristics miss the bound; 0 keeps to the heuristics.
        They are nominal: a search counts its work at a fixed rate, so that a plan does not depend on how fast or how
        busy the machine is; a slow one takes longer.

    The plan's `ratio` is its size over `lower_bound`, the largest sum of sizes alive at one step; 1.0 cannot be
    improved.
    Raises PlanError for a negative size, an empty lifetime, a name given twice or a number beyond 2**62, naming the
    value; and for a budget that is no time.

    Method: values that no chain of shared steps connects are planned apart. First the heuristics stack values bottom
    up: the next one is always one whose lowest possible offset, on top of what is there already, is lowest; eight rules
    break ties, and the smallest arena wins. (Greedy orders with gap filling, as in Pisarchyk & Lee 2020, come out
    larger on the instances of Moffitt, MiniMalloc, ASPLOS 2023.) A rule takes O(n^2) steps of NumPy; large plans try
    fewer rules. Where they miss the bound, searches follow: for three quarters of the budget with values merged
    (`rlx.driver.plan_merge`), where any can be, then with the values apart. Either time `rlx.driver.plan_search`
    searches exactly for half, up to 2 s, and `rlx.driver.plan_eject` locally for the rest.
    """
    _check(values, alignment)
    if not 0 <= budget_s < math.inf:
        raise PlanError(f"budget_s is {budget_s!r}, expected seconds from 0")
    placed = [v for v in values if v.size]
    units = [_round_up(v.size, alignment) for v in placed]
    unit = math.gcd(*units) or 1
    units = [size // unit for size in units]
    bound, busiest = _load(placed, np.array(units, np.int64))
    rules = _RULES[: max(2, _STEPS // max(len(placed), 1))]
    offsets = [0] * len(placed)
    unfinished: list[tuple[list[int], list[int], list[list[int]]]] = []
    for component in _components(placed):
        members = [placed[i] for i in component]
        orders = _orders(members, [busiest[i] for i in component], rules)
        found, height = _stacked(members, [units[i] for i in component], orders, bound)
        for i, offset in zip(component, found, strict=True):
            offsets[i] = offset
        if height > bound:
            unfinished.append((component, found, orders))
    work = int(budget_s * WORK_PER_SECOND) // max(len(unfinished), 1)
    for component, found, orders in unfinished if work else ():
        members = [placed[i] for i in component]
        problem = Component([v.start for v in members], [v.end for v in members], [units[i] for i in component])
        boxes = merge(problem)
        merged = int(_MERGED * work) if len(boxes) < len(component) else 0
        if merged:
            found = min(found, _searched_merged(problem, boxes, rules, bound, merged), key=problem.height)
        for i, offset in zip(component, _searched(problem, found, orders, bound, work - merged), strict=True):
            offsets[i] = offset
    height = max((offset + size for offset, size in zip(offsets, units, strict=True)), default=0)
    where = {v.name: offset * unit for v, offset in zip(placed, offsets, strict=True)}
    return MemoryPlan(
        offsets={v.name: where.get(v.name, 0) for v in values},
        sizes={v.name: v.size for v in values},
        size=height * unit,
        lower_bound=bound * unit,
        alignment=alignment,
    )


def plan_apart(values: Sequence[Interval], *, alignment: int = 64, red_zone: int = 64) -> MemoryPlan:
    """A plan for debugging: no two values share a byte, and at least `red_zone` bytes lie around each.

    `lower_bound` is the usual one, so `ratio` says what debugging costs. Raises PlanError as `plan_memory`.
    """
    _check(values, alignment)
    offsets: dict[str, int] = {}
    end = 0
    for value in values:
        offsets[value.name] = _round_up(end + red_zone, alignment)
        end = offsets[value.name] + value.size
    sizes = {v.name: v.size for v in values}
    bound, _ = _load(values, np.array([_round_up(v.size, alignment) for v in values], np.int64))
    return MemoryPlan(offsets, sizes, _round_up(end + red_zone, alignment), bound, alignment)


_Rule = Callable[[Interval, int], tuple[int, ...]]
#: Rules that break ties, given a value and the largest load in its life: smaller comes first. Often best first.
_RULES: tuple[_Rule, ...] = (
    lambda v, load: (-load, v.start),
    lambda v, load: (-load, v.start - v.end, -v.size),
    lambda v, _: (-v.end, v.start),
    lambda v, _: (v.start, -v.end),
    lambda v, load: (-load, -v.end),
    lambda v, load: (-load, (v.start - v.end) * v.size),
    lambda v, _: (v.start - v.end, -v.size),
    lambda v, _: ((v.start - v.end) * v.size,),
)
_STEPS = 4000  # values placed, over all rules: some 30 ms


def _components(values: Sequence[Interval]) -> list[list[int]]:
    """Positions of the values, by start, cut where none is alive across."""
    components: list[list[int]] = []
    reach = -math.inf
    for i in sorted(range(len(values)), key=lambda i: values[i].start):
        if values[i].start >= reach:
            components.append([])
        components[-1].append(i)
        reach = max(reach, values[i].end)
    return components


def _searched(
    problem: Component, offsets: Sequence[int], orders: Sequence[Sequence[int]], bound: int, work: int
) -> list[int]:
    """Offsets of at most the height of `offsets`, searched exactly and then locally."""
    exact = min(work // 2, _EXACT)
    found, lowest = improve(problem, offsets, orders, bound, exact)
    return eject(problem, found, lowest, work - exact)


def _searched_merged(
    problem: Component, boxes: Sequence[Box], rules: Sequence[_Rule], bound: int, work: int
) -> list[int]:
    """Offsets for the values of the boxes, which keep each box together; heuristics and searches."""
    values = [Interval("", box.start, box.end, box.size) for box in boxes]
    sizes = [box.size for box in boxes]
    orders = _orders(values, [int(problem.load[box.start : box.end].max()) for box in boxes], rules)
    found, _ = _stacked(values, sizes, orders, bound)
    merged = Component([box.start for box in boxes], [box.end for box in boxes], sizes)
    return spread(boxes, _searched(merged, found, orders, bound, work))


def _orders(values: Sequence[Interval], busiest: Sequence[int], rules: Sequence[_Rule]) -> list[list[int]]:
    """The values by each of the rules."""
    return [sorted(range(len(values)), key=lambda i: rule(values[i], busiest[i])) for rule in rules]


def _stacked(
    values: Sequence[Interval], units: Sequence[int], orders: Sequence[Sequence[int]], bound: int
) -> tuple[list[int], int]:
    """The lowest of the stacks that the orders make, up to the first that is not above `bound`; and its height."""
    sizes = np.array(units, np.int64)
    stack = _Stack(values, sizes)
    best: tuple[list[int], int] | None = None
    for order in orders:
        offsets = stack.by(order)
        height = int((offsets + sizes).max())
        if best is None or height < best[1]:
            best = offsets.tolist(), height
        if height <= bound:
            break
    assert best is not None
    return best


class _Stack:
    """Stacking of one set of values. Values are kept by start, so that those which meet one lie in a short range."""

    def __init__(self, values: Sequence[Interval], units: np.ndarray) -> None:
        self.order = np.array(sorted(range(len(values)), key=lambda i: values[i].start), np.int64)
        starts = np.array([v.start for v in values], np.int64)[self.order]
        self.ends = np.array([v.end for v in values], np.int64)[self.order]
        self.starts = starts.tolist()
        self.units = units[self.order].tolist()
        # all that meet i lie in [first[i], last[i]): before it nothing lives on, after it all start later
        self.first = np.searchsorted(np.maximum.accumulate(self.ends), starts, side="right").tolist()
        self.last = np.searchsorted(starts, self.ends, side="left").tolist()

    def by(self, preference: Sequence[int]) -> np.ndarray:
        """Offsets, in the values' own order. preference: the values, the one to take first among equals first."""
        count = len(preference)
        rank = np.empty(count, np.int64)
        rank[np.array(preference, np.int64)] = np.arange(count)
        rank = rank[self.order]
        floor = rank.copy()  # (lowest possible offset) * count + rank: one minimum finds offset and rank
        offsets = np.empty(count, np.int64)
        for _ in range(count):
            i = int(floor.argmin())
            offset = int(floor[i]) // count
            offsets[self.order[i]] = offset
            first, last = self.first[i], self.last[i]
            near = floor[first:last]
            raised = rank[first:last] + (offset + self.units[i]) * count
            np.maximum(near, raised, out=near, where=self.ends[first:last] > self.starts[i])
            floor[i] = _PLACED
        return offsets


_PLACED = np.iinfo(np.int64).max


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _check(values: Sequence[Interval], alignment: int) -> None:
    if alignment < 1 or alignment & (alignment - 1):
        raise PlanError(f"alignment {alignment} is not a power of two")
    seen: set[str] = set()
    for value in values:
        numbers = value.start, value.end, value.size
        if not all(isinstance(n, int | np.integer) and abs(n) < _BEYOND for n in numbers):
            shown = ", ".join(map(repr, numbers))
            raise PlanError(f"value {value.name!r} is not of whole numbers below 2**62: {shown}")
        if value.size < 0:
            raise PlanError(f"value {value.name!r} has the size {value.size}, below 0")
        if value.end <= value.start:
            raise PlanError(f"value {value.name!r} is never alive: its lifetime is [{value.start}, {value.end})")
        if value.name in seen:
            raise PlanError(f"two values are named {value.name!r}")
        seen.add(value.name)
    total = sum(_round_up(v.size, alignment) for v in values)
    if total >= _BEYOND:
        raise PlanError(f"the values take {total} bytes together, expected less than 2**62")


def _load(values: Sequence[Interval], sizes: np.ndarray) -> tuple[int, list[int]]:
    """The largest sum of sizes alive at one step, and for each value the largest during its life."""
    if not values:
        return 0, []
    starts = np.array([v.start for v in values], np.int64)
    ends = np.array([v.end for v in values], np.int64)
    steps = np.array(sorted({*starts.tolist(), *ends.tolist()}))  # np.unique imports a megabyte of masked arrays
    change = np.zeros(len(steps), np.int64)
    first, last = np.searchsorted(steps, starts), np.searchsorted(steps, ends)
    np.add.at(change, first, sizes)
    np.subtract.at(change, last, sizes)
    load = np.cumsum(change)
    return int(load.max()), [int(load[a:b].max()) for a, b in zip(first.tolist(), last.tolist(), strict=True)]
