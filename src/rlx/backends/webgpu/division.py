"""Launches over parts of a kernel's work, where its arguments take more bindings than a shader has.

A kernel's work has axes (rows and columns of a product, its k, turns of a loop, places of a table), of each of which a
launch may take a range; it is bound to what those ranges touch of every argument. What axes a kernel has, and what a
range of them touches, its `Division` says: `loop_division` for loops, the templates themselves for tiles.

Where a range of an axis makes only a part of a sum, parts hand on what they have so far in memory of the launch's own.
Parts run in order, and those that share a sum in the order of the axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlx.codegen.kernel import Memory, TemplateKernel
from rlx.codegen.wgsl import Shader
from rlx.codegen.wgsl.interval import Interval

#: Axis -> the range [start, end) that one launch takes of it.
Ranges = Mapping[str, tuple[int, int]]

#: Launches that one kernel is divided into at most.
_MOST_PARTS = 256
#: Ranges begin at multiples of this, where they are longer: whole tiles, and whole vectors of an aligned operand.
_GRAIN = 64


class Division(Protocol):
    """How one kernel's work can be divided.

    args: the kernel's, then the memories by which parts hand on sums, of `handed` elements each.
    axes: turns of each, more than one; where equal ranges touch as much, the first is divided.
    """

    args: tuple[Memory, ...]
    handed: tuple[int, ...]
    axes: Mapping[str, int]

    def touched(self, ranges: Ranges) -> Sequence[Interval | None]:
        """For each of `args` the first and last element that may be touched, from its start; None: any of them.

        Ends before the memories of sums where the part makes whole ones.
        """
        ...

    def shader(self, ranges: Ranges, bases: Sequence[int]) -> Shader:
        """The shader of one part. bases: elements from the start of each binding to the start of its argument."""
        ...


@dataclass(frozen=True, eq=False)
class TiledKernel(TemplateKernel):
    """A template's kernel, with what can be divided of it; None: nothing."""

    division: Division | None = field(default=None, repr=False)


def divide(
    axes: Mapping[str, int], weigh: Callable[[Ranges], tuple[int, int]], max_bindings: int
) -> list[Ranges] | None:
    """Ranges of `axes` that cover all of them, in order, each of few enough bindings; None where there are none.

    weigh: (bindings, bytes) that a launch over ranges takes. Axes are halved, each time the one whose halves touch the
    fewest bytes together.
    """
    found: list[Ranges] = []

    def cover(ranges: Ranges) -> bool:
        bindings, nbytes = weigh(ranges)
        if bindings <= max_bindings:
            found.append(ranges)
            return len(found) <= _MOST_PARTS
        least, best = 2 * nbytes, list[Ranges]()
        for axis in axes:
            halves = _halves(ranges, axis)
            together = sum(weigh(half)[1] for half in halves)
            if halves and together < least:
                least, best = together, halves
        return bool(best) and all(cover(half) for half in best)

    return found if cover({axis: (0, turns) for axis, turns in axes.items()}) else None


def _halves(ranges: Ranges, axis: str) -> list[Ranges]:
    start, end = ranges[axis]
    half = -(-(end - start) // 2)
    if half >= end - start:
        return []
    if half > _GRAIN:
        half = -(-half // _GRAIN) * _GRAIN
    middle = start + half
    return [{**ranges, axis: (start, middle)}, {**ranges, axis: (middle, end)}]
