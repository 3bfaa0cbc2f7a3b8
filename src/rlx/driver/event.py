"""Events: points in the work of a stream that anyone can wait for.

An `Event` is recorded once, by `CommandStream.record`; it is reached when all work that was in the stream before it is
done. To mark another point, make another event: a wait can then never mean two things. Waiting for an event that was
not recorded yet raises EventError, so waits between streams always point back in time and cannot form a circle.

Failure. Where work before the event failed, the event carries that failure: `query`, `wait`, and every stream that
waits for it raise the same DeviceError, which names the operation that failed first.
Threads. Any thread may call anything; `wait` lets other threads run, and Ctrl-C interrupts it.
Fork. In a forked child, events that were not reached at the fork have failed.
"""

from __future__ import annotations

import threading
import time
from typing import Literal

from rlx.driver.fork import renew_in_child
from rlx.errors import DeviceError, EventError, EventTimeout

State = Literal["new", "recorded", "reached", "failed"]


class Event:
    """A point in a stream's work; see the module's contract. name: as messages tell it."""

    def __init__(self, name: str = "event") -> None:
        self.name = name
        self._state: State = "new"
        self._failure: DeviceError | None = None
        self._reached_ns = 0
        renew_in_child(self)

    def renew(self) -> None:
        """Make the lock anew, and fail where nobody is left to reach this; see `rlx.driver.fork`."""
        self._changed = threading.Condition(threading.Lock())
        if self._state == "recorded":
            self._state = "failed"
            self._failure = DeviceError(f"event {self.name!r} belongs to work of the process this one was forked from")

    @property
    def is_recorded(self) -> bool:
        """True once a stream has taken it, reached or not."""
        return self._state != "new"

    def query(self) -> bool:
        """True where reached. Raises the DeviceError it carries; never waits."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # raised many times: traces must not pile up
        return self._state == "reached"

    def wait(self, timeout_s: float | None = None) -> None:
        """Return once reached. Raises the DeviceError it carries, EventTimeout, EventError where not recorded."""
        self.check_recorded()
        with self._changed:
            if not self._changed.wait_for(lambda: self._state in ("reached", "failed"), timeout_s):
                raise EventTimeout(f"event {self.name!r} was not reached in {timeout_s} s")
        self.query()

    @property
    def time_ns(self) -> int:
        """When it was reached, by `time.perf_counter_ns`. Raises EventError before, or the DeviceError it carries."""
        if not self.query():
            raise EventError(f"event {self.name!r} is not reached yet, so it has no time")
        return self._reached_ns

    def check_recorded(self) -> None:
        """Raise EventError where no stream has taken it."""
        if self._state == "new":
            raise EventError(
                f"event {self.name!r} was never recorded", hint="stream.record(event) comes before any wait"
            )

    def begin(self) -> None:
        """A stream takes it. Raises EventError the second time. For streams."""
        with self._changed:
            if self._state != "new":
                raise EventError(f"event {self.name!r} is recorded already", hint="make a new event for each point")
            self._state = "recorded"

    def finish(self, failure: DeviceError | None) -> None:
        """Reached, or failed. For streams."""
        with self._changed:
            self._reached_ns = time.perf_counter_ns()
            self._failure = failure
            self._state = "reached" if failure is None else "failed"
            self._changed.notify_all()
