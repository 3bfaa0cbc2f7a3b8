"""Does a call wait, or return? Found out by holding a stream closed and calling from another thread.

A `Gate` is work that holds a stream until it is opened. A `Caller` makes one call on a thread of its own. That a call
waits can only be seen by waiting for it, a little (`BRIEFLY`); that it returns is given far longer than it needs
(`SOON`), so a slow machine cannot fail a right device. Every test of waiting has a positive control: the same call,
with nothing in its way, returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from rlx.driver import Buffer, CommandStream
from rlx.testing.conformance.expect import expect

#: Seconds that a right device never takes.
SOON = 20.0
#: Seconds for which a call that should wait is watched.
BRIEFLY = 0.03


class Gate:
    """Holds a stream from here on until `open`. Use as a context, so that a failing case lets the stream go."""

    def __init__(self, stream: CommandStream) -> None:
        self._reached, self._open = threading.Event(), threading.Event()
        stream.run(self._hold, name="gate")

    def _hold(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        self._reached.set()
        expect(self._open.wait(SOON), "nobody opened the gate")

    def await_reached(self) -> None:
        """Return once the stream stands at the gate."""
        expect(self._reached.wait(SOON), "the stream never came to the gate")

    def open(self) -> None:
        """Let the stream go on."""
        self._open.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc: object) -> None:
        self.open()


class Caller:
    """One call on a thread of its own, begun at once."""

    def __init__(self, call: Callable[[], Any], what: str) -> None:
        self._what = what
        self._error: BaseException | None = None
        self._result: Any = None

        def body() -> None:
            try:
                self._result = call()
            except BaseException as error:  # noqa: BLE001  # the case asks for it
                self._error = error

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()

    def must_wait(self) -> None:
        """Fail where the call has returned already."""
        self._thread.join(BRIEFLY)
        expect(self._thread.is_alive(), f"{self._what} returned, and should have waited")

    def must_return(self) -> Any:
        """The call's result, or its exception raised. Fail where it does not return."""
        self._thread.join(SOON)
        expect(not self._thread.is_alive(), f"{self._what} did not return")
        if self._error is not None:
            raise self._error
        return self._result

    def must_raise(self) -> BaseException:
        """The call's exception. Fail where it returns without one, or not at all."""
        self._thread.join(SOON)
        expect(not self._thread.is_alive(), f"{self._what} did not return")
        expect(self._error is not None, f"{self._what} raised nothing")
        assert self._error is not None
        return self._error


def expect_waits(call: Callable[[], Any], release: Callable[[], Any], what: str) -> Any:
    """Fail unless `call` waits until `release` and then returns; the control: called again, it returns at once."""
    caller = Caller(call, what)
    caller.must_wait()
    release()
    result = caller.must_return()
    Caller(call, f"{what}, with nothing in its way,").must_return()
    return result
