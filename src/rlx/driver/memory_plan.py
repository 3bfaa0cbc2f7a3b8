"""What a memory planner is given and what it gives: values with lifetimes, and an offset for each.

Both are plain data, so that a program can be loaded without its planner (`rlx.driver.planner`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """A value to place: alive in steps [start, end), `size` bytes. Names are unique in a plan."""

    name: str
    start: int
    end: int
    size: int


@dataclass(frozen=True)
class MemoryPlan:
    """An offset for every value.

    offsets, sizes: name -> bytes. alignment: of every offset, in bytes.
    size: bytes of the arena, a multiple of the alignment.
    lower_bound: the largest sum of sizes, rounded up to the alignment, alive at one step: no plan is smaller.
    """

    offsets: Mapping[str, int]
    sizes: Mapping[str, int]
    size: int
    lower_bound: int
    alignment: int

    @property
    def ratio(self) -> float:
        """size / lower_bound; 1.0 cannot be improved."""
        return self.size / self.lower_bound if self.lower_bound else 1.0
