"""Axes that the operands of one template share: groups of dimensions, each named by a letter, in few loops.

Every operand is a `Side`: its element is read over axes of every group. A group begins with one axis a dimension. Axes
are split where an address on any side needs that to become affine, and neighbours are merged where every side's
addresses step through them as through one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rlx.codegen.kernel import Expr, Load, Memory, Store
from rlx.codegen.lower.affine import Index
from rlx.codegen.lower.axes import Axis, Uses, make_axes, split_extents, trivial_extents
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.strided import address, buffer_of, strides_along
from rlx.codegen.program import Operand

#: Sizes of each group's dimensions, or extents of its axes.
Extents = Mapping[str, tuple[int, ...]]
#: Rounds of splitting: reshapes of reshapes need a second one.
_ROUNDS = 3


class Side:
    """One operand over the axes of every group.

    axes: of each group. index: of each group's dimensions. uses: set by whoever has built the side's expressions.
    """

    def __init__(self, sizes: Extents, extents: Extents) -> None:
        self.builder = KernelBuilder()
        self.axes: dict[str, tuple[Axis, ...]] = {}
        self.index: dict[str, Index] = {}
        for group, dimensions in sizes.items():
            self.axes[group], self.index[group] = make_axes(self.builder, dimensions, extents[group], group)
        self.uses = Uses([], set())

    def reads(self, stores: Iterable[Store]) -> None:
        """Note what the side computes."""
        self.uses = Uses.of(stores)


@dataclass(frozen=True)
class Strided:
    """An operand as it lies: the memory that a template is told of, and where its first element is."""

    memory: Memory
    operand: Operand


def fit(build: Callable[[Extents], dict[str, Side]], sizes: Extents) -> tuple[Extents, dict[str, Side]]:
    """The extents that suit every side that `build` makes over them, and those sides."""
    extents: Extents = {group: trivial_extents(dimensions) for group, dimensions in sizes.items()}
    sides = build(extents)
    for _ in range(_ROUNDS):
        finer = _finer(sides, extents)
        if finer is None:
            break
        extents = finer
        sides = build(extents)
    merged = _merged(sides, extents)
    return (extents, sides) if merged == extents else (merged, build(merged))


def _finer(sides: Mapping[str, Side], extents: Extents) -> Extents | None:
    """Extents after the splits that any side wishes for, one group at a time; None where there are none."""
    for side in sides.values():
        for group, axes in side.axes.items():
            split = split_extents(axes, side.builder)
            if split is not None:
                return {**extents, group: split}
    return None


def _merged(sides: Mapping[str, Side], extents: Extents) -> Extents:
    """Extents after merging neighbours wherever every side allows it."""
    result: dict[str, tuple[int, ...]] = {}
    for group, current in extents.items():
        merged = list(current[:1])
        for i, n in enumerate(current[1:]):
            if all(s.uses.mergeable(s.axes[group][i], s.axes[group][i + 1]) for s in sides.values()):
                merged[-1] *= n
            else:
                merged.append(n)
        result[group] = tuple(merged)
    return result


def strided(side: Side, load: Expr, groups: str, name: str) -> Strided | None:
    """The operand that `load` reads, with strides over the axes of `groups`; None where it moves along others.

    None too where its address is not affine in the axes.
    """
    place = address(load, side.builder)
    if place is None or not isinstance(load, Load) or place.const < 0:
        return None
    strides = strides_along(place, tuple(a for g in groups for a in side.axes[g]))
    if strides is None:
        return None
    operand = Operand(buffer_of(load, side.builder), place.const * load.dtype.itemsize)
    return Strided(Memory(name, load.dtype, strides), operand)
