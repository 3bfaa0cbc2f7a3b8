"""The ejection search: its plans hold, get no larger with more work, and never need what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.driver.plan_eject import _Ejection, eject
from rlx.driver.plan_search import Component

Rows = list[tuple[int, int, int]]


def _drawn(seed: int, count: int) -> Rows:
    rng = np.random.default_rng(seed)
    return [(int(a), int(a) + 3 + int(rng.integers(20)), int(rng.integers(1, 60))) for a in rng.integers(0, 50, count)]


def _load(rows: Rows) -> int:
    return max(sum(size for start, end, size in rows if start <= step < end) for step, _, _ in rows)


def _stacked(rows: Rows) -> list[int]:
    return np.cumsum([0, *(size for _, _, size in rows[:-1])]).tolist()


def _height_of_plan(rows: Rows, offsets: list[int]) -> int:
    """Of a plan in which no two overlap, by looking at every pair."""
    assert min(offsets) >= 0
    for i, (start, end, size) in enumerate(rows):
        for k in range(i):
            apart = offsets[i] + size <= offsets[k] or offsets[k] + rows[k][2] <= offsets[i]
            assert apart or end <= rows[k][0] or rows[k][1] <= start, (i, k)
    return max(offset + row[2] for offset, row in zip(offsets, rows, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_more_work_never_makes_a_plan_larger(seed: int) -> None:
    rows = _drawn(seed, 60)
    component, bound = Component(*zip(*rows, strict=True)), _load(rows)
    plans = [eject(component, _stacked(rows), bound, work) for work in (0, 20_000, 100_000, 400_000)]
    heights = [_height_of_plan(rows, plan) for plan in plans]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == sum(size for _, _, size in rows)
    assert bound <= heights[-1] < 0.9 * heights[0]


def test_a_near_plan_is_brought_nearer_to_the_bound() -> None:
    rows = _drawn(8, 70)
    component, bound = Component(*zip(*rows, strict=True)), _load(rows)
    near = eject(component, _stacked(rows), int(1.3 * bound), 10**6)
    nearer = eject(component, near, bound, 10**6)
    assert _height_of_plan(rows, nearer) < _height_of_plan(rows, near)


def test_the_same_work_gives_the_same_plan() -> None:
    rows = _drawn(5, 50)
    component = Component(*zip(*rows, strict=True))
    first, second = (eject(component, _stacked(rows), _load(rows), 10**5) for _ in range(2))
    assert first == second


def test_a_plan_at_the_lowest_height_is_returned_as_it_is() -> None:
    rows = _drawn(6, 20)
    stacked = _stacked(rows)
    assert eject(Component(*zip(*rows, strict=True)), stacked, sum(row[2] for row in rows), 10**9) == stacked


def _longest_stack(rows: Rows, present: list[int], offsets: list[int]) -> list[int]:
    """The lowest offsets that keep the order of these, found one by one from the bottom up."""
    lowest = [0] * len(rows)
    done: list[int] = []
    for value in sorted(present, key=offsets.__getitem__):
        start, end, _ = rows[value]
        lowest[value] = max(
            (lowest[o] + rows[o][2] for o in done if rows[o][0] < end and start < rows[o][1]), default=0
        )
        done.append(value)
    return lowest


def test_the_room_of_every_value_is_what_its_order_leaves() -> None:
    rows = _drawn(11, 60)
    component = Component(*zip(*rows, strict=True))
    search = _Ejection(component, _stacked(rows), sum(row[2] for row in rows))
    search.shrink(int(1.02 * _load(rows)))
    evictions = 0
    for _ in range(300):
        if not search.absent:
            search.shrink(max(search.tops) - 1)
        before = len(search.absent)
        search.step()
        evictions += max(0, len(search.absent) - before + 1)
        present = [value for value in range(len(rows)) if value not in search.absent]
        lows = _longest_stack(rows, present, search.lows)
        from_above = [search.capacity - search.highs[value] - row[2] for value, row in enumerate(rows)]
        highs = _longest_stack(rows, present, from_above)
        assert [search.lows[value] for value in present] == [lows[value] for value in present]
        assert [from_above[value] for value in present] == [highs[value] for value in present]
        assert all(search.lows[value] <= search.highs[value] for value in present)
    assert evictions > 100, "hardly anything was ever in the way"
