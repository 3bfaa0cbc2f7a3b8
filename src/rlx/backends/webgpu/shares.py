"""A template's dimensions, divided among launches (see `division`): each dimension of each of its groups is an axis.

Groups are named as in the template's spec (batch, m, n, k), their dimensions by group and number: "m0", "m1".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from rlx.backends.webgpu.division import Ranges
from rlx.backends.webgpu.touches import touched_by
from rlx.codegen.kernel import Memory, Stmt, Var
from rlx.codegen.wgsl.interval import Interval

Groups = Mapping[str, Sequence[int]]


def axes_of(groups: Groups) -> dict[str, int]:
    """The axes of groups of sizes, and their turns."""
    return {f"{name}{i}": n for name, sizes in groups.items() for i, n in enumerate(sizes) if n > 1}


class Share:
    """What one launch takes of every dimension. sizes, starts: by group."""

    def __init__(self, groups: Groups, ranges: Ranges | None = None) -> None:
        taken = ranges or {}
        self.groups = groups
        both = {name: [taken.get(f"{name}{i}", (0, n)) for i, n in enumerate(sizes)] for name, sizes in groups.items()}
        self.starts = {name: tuple(start for start, _ in parts) for name, parts in both.items()}
        self.sizes = {name: tuple(end - start for start, end in parts) for name, parts in both.items()}

    def first(self, *groups: str) -> bool:
        """Whether dimensions are taken from their start on."""
        return not any(start for name in groups for start in self.starts[name])

    def last(self, *groups: str) -> bool:
        """Whether dimensions are taken up to their end."""
        return all(
            start + size == n
            for name in groups
            for start, size, n in zip(self.starts[name], self.sizes[name], self.groups[name], strict=True)
        )

    def whole(self, *groups: str) -> bool:
        return self.first(*groups) and self.last(*groups)

    def shift(self, groups: Iterable[str], strides: Sequence[object]) -> int:
        """Elements from an operand's start to that of the share; strides over the groups' dimensions in order."""
        starts = [start for name in groups for start in self.starts[name]]
        return sum(start * int(step) for start, step in zip(starts, strides, strict=True))

    def reach(self, groups: Sequence[str], strides: Sequence[object]) -> Interval:
        """The first and last element that the share touches of an operand."""
        sizes = [size for name in groups for size in self.sizes[name]]
        ends = [(size - 1) * int(step) for size, step in zip(sizes, strides, strict=True)]
        start = self.shift(groups, strides)
        return start + sum(min(end, 0) for end in ends), start + sum(max(end, 0) for end in ends)

    def touched_by(
        self, body: Sequence[Stmt], index: Sequence[Var], groups: Iterable[str], args: Sequence[Memory]
    ) -> list[Interval | None]:
        """What statements touch of `args`, where the variables of `index` count over the groups' dimensions."""
        places = [(a, a + n - 1) for name in groups for a, n in zip(self.starts[name], self.sizes[name], strict=True)]
        extents = {var.name: place for var, place in zip(index, places, strict=True)}
        found = touched_by(body, extents)
        return [found.get(memory.name, (0, 0)) for memory in args]


def row_major(sizes: Sequence[int]) -> tuple[int, ...]:
    """Elements a step of each dimension of a dense array."""
    return tuple(math.prod(sizes[i + 1 :]) for i in range(len(sizes)))
