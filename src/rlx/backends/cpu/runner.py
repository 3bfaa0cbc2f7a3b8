"""A program bound to its inputs and outputs: a call without arguments, which is one native call.

A `CpuRunner` owns an arena and scratch memory of its own, so several runners of one program, and the program itself,
may run at the same time; it keeps what owns the memory that it reads and writes. Each call reads what the inputs hold
then.
Any thread may call; calls of one runner take turns, by a lock or, where the program is brief, by the GIL. A call
allocates nothing, and holds the GIL in brief programs alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rlx.backends.cpu.walker import BoundProgram
from rlx.driver import DeviceArena
from rlx.driver.fork import renew_in_child
from rlx.errors import ProgramClosed


class CpuRunner:
    """See the module's contract.

    steps: bound to `arena`, `scratch` and the memory of inputs and outputs, which `keep` owns. threads: at most so many
    work on a call. watched: the arena is poisoned before each call, and its red zones are checked after.
    """

    def __init__(
        self,
        steps: BoundProgram,
        arena: DeviceArena,
        scratch: DeviceArena,
        keep: object,
        threads: int,
        *,
        watched: bool,
    ) -> None:
        self.threads = threads
        self._steps = steps
        self._arena = arena
        self._scratch = scratch
        self._keep: object | None = keep
        self._watched = watched
        renew_in_child(self)

    def renew(self) -> None:
        """Make the lock anew, and look for workers at the next call; see `rlx.driver.fork`."""
        self._lock = threading.Lock()
        self._walk: Callable[[], int] = _refuse if self._keep is None else self._first

    def __call__(self) -> None:
        """Run once. Raises ProgramClosed after `close`, or once the program is closed."""
        self._walk()

    def _first(self) -> int:
        with self._lock:
            if self._walk == self._first:  # no other thread was first, or closed the runner
                self._steps.start()
                self._walk = self._steps.walk if self._steps.brief and not self._watched else self._in_turn
        return self._walk()

    def _in_turn(self) -> int:
        with self._lock:
            if self._keep is None:
                return _refuse()
            if self._watched:
                self._arena.poison()
            self._steps.run()
            if self._watched:
                self._arena.check()
        return 0

    def close(self) -> None:
        """Give the memory back, once no call is under way."""
        with self._lock:
            if self._keep is not None:
                self._walk, self._keep = _refuse, None
                self._steps.end()
                self._arena.close()
                self._scratch.close()


def _refuse() -> int:
    raise ProgramClosed("the runner was closed, or the program that it runs")
