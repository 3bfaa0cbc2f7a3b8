"""What a forked child must make anew: locks, and threads that only the parent has.

A lock that another thread held at the moment of the fork stays held in the child for ever, and no thread but the
forking one exists there. An object that owns a lock registers itself with `renew_in_child`, which calls its `renew` at
once and again in each child, before any other Python code runs there. Registration is weak: it keeps nothing alive.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    def renew(self) -> None:
        """Make locks anew. Runs in a child that has one thread; must not wait for anything."""
        ...


_registered: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_child(owner: Renewable) -> None:
    """Call `owner.renew()` now, and in every child forked from here on."""
    owner.renew()
    _registered.add(owner)


def _renew_all() -> None:
    for owner in list(_registered):
        owner.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
