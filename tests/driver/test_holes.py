"""Free ranges: what is handed out never overlaps, and what comes back joins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.driver.holes import Holes

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 40), st.sampled_from([1, 1, 1, 4, 16])),
        st.tuples(st.just("give"), st.integers(0, 1000), st.just(0)),
        st.tuples(st.just("drop"), st.integers(0, 300), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, divisible=st.booleans())
def test_ranges_never_overlap_and_each_byte_is_taken_or_free(
    steps: list[tuple[str, int, int]], divisible: bool
) -> None:
    holes = Holes(divisible=divisible)
    owner = np.full(1 << 13, -2)  # of each byte: -2 nobody's, -1 free, otherwise who has it
    taken: dict[int, tuple[int, int]] = {}
    end = 16
    for number, (what, value, alignment) in enumerate(steps):
        if what == "take":
            found = holes.take(value, alignment)
            if found is None:
                size = -(-value // 16) * 64
                holes.add(end, size)  # side by side with the one before
                owner[end : end + size] = -1
                end += size
                continue
            start, size = found
            assert start % alignment == 0 and size >= value and (size == value or not divisible)
            assert (owner[start : start + size] == -1).all()
            owner[start : start + size] = number
            taken[number] = found
        elif what == "give" and taken:
            number = list(taken)[value % len(taken)]
            start, size = taken.pop(number)
            assert (owner[start : start + size] == number).all()
            owner[start : start + size] = -1
            holes.give(start, size)
        elif what == "drop":
            for start, size in holes.drop_unused(value):
                assert (owner[start : start + size] == -1).all()
                owner[start : start + size] = -2
            assert holes.unused <= value
    for start, size in taken.values():
        holes.give(start, size)
    free = int((owner != -2).sum())
    assert holes.unused == free  # all of it is whole segments again
    assert sum(size for _, size in holes.drop_unused()) == free
    assert holes.largest == 0


def test_the_smallest_hole_that_serves_is_taken_and_of_equal_ones_the_lowest() -> None:
    holes = Holes(divisible=True)
    for start, size in ((1000, 300), (2000, 100), (3000, 100), (4000, 200)):
        holes.add(start, size)
    assert [holes.take(90, 1), holes.take(90, 1), holes.take(90, 1)] == [(2000, 90), (3000, 90), (4000, 90)]
    assert holes.largest == 300


def test_what_meets_is_joined_inside_a_segment_and_not_across_two() -> None:
    holes = Holes(divisible=True)
    holes.add(0, 64)
    holes.add(64, 64)
    parts = [holes.take(32, 1) for _ in range(4)]
    for part in parts:
        assert part is not None
        holes.give(*part)
    assert holes.largest == holes.take(64, 1)[1] == 64  # type: ignore[index]
    assert holes.take(65, 1) is None


def test_a_size_that_was_just_given_back_is_given_again_at_its_place() -> None:
    holes = Holes(divisible=True)
    holes.add(0, 1024)
    first, second = holes.take(64, 1), holes.take(64, 1)
    assert first is not None and second is not None
    holes.give(*first)
    assert holes.take(64, 1) == first


@pytest.mark.parametrize(("asked", "serves"), [(100, True), (88, True), (87, False), (101, False)])
def test_memory_that_cannot_be_divided_wastes_an_eighth_at_most(asked: int, serves: bool) -> None:
    holes = Holes(divisible=False)
    holes.add(0, 100)
    assert holes.take(asked, 1) == ((0, 100) if serves else None)


def test_the_largest_unused_segments_go_first() -> None:
    holes = Holes(divisible=True)
    for start, size in ((0, 10), (100, 30), (200, 20)):
        holes.add(start, size)
    assert holes.drop_unused(30) == [(100, 30)]
    held = holes.take(5, 1)
    assert held == (0, 5)
    assert holes.drop_unused() == [(200, 20)]
