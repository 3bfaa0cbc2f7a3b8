"""Where streams' workers begin: not on a processor that another worker keeps busy.

The system chooses a thread's processor when it wakes it, and chooses one that is busy where all are for a moment, the
caller's own included. A worker that was put behind another one's long copy then waits until the system next looks, some
milliseconds later. So a worker that was woken and has not begun stays off the processors of those that have; when it
begins it has its freedom back, and the system may move it as it likes.

Threads. Any thread may call anything. On a system that binds no threads nothing happens.
Fork. A forked child has no workers.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

from rlx.driver.fork import renew_in_child


def _processor_asked() -> Callable[[], int] | None:
    """What tells the processor that the calling thread runs on, if this system binds threads."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        return ctypes.PyDLL(None).sched_getcpu
    except AttributeError:
        return None


class Placement:
    """See the module's contract; `PLACEMENT` is the only one a process needs. Workers are told apart by `native_id`."""

    def __init__(self) -> None:
        self._processor = _processor_asked()
        renew_in_child(self)

    def renew(self) -> None:
        """Forget all; see `rlx.driver.fork`."""
        self._lock = threading.Lock()
        self._busy: dict[int, int] = {}  # a worker that has begun -> the processor that it began on
        self._woken: dict[int, set[int] | None] = {}  # one that has not -> where it may run then, if kept off some now

    def wake(self, worker: int) -> None:
        """A worker is about to be woken, having something to do."""
        if self._processor is not None:
            with self._lock:
                free = self._woken.get(worker)
                for processor in self._busy.values():
                    free = self._keep_off(worker, processor, free)
                self._woken[worker] = free

    def begin(self, worker: int) -> None:
        """The calling worker begins to keep its processor busy, until `end`."""
        if self._processor is None:
            return
        with self._lock:
            free = self._woken.pop(worker, None)
            if free is not None:
                os.sched_setaffinity(worker, free)
            here = self._busy[worker] = self._processor()
            for other, free in self._woken.items():
                self._woken[other] = self._keep_off(other, here, free)

    def end(self, worker: int) -> None:
        """It is done, or only waits."""
        self._busy.pop(worker, None)

    def _keep_off(self, worker: int, processor: int, free: set[int] | None) -> set[int] | None:
        """Let a worker that has not begun run elsewhere, if it may; gives where it may when it begins."""
        try:
            now = os.sched_getaffinity(worker)
            if processor in now and len(now) > 1:
                os.sched_setaffinity(worker, now - {processor})
                return free or now
        except ProcessLookupError:  # it has ended
            pass
        return free


#: What all streams tell.
PLACEMENT = Placement()
