"""Merging of values that a plan may as well keep together, so that a search has fewer to place.

Values of one lifetime are laid on top of each other; values of one size, each of which begins where the one before
ends, are laid in one place. Either makes a box, which is placed like a value, and boxes merge in turn until none do.
No step's load changes, so the bound that a plan aims at stays what it was.

Offsets of the boxes are offsets of the values. The reverse does not hold: a plan of the values may have no place for
the boxes, so what is proven of the boxes is not proven of the values. Still a search comes further among the boxes
where they are few: layers that repeat hand one size on from step to step, and leave behind what lives as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlx.driver.plan_search import Component


@dataclass
class Box:
    """Values placed as one. start, end: its lifetime in sections of the component; size: in the component's unit.

    parts: (value, its offset in the box) for each.
    """

    start: int
    end: int
    size: int
    parts: list[tuple[int, int]]


def merge(component: Component) -> list[Box]:
    """The boxes that hold all values of the component, each value in one; by start where any merged."""
    lives = zip(component.first_section.tolist(), component.last_section.tolist(), component.sizes, strict=True)
    boxes = [Box(start, end, size, [(value, 0)]) for value, (start, end, size) in enumerate(lives)]
    while True:
        count = len(boxes)
        boxes = _in_rows(_in_stacks(boxes))
        if len(boxes) == count:
            return boxes


def spread(boxes: Sequence[Box], offsets: Sequence[int]) -> list[int]:
    """Offsets of the values, given those of their boxes."""
    found = [0] * sum(len(box.parts) for box in boxes)
    for box, offset in zip(boxes, offsets, strict=True):
        for value, within in box.parts:
            found[value] = offset + within
    return found


def _in_stacks(boxes: Sequence[Box]) -> list[Box]:
    """Boxes of one lifetime on top of each other."""
    stacks: dict[tuple[int, int], Box] = {}
    for box in boxes:
        stack = stacks.setdefault((box.start, box.end), box)
        if stack is not box:
            stack.parts += [(value, stack.size + within) for value, within in box.parts]
            stack.size += box.size
    return list(stacks.values())


def _in_rows(boxes: Sequence[Box]) -> list[Box]:
    """Boxes of one size after each other, where one begins as another ends; among equals the longest goes first."""
    rows: list[Box] = []
    ending: dict[tuple[int, int], list[Box]] = {}
    for box in sorted(boxes, key=lambda box: (box.start, -box.end)):
        before = ending.get((box.start, box.size))
        if before:
            row = before.pop()
            row.parts += box.parts
            row.end = box.end
        else:
            row = box
            rows.append(row)
        ending.setdefault((row.end, row.size), []).append(row)
    return rows
