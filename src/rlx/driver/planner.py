"""Memory plans: one arena, an offset a value.

The planner knows lifetimes and sizes, no graph. Plans are deterministic: the same values in the same order give the same
plan, on any machine. `rlx.driver.certificate` checks a plan without trusting any of this.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlx.errors import PlanError


@dataclass(frozen=True, slots=True)
class Interval:
    """A value to place: alive in steps [start, end), `size` bytes. Names are unique in a plan."""

    name: str
    start: int
    end: int
    size: int


@dataclass(frozen=True)
class MemoryPlan:
    """An offset for every value.

    offsets, sizes: name -> bytes. alignment: of every offset, in bytes.
    size: bytes of the arena, a multiple of the alignment.
    lower_bound: the largest sum of sizes, rounded up to the alignment, alive at one step: no plan is smaller.
    """

    offsets: Mapping[str, int]
    sizes: Mapping[str, int]
    size: int
    lower_bound: int
    alignment: int

    @property
    def ratio(self) -> float:
        """size / lower_bound; 1.0 cannot be improved."""
        return self.size / self.lower_bound if self.lower_bound else 1.0


def plan_memory(values: Sequence[Interval], *, alignment: int = 64) -> MemoryPlan:
    """Give every value an offset in one arena, so that values alive together never overlap.

    values: half-open lifetimes [start, end) in schedule steps, sizes in bytes; zero-sized values are allowed.
    alignment: bytes, a power of two; every offset is a multiple of it.

    The plan's `ratio` is its size over `lower_bound`, the largest sum of sizes alive at one step; 1.0 cannot be improved.
    Raises PlanError for a negative size, an empty lifetime or a name given twice, naming the value.

    Method: greedy placement at the lowest free offset in several orders (Pisarchyk & Lee 2020; Moffitt, MiniMalloc,
    ASPLOS 2023, for the static orders), keeping the smallest; it stops at the lower bound, or when the orders tried have
    looked at `_WORK` pairs of values, so that large programs get fewer orders, not long waits.
    """
    _check(values, alignment)
    sizes = [_round_up(v.size, alignment) for v in values]
    placed = [i for i, size in enumerate(sizes) if size]
    bound, pressure = _load([values[i] for i in placed], [sizes[i] for i in placed])
    conflicts = _conflicts([values[i] for i in placed])
    spans = [(sizes[i], values[i].end - values[i].start, values[i].start) for i in placed]
    best: list[int] = []
    height = 0
    pairs = sum(map(len, conflicts))
    work = 0
    for order in _orders(spans, pressure):
        offsets, top = _place(order, [s[0] for s in spans], conflicts)
        if not best or top < height:
            best, height = offsets, top
        work += pairs
        if height == bound or work > _WORK:
            break
    where = dict(zip(placed, best, strict=True))
    return MemoryPlan(
        offsets={v.name: where.get(i, 0) for i, v in enumerate(values)},
        sizes={v.name: v.size for v in values},
        size=height,
        lower_bound=bound,
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
    bound, _ = _load(values, [_round_up(v.size, alignment) for v in values])
    return MemoryPlan(offsets, sizes, _round_up(end + red_zone, alignment), bound, alignment)


_WORK = 200_000


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _check(values: Sequence[Interval], alignment: int) -> None:
    if alignment < 1 or alignment & (alignment - 1):
        raise PlanError(f"alignment {alignment} is not a power of two")
    seen: set[str] = set()
    for value in values:
        if value.size < 0:
            raise PlanError(f"value {value.name!r} has the size {value.size}, below 0")
        if value.end <= value.start:
            raise PlanError(f"value {value.name!r} is never alive: its lifetime is [{value.start}, {value.end})")
        if value.name in seen:
            raise PlanError(f"two values are named {value.name!r}")
        seen.add(value.name)


def _load(values: Sequence[Interval], sizes: Sequence[int]) -> tuple[int, list[int]]:
    """The largest sum of sizes alive at one step, and for each value the largest during its life."""
    if not values:
        return 0, []
    starts = np.array([v.start for v in values])
    ends = np.array([v.end for v in values])
    steps = np.unique(np.concatenate([starts, ends]))
    change = np.zeros(len(steps), np.int64)
    first, last = np.searchsorted(steps, starts), np.searchsorted(steps, ends)
    np.add.at(change, first, sizes)
    np.subtract.at(change, last, sizes)
    load = np.cumsum(change)
    return int(load.max()), [int(load[a:b].max()) for a, b in zip(first, last, strict=True)]


def _conflicts(values: Sequence[Interval]) -> list[list[int]]:
    """For each value, the values alive at some step of its life."""
    order = sorted(range(len(values)), key=lambda i: values[i].start)
    starts = [values[i].start for i in order]
    found: list[list[int]] = [[] for _ in values]
    for rank, i in enumerate(order):
        later = order[rank + 1 : bisect_left(starts, values[i].end, rank + 1)]
        found[i] += later
        for j in later:
            found[j].append(i)
    return found


def _orders(spans: Sequence[tuple[int, int, int]], pressure: Sequence[int]) -> list[list[int]]:
    """Static orders, the most often best first. spans: (size, length, start)."""
    keys = [
        lambda i: (-pressure[i], -spans[i][0], -spans[i][1]),
        lambda i: (-spans[i][0], -spans[i][1]),
        lambda i: (-spans[i][0] * spans[i][1], -spans[i][0]),
        lambda i: (-pressure[i], -spans[i][1], -spans[i][0]),
        lambda i: (-spans[i][1], -spans[i][0] * spans[i][1]),
        lambda i: (spans[i][2], -spans[i][0]),
        lambda i: (-pressure[i], -spans[i][0] * spans[i][1]),
        lambda i: (-spans[i][2] - spans[i][1], -spans[i][0]),
    ]
    return [sorted(range(len(spans)), key=key) for key in keys]


def _place(order: Sequence[int], sizes: Sequence[int], conflicts: Sequence[Sequence[int]]) -> tuple[list[int], int]:
    """Each value in turn at the lowest offset free of its conflicts: offsets, and the arena's size."""
    offsets = [-1] * len(sizes)
    top = 0
    for i in order:
        size = sizes[i]
        low = 0
        for start, end in sorted([(offsets[j], offsets[j] + sizes[j]) for j in conflicts[i] if offsets[j] >= 0]):
            if start - low >= size:
                break
            if end > low:
                low = end
        offsets[i] = low
        top = max(top, low + size)
    return offsets, top
