"""Memory plans: right by an independent check, small, the same each time."""

from __future__ import annotations

import csv
from io import StringIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.driver import Interval, MemoryPlan, certify, plan_apart, plan_memory
from rlx.errors import PlanError

intervals = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 8), st.integers(0, 5000)), min_size=0, max_size=25
).map(lambda rows: [Interval(f"v{i}", a, a + n, size) for i, (a, n, size) in enumerate(rows)])


def _overlapping(plan: MemoryPlan, values: list[Interval]) -> list[tuple[str, str]]:
    """Pairs that share a byte and a step, by looking at every pair."""
    found = []
    for i, a in enumerate(values):
        for b in values[:i]:
            together = a.start < b.end and b.start < a.end
            low = max(plan.offsets[a.name], plan.offsets[b.name])
            high = min(plan.offsets[a.name] + a.size, plan.offsets[b.name] + b.size)
            if together and low < high:
                found.append((a.name, b.name))
    return found


def _bound(values: list[Interval], alignment: int) -> int:
    """The largest load, step by step."""
    steps = range(max((v.end for v in values), default=0))
    return max(
        (sum(-(-v.size // alignment) * alignment for v in values if v.start <= s < v.end) for s in steps), default=0
    )


def _random_values(count: int, life: int, seed: int) -> list[Interval]:
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, count, count)
    ends = starts + rng.integers(1, life + 1, count)
    sizes = rng.integers(1, 10**6, count)
    rows = zip(starts.tolist(), ends.tolist(), sizes.tolist(), strict=True)
    return [Interval(f"v{i}", start, end, size) for i, (start, end, size) in enumerate(rows)]


@settings(max_examples=200, deadline=None)
@given(intervals, st.sampled_from([1, 16, 64, 4096]))
def test_values_alive_together_never_overlap_and_the_figures_are_true(values: list[Interval], alignment: int) -> None:
    plan = plan_memory(values, alignment=alignment)
    assert _overlapping(plan, values) == []
    assert plan.lower_bound == _bound(values, alignment)
    assert plan.size >= plan.lower_bound
    assert plan.size % alignment == 0
    assert list(plan.offsets) == [v.name for v in values]
    for value in values:
        assert plan.offsets[value.name] % alignment == 0
        assert 0 <= plan.offsets[value.name] <= plan.size - value.size
    certify(plan, values)


@settings(max_examples=100, deadline=None)
@given(intervals)
def test_a_plan_apart_keeps_a_red_zone_around_every_value(values: list[Interval]) -> None:
    plan = plan_apart(values, alignment=64, red_zone=100)
    certify(plan, values)
    end = 0
    for offset, value in sorted((plan.offsets[v.name], v.name) for v in values):
        assert offset - end >= 100
        end = offset + plan.sizes[value]
    assert plan.size - end >= 100


def test_no_values_make_an_empty_plan_of_ratio_one() -> None:
    plan = plan_memory([])
    assert (plan.size, plan.lower_bound, plan.ratio, dict(plan.offsets)) == (0, 0, 1.0, {})
    assert plan_memory([Interval("a", 0, 1, 0)]).size == 0


def test_values_whose_lives_touch_share_memory() -> None:
    plan = plan_memory([Interval("a", 0, 1, 640), Interval("b", 1, 2, 640)])
    assert plan.size == 640
    assert plan.offsets["a"] == plan.offsets["b"] == 0


def test_a_chain_of_layers_reaches_the_bound() -> None:
    sizes = [196608, 786432, 49152, 1179648, 512, 65536]
    values = [Interval(f"x{i}", i, i + 2, sizes[i % 6]) for i in range(120)]
    values += [Interval(f"skip{i}", i, i + 9, sizes[i % 5]) for i in range(0, 120, 10)]
    assert plan_memory(values).ratio == 1.0


@pytest.mark.parametrize(("count", "life", "limit"), [(2000, 10, 1.02), (500, 50, 1.08), (2000, 2000, 1.03)])
def test_large_random_plans_stay_near_the_bound(count: int, life: int, limit: float) -> None:
    values = _random_values(count, life, seed=count + life)
    plan = plan_memory(values)
    certify(plan, values)
    assert plan.ratio <= limit


def test_plans_are_deterministic_and_do_not_depend_on_names() -> None:
    values = _random_values(300, 40, seed=5)
    plan = plan_memory(values)
    assert plan_memory(list(values)) == plan
    renamed = [Interval(f"other{i}", v.start, v.end, v.size) for i, v in enumerate(values)]
    assert list(plan_memory(renamed).offsets.values()) == list(plan.offsets.values())


def test_minimallocs_small_example_is_planned_at_its_bound() -> None:
    rows = "id,lower,upper,size\n0,0,3,4\n1,3,9,4\n2,0,9,4\n3,9,21,4\n4,0,21,4\n"  # the shape of its input.12.csv
    values = [
        Interval(r["id"], int(r["lower"]), int(r["upper"]), int(r["size"])) for r in csv.DictReader(StringIO(rows))
    ]
    plan = plan_memory(values, alignment=1)
    certify(plan, values)
    assert plan.size == 12


@pytest.mark.parametrize(
    ("values", "alignment", "why"),
    [
        ([Interval("neg", 0, 1, -4)], 64, "'neg' has the size -4"),
        ([Interval("dead", 3, 3, 4)], 64, r"'dead' is never alive.*\[3, 3\)"),
        ([Interval("late", 0, 1 << 63, 4)], 64, "'late' is not of whole numbers below"),
        ([Interval("half", 0, 1, 4.5)], 64, "'half' is not of whole numbers"),  # type: ignore[arg-type]
        ([Interval("a", 0, 1, 1 << 61), Interval("b", 0, 1, 1 << 61), Interval("c", 0, 1, 1)], 1, "together"),
        ([Interval("twin", 0, 1, 4), Interval("twin", 2, 3, 4)], 64, "two values are named 'twin'"),
        ([Interval("a", 0, 1, 4)], 48, "alignment 48"),
        ([Interval("a", 0, 1, 4)], 0, "alignment 0"),
    ],
)
def test_what_cannot_be_planned_is_named(values: list[Interval], alignment: int, why: str) -> None:
    for plan in (plan_memory, plan_apart):
        with pytest.raises(PlanError, match=why):
            plan(values, alignment=alignment)


@pytest.mark.parametrize("budget", [-1.0, float("nan"), float("inf")])
def test_a_budget_that_is_no_time_is_refused(budget: float) -> None:
    with pytest.raises(PlanError, match="budget_s"):
        plan_memory([Interval("a", 0, 1, 8)], budget_s=budget)
