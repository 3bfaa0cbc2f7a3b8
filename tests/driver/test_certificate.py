"""The checker refuses every kind of wrong plan, naming the values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.driver import Interval, MemoryPlan, certify
from rlx.errors import PlanError

VALUES = [Interval("a", 0, 4, 100), Interval("b", 2, 6, 64), Interval("c", 4, 8, 128), Interval("none", 1, 9, 0)]
#: By hand: a and c follow each other at 0, b meets both.
PLAN = MemoryPlan(
    offsets={"a": 0, "b": 128, "c": 0, "none": 0},
    sizes={"a": 100, "b": 64, "c": 128, "none": 0},
    size=192,
    lower_bound=192,
    alignment=64,
)


def test_a_right_plan_passes() -> None:
    certify(PLAN, VALUES)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"offsets": {**PLAN.offsets, "b": 64}}, r"'a' in bytes \[0, 100\) and 'b' in bytes \[64, 128\).*step 2"),
        ({"offsets": {"a": 0, "b": 128, "none": 0}}, "no offset for 'c'"),
        ({"offsets": {**PLAN.offsets, "d": 0}}, "places 'd'"),
        ({"offsets": {**PLAN.offsets, "b": 120}}, "'b' is at offset 120"),
        ({"offsets": {**PLAN.offsets, "b": -64}}, r"'b' lies in bytes \[-64, 0\)"),
        ({"offsets": {**PLAN.offsets, "b": 192}}, r"'b' lies in bytes \[192, 256\), the arena has 192"),
        ({"sizes": {**PLAN.sizes, "a": 99}}, "'a' has 100 bytes, the plan says 99"),
        ({"lower_bound": 128}, "lower bound is 128, these values make it 192"),
        ({"lower_bound": 256}, "lower bound is 256"),
    ],
)
def test_a_wrong_plan_is_refused_with_names(change: dict[str, object], why: str) -> None:
    with pytest.raises(PlanError, match=why):
        certify(replace(PLAN, **change), VALUES)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(0, 6), st.integers(0, 12)), max_size=9),
)
def test_it_refuses_exactly_the_plans_in_which_a_pair_overlaps(rows: list[tuple[int, int, int, int]]) -> None:
    values = [Interval(f"v{i}", a, a + n, size) for i, (a, n, size, _) in enumerate(rows)]
    places = {f"v{i}": at for i, (*_, at) in enumerate(rows)}
    load = [sum(v.size for v in values if v.start <= s < v.end) for s in range(12)]
    plan = MemoryPlan(places, {v.name: v.size for v in values}, 100, max(load), 1)
    clash = any(
        a.start < b.end and b.start < a.end
        and max(places[a.name], places[b.name]) < min(places[a.name] + a.size, places[b.name] + b.size)
        for i, a in enumerate(values)
        for b in values[:i]
    )  # fmt: skip
    if clash:
        with pytest.raises(PlanError, match="overlap"):
            certify(plan, values)
    else:
        certify(plan, values)
