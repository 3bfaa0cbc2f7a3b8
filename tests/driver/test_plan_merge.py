"""Merging: every value in one box, no step's load changed, and a plan of the boxes is a plan of the values."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.driver import Interval, certify, plan_memory
from rlx.driver.plan_merge import merge, spread
from rlx.driver.plan_search import Component

Rows = list[tuple[int, int, int]]


def _drawn(seed: int, count: int) -> Rows:
    """Few steps and few sizes, so that much can merge."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 12, count).tolist()
    return [(a, a + 1 + int(rng.integers(8)), int(rng.choice([2, 3, 5]))) for a in starts]


def _component(rows: Rows) -> Component:
    return Component(*zip(*rows, strict=True))


def _boxes(rows: Rows) -> list[list[int]]:
    return sorted(sorted(value for value, _ in box.parts) for box in merge(_component(rows)))


def test_values_of_one_lifetime_are_one_box() -> None:
    assert _boxes([(0, 2, 5), (1, 3, 4), (0, 2, 7), (0, 2, 1), (2, 4, 6)]) == [[0, 2, 3], [1], [4]]


def test_values_of_one_size_that_follow_each_other_are_one_box() -> None:
    assert _boxes([(0, 4, 9), (1, 2, 6), (2, 3, 6), (3, 5, 6), (3, 4, 6), (4, 6, 1)]) == [[0], [1, 2, 3], [4], [5]]


def test_boxes_merge_in_turn() -> None:
    # the first two are alive together, and as large together as the third, which begins as they end
    assert _boxes([(0, 2, 3), (0, 2, 4), (2, 5, 7), (1, 4, 2), (4, 5, 1)]) == [[0, 1, 2], [3], [4]]


def test_values_without_a_kin_stay_as_they_are() -> None:
    rows = [(1, 4, 1), (0, 2, 2), (3, 5, 3)]
    assert [(box.size, box.parts) for box in merge(_component(rows))] == [(1, [(0, 0)]), (2, [(1, 0)]), (3, [(2, 0)])]


@pytest.mark.parametrize("seed", range(8))
def test_merging_changes_no_load_and_loses_no_value(seed: int) -> None:
    rows = _drawn(seed, 40)
    component = _component(rows)
    boxes = merge(component)
    assert len(boxes) < len(rows)
    assert sorted(value for box in boxes for value, _ in box.parts) == list(range(len(rows)))
    load = np.zeros_like(component.load)
    for box in boxes:
        load[box.start : box.end] += box.size
    assert load.tolist() == component.load.tolist()


@pytest.mark.parametrize("seed", range(8))
def test_values_of_boxes_that_are_apart_are_apart(seed: int) -> None:
    rows = _drawn(seed, 40)
    boxes = merge(_component(rows))
    ends = np.cumsum([box.size for box in boxes]).tolist()
    offsets = spread(boxes, [end - box.size for end, box in zip(ends, boxes, strict=True)])
    for i, (start, end, size) in enumerate(rows):
        for k in range(i):
            apart = offsets[i] + size <= offsets[k] or offsets[k] + rows[k][2] <= offsets[i]
            assert apart or end <= rows[k][0] or rows[k][1] <= start, (i, k)


def test_a_plan_that_exists_only_with_the_values_apart_is_found() -> None:
    # the last two have one lifetime; as one value they leave no plan smaller than 10
    rows = [
        (1, 4, 1),
        (1, 4, 2),
        (3, 5, 2),
        (7, 8, 3),
        (0, 3, 4),
        (5, 7, 5),
        (1, 5, 2),
        (0, 1, 5),
        (4, 8, 1),
        (4, 8, 3),
    ]
    count = len(merge(component := _component(rows)))
    assert count < len(rows)
    values = [Interval(str(i), start, end, size) for i, (start, end, size) in enumerate(rows)]
    assert plan_memory(values, alignment=1, budget_s=0.0).size == 10
    plan = plan_memory(values, alignment=1)
    certify(plan, values)
    assert plan.size == int(component.load.max()) == 9
