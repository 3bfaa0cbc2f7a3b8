"""Events: points in the work of a stream that anyone can wait for.

An `Event` is recorded once, by `CommandStream.record`; it is reached when all work that was in the stream before it is
done. To mark another point, make another event: a wait can then never mean two things. Waiting for an event that was
not recorded yet raises EventError, so waits between streams always point back in time and cannot form a circle.
(A `Semaphore` has neither limit: it is what an event is made of.)

Failure. Where work before the event failed, the event carries that failure: `query`, `wait`, and every stream that
waits for it raise the same DeviceError, which names the operation that failed first.
Threads. Any thread may call anything; `wait` lets other threads run, and Ctrl-C interrupts it.
Fork. In a forked child, events that were not reached at the fork have failed.
"""

from __future__ import annotations

import threading
import time

from rlx.driver.semaphore import Semaphore
from rlx.errors import DeviceError, EventError, EventTimeout, SemaphoreTimeout

_REACHED = 1


class Event:
    """A point in a stream's work; see the module's contract. name: as messages tell it."""

    def __init__(self, name: str = "event") -> None:
        self.name = name
        self._point = Semaphore(name=f"event {name!r}")
        self._recorded = threading.Lock()  # taken once, never given back
        self._reached_ns = 0

    @property
    def is_recorded(self) -> bool:
        """True once a stream has taken it, reached or not."""
        return self._recorded.locked()

    def query(self) -> bool:
        """True where reached. Raises the DeviceError it carries; never waits."""
        return self._point.query() == _REACHED

    def wait(self, timeout_s: float | None = None) -> None:
        """Return once reached. Raises the DeviceError it carries, EventTimeout, EventError where not recorded."""
        self.check_recorded()
        try:
            self._point.wait(_REACHED, timeout_s)
        except SemaphoreTimeout:
            raise EventTimeout(f"event {self.name!r} was not reached in {timeout_s} s") from None

    @property
    def time_ns(self) -> int:
        """When it was reached, by `time.perf_counter_ns`. Raises EventError before, or the DeviceError it carries."""
        if not self.query():
            raise EventError(f"event {self.name!r} is not reached yet, so it has no time")
        return self._reached_ns

    def check_recorded(self) -> None:
        """Raise EventError where no stream has taken it."""
        if not self.is_recorded:
            raise EventError(
                f"event {self.name!r} was never recorded", hint="stream.record(event) comes before any wait"
            )

    def begin(self) -> None:
        """A stream takes it. Raises EventError the second time. For streams."""
        if not self._recorded.acquire(blocking=False):
            raise EventError(f"event {self.name!r} is recorded already", hint="make a new event for each point")
        self._point.promise()

    def finish(self, failure: DeviceError | None) -> None:
        """Reached, or failed. For streams."""
        self._reached_ns = time.perf_counter_ns()
        if failure is None:
            self._point.signal(_REACHED)
        self._point.settle(failure)
