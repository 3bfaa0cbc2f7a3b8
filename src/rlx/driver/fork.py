"""What a forked child must make anew: locks, and threads that only the parent has.

A lock that another thread held at the moment of the fork stays held in the child for ever, and no thread but the
forking one exists there. An object that owns a lock registers itself with `renew_in_child`, which calls its `renew` at
once and again in each child, before any other Python code runs there. An object whose state must not be torn apart by
a fork, since another thread was changing it, registers itself with `hold_over_forks` instead: the thread that forks
holds it meanwhile. Registration is weak: it keeps nothing alive.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Renewable(Protocol):
    def renew(self) -> None:
        """Make locks anew. Runs in a child that has one thread; must not wait for anything."""
        ...


class Holdable(Protocol):
    def hold(self) -> None:
        """Let no other thread change the object from here on. Called before a fork."""
        ...

    def let_go(self, in_child: bool) -> None:
        """Undo `hold`. Called after the fork, in both processes."""
        ...


_registered: weakref.WeakSet[Renewable] = weakref.WeakSet()
_holdable: weakref.WeakSet[Holdable] = weakref.WeakSet()
_on_hold: list[Holdable] = []
_forking = threading.Lock()  # two threads that fork must not each hold half of the owners


def renew_in_child(owner: Renewable) -> None:
    """Call `owner.renew()` now, and in every child forked from here on."""
    owner.renew()
    _registered.add(owner)


def hold_over_forks(owner: Holdable) -> None:
    """Call `owner.hold()` before every fork from here on, and `owner.let_go` after it.

    Owners are held together, so none may take another's lock while it holds its own.
    """
    _holdable.add(owner)


def _hold_all() -> None:
    _forking.acquire()
    for owner in list(_holdable):
        owner.hold()
        _on_hold.append(owner)


def _let_all_go(in_child: bool) -> None:
    while _on_hold:
        _on_hold.pop().let_go(in_child)
    _forking.release()


def _renew_all() -> None:
    _let_all_go(True)
    for owner in list(_registered):
        owner.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_all, after_in_parent=lambda: _let_all_go(False), after_in_child=_renew_all)
