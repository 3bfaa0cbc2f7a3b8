"""The ejection search: its plans hold, get no larger with more work, and never need what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.driver import plan_eject
from rlx.driver.plan_eject import eject
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
    plans = [eject(component, _stacked(rows), bound, steps * plan_eject.STEP) for steps in (0, 100, 1000, 3000)]
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
