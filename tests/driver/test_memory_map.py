"""The memory map names what is alive when the arena is fullest."""

from __future__ import annotations

from rlx.driver import Interval, memory_map, plan_memory


def test_the_map_names_the_values_at_the_peak_by_offset_and_the_free_bytes() -> None:
    values = [Interval("early", 0, 2, 1024), Interval("wide", 1, 4, 4096), Interval("late", 3, 5, 640)]
    plan = plan_memory(values)
    text = memory_map(plan, values)
    assert "arena of 5,120 bytes; lower bound 5,120; ratio 1.000" in text
    assert "peak at step 1: 2 of 3 values alive, 5,120 bytes" in text
    assert "late" not in text
    rows = [line.split() for line in text.splitlines()[3:]]
    assert {row[-1]: (row[0], row[1], row[3]) for row in rows} == {
        "early": (f"{plan.offsets['early']:,}", "1,024", "0..2"),
        "wide": (f"{plan.offsets['wide']:,}", "4,096", "1..4"),
    }


def test_gaps_at_the_peak_show_as_free() -> None:
    values = [Interval("a", 0, 1, 64), Interval("b", 1, 2, 256), Interval("c", 0, 2, 64)]
    plan = plan_memory(values)
    assert "(free)" not in memory_map(plan, values)
    gap = {**plan.offsets, "b": 128, "c": 0}
    spread = type(plan)(gap, plan.sizes, 384, plan.lower_bound, 64)
    (free,) = [line.split() for line in memory_map(spread, values).splitlines() if "(free)" in line]
    assert free[:2] == ["64", "64"]


def test_an_empty_plan_has_a_map() -> None:
    assert "no values" in memory_map(plan_memory([]), [])
