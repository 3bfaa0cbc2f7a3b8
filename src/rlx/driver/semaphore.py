"""Timeline semaphores: points in time that host and streams agree on.

A `Semaphore` is a payload of 64 bits, unsigned, that only grows. A stream signals it when the work before the signal is
done, and waits for it before the work after; the host does both directly. A wait may come before its signal is
enqueued, so streams can be made to wait for each other in a circle: that is the caller's to avoid, or to see with
`timeout_s`.

Failure. A failed operation fails every semaphore that it, or what was behind it on its stream, would have signalled.
The failure stays in the payload: each later wait, whatever its value, on any stream or thread, raises the same
DeviceError, which names the operation that failed first and where it came from. A failed semaphore stays failed.
Threads. Any thread may call anything; `wait` lets other threads run, and Ctrl-C interrupts it.
Lifetime. A stream keeps the semaphores of its pending work alive.
Fork. In a forked child a semaphore that the parent's streams were still to signal has failed.
"""

from __future__ import annotations

import threading

from rlx.driver.fork import renew_in_child
from rlx.errors import DeviceError, SemaphoreError, SemaphoreTimeout

#: The largest payload.
MAX_PAYLOAD = 2**64 - 1


class Semaphore:
    """A point in time as a growing number; see the module's contract.

    value: the payload to begin with. name: as messages tell it.
    Raises SemaphoreError where `value` is no whole number of 64 bits.
    """

    def __init__(self, value: int = 0, *, name: str = "semaphore") -> None:
        self.name = name
        self._value = check_payload(name, value)
        self._failure: DeviceError | None = None
        self._promised = 0  # signals that streams have yet to make
        renew_in_child(self)

    def renew(self) -> None:
        """Make the lock anew, and fail where nobody is left to signal; see `rlx.driver.fork`."""
        self._changed = threading.Condition(threading.Lock())
        if self._promised:
            self._failure = DeviceError(f"{self.name} belongs to work of the process this one was forked from")
            self._promised = 0

    @property
    def failure(self) -> DeviceError | None:
        """What it carries instead of time, if anything; never raises."""
        return self._failure

    def query(self) -> int:
        """The payload. Raises the DeviceError it carries; never waits."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # raised many times: traces must not pile up
        return self._value

    def signal(self, value: int) -> None:
        """Let the payload be `value`, and wake who waits for it.

        Raises SemaphoreError where the payload would not grow, the DeviceError it carries.
        """
        check_payload(self.name, value)
        with self._changed:
            if value <= self.query():
                raise SemaphoreError(
                    f"{self.name} is at {self._value}, so it cannot be signalled to {value}",
                    hint="a payload only grows: signal a larger value, or use another semaphore",
                )
            self._value = value
            self._changed.notify_all()

    def fail(self, failure: DeviceError) -> None:
        """Let every wait from now on raise `failure`. A semaphore that has failed keeps its first failure."""
        with self._changed:
            if self._failure is None:
                self._failure = failure
                self._changed.notify_all()

    def wait(self, value: int, timeout_s: float | None = None) -> None:
        """Return once the payload is at least `value`.

        Raises the DeviceError it carries; SemaphoreTimeout; SemaphoreError where no payload can be `value`.
        """
        if self.query() >= value:
            return
        check_payload(self.name, value)
        with self._changed:
            if not self._changed.wait_for(lambda: self._failure is not None or self._value >= value, timeout_s):
                raise SemaphoreTimeout(
                    f"{self.name} did not reach {value} in {timeout_s} s",
                    where=f"it is at {self._value}, with {self._promised} signals enqueued",
                )
        self.query()

    def promise(self) -> None:
        """Say that a signal was enqueued; `settle` takes the promise back. For streams."""
        with self._changed:
            self._promised += 1

    def settle(self, failure: DeviceError | None) -> None:
        """Say that an enqueued signal was made, or never will be because of `failure`. For streams."""
        with self._changed:
            self._promised -= 1
        if failure is not None:
            self.fail(failure)

    def __repr__(self) -> str:
        return f"<Semaphore {self.name} at {self._value}{', failed' if self._failure else ''}>"


def check_payload(name: str, value: int) -> int:
    """`value`, if a payload can have it. Raises SemaphoreError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_PAYLOAD:
        raise SemaphoreError(f"{name} cannot have the payload {value!r}", hint="whole numbers from 0 to 2**64 - 1")
    return value
