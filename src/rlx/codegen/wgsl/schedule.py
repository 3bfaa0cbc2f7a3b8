"""Who does what: how a kernel's items and places are laid out over workgroups and their invocations.

Sizes depend on the kernel alone, never on the device, so that a sum's order, and its bits, are the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlx.codegen.wgsl.nests import Form

#: Invocations of a workgroup whose members need not know of each other; of many items, more, as starting one costs.
ALONE = 64
#: The most that every device allows.
MOST = 256
#: Places of a row below which one invocation takes them all, and places that each should have at least.
_FEW, _EACH = 32, 4
#: Invocations that keep a large device busy.
_ENOUGH = 1 << 16
#: Items of a lane axis side by side, so that what they load is one piece of memory; few, where items are.
_SIDES = (32, 16, 8)


@dataclass(frozen=True)
class Schedule:
    """items: a workgroup's. sharers: invocations that divide one item's places among them, a power of two.

    items_first: neighbouring invocations have neighbouring items, not neighbouring places of one.
    """

    items: int
    sharers: int
    items_first: bool

    @property
    def invocations(self) -> int:
        return self.items * self.sharers


def schedule(form: Form, items: int) -> Schedule:
    """The layout for a kernel with so many items in all (grid indices, times lanes)."""
    turns = max((nest.turns for nest in form.nests), default=1)
    alone = Schedule(ALONE if items < 4 * _ENOUGH else MOST, 1, True)
    if form.lane is None and not form.neighbours:
        if turns < _FEW:
            return alone
        sharers = min(MOST, _power(turns // _EACH))
        side = MOST // sharers
        while side > 1 and items < side * 128:  # few rows: more, smaller workgroups
            side //= 2
        return Schedule(side, sharers, False)
    if items >= _ENOUGH or turns < 4 * _EACH or not all(n.divisible for n in form.nests if n.axes):
        return alone
    wanted = min(_power(turns // _EACH), 2 * _power(_ENOUGH // items))
    side = next((n for n in _SIDES if MOST // n >= wanted), _SIDES[-1])
    side = min(side, 2 * _power(max(items - 1, 1))) if items > 1 else 1
    sharers = min(MOST // side, wanted)
    return Schedule(side, sharers, True) if sharers > 1 else alone


def _power(n: int) -> int:
    """The greatest power of two that is not above n."""
    return 1 << (max(n, 1).bit_length() - 1)
