"""The memory map names what is alive when the arena is fullest."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from rlx.driver import Interval, memory_map, memory_map_svg, plan_memory

SVG = "{http://www.w3.org/2000/svg}"


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


def _rectangles(svg: str) -> dict[str, tuple[str, float, float, float, float]]:
    """By title up to the colon: class, x, y, width, height."""
    found = {}
    for rect in ET.fromstring(svg).iter(f"{SVG}rect"):
        title = (rect.findtext(f"{SVG}title") or "").partition(":")[0]
        x, y, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        found[title] = (rect.attrib["class"], x, y, width, height)
    return found


def test_the_picture_draws_every_value_to_scale_and_marks_those_at_the_peak() -> None:
    values = [Interval("early", 2, 4, 1024), Interval("wide", 3, 6, 4096), Interval("late", 5, 7, 640)]
    plan = plan_memory(values)
    svg = memory_map_svg(plan, values)
    drawn = _rectangles(svg)
    _, left, top, width, height = drawn.pop("the arena")
    assert {name for name, (kind, *_) in drawn.items() if kind == "value peak"} == {"early", "wide"}
    for value in values:
        _, x, y, across, up = drawn.pop(value.name)
        offset = plan.offsets[value.name]
        assert (x - left) / width == pytest.approx((value.start - 2) / 5, abs=1e-3)
        assert across / width == pytest.approx((value.end - value.start) / 5, abs=1e-3)
        assert (top + height - y - up) / height == pytest.approx(offset / plan.size, abs=1e-3)
        assert up / height == pytest.approx(value.size / plan.size, abs=1e-3)
    assert drawn == {}
    assert "peak at step 3: 2 of 3 values alive, 5,120 bytes" in svg
    line = ET.fromstring(svg).find(f"{SVG}line")
    assert line is not None
    assert float(line.attrib["x1"]) == pytest.approx(left + width * 1.5 / 5, abs=0.1)


def test_names_that_are_no_xml_are_drawn_all_the_same() -> None:
    values = [Interval("a<b>&\x07", 0, 1, 64)]
    assert "a<b>&?" in _rectangles(memory_map_svg(plan_memory(values), values))


def test_an_empty_plan_has_a_picture_without_values() -> None:
    assert list(_rectangles(memory_map_svg(plan_memory([]), []))) == ["the arena"]
