"""Command streams: a device's work, in order, without waiting for it.

Ordering. Operations of one stream run one after the other, in the order in which they were enqueued; operations of two
streams are ordered only by `record` and `wait`. Enqueuing returns at once.
Owner. A stream keeps what its pending operations touch: `Buffer.free` after enqueuing is safe, the bytes end when the
operation is done.
Failure. The first operation that fails stops the stream: what is behind it does not run, events recorded behind it
fail, and each later wait (`synchronize`, `Event.wait`, another stream's) raises the same DeviceError, which names that
operation and has its exception as `__cause__`. `reset` makes the stream usable again. An operation given to `run_now`
reports to its caller alone, with its own exception.
Threads. Any thread may call anything. A worker thread starts with the first operation that is not run at once, never at
import, and sleeps while the stream is idle. Operations run on that thread, or on the caller's (`run_now`).
Fork. A forked child has an idle stream; work that was pending has failed there, and goes on in the parent.
Lifetime. A stream that nobody holds ends after its pending work. At interpreter exit pending work is dropped:
`synchronize` first.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from rlx.driver.buffer import Buffer
from rlx.driver.device import HOST, Device
from rlx.driver.event import Event
from rlx.driver.executable import Executable
from rlx.driver.fork import renew_in_child
from rlx.errors import DeviceError

#: Work on buffers: called with (inputs, outputs).
Work = Callable[[Sequence[Buffer], Sequence[Buffer]], None]


@dataclass(frozen=True, slots=True)
class _Operation:
    """What the worker takes. event: told how it went, even where the work is skipped because of a failure before."""

    name: str
    work: Callable[[], None] | None = None
    event: Event | None = None


class _Queue:
    """What a stream and its worker share. The worker holds this and not the stream, so that a stream can end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pending: deque[_Operation] = deque()
        self.failure: DeviceError | None = None
        self.closed = False
        self.working = False  # the worker is inside an operation
        renew_in_child(self)

    def renew(self) -> None:
        """Make the lock anew, fail what was pending, forget the parent's threads; see `rlx.driver.fork`."""
        self.lock = threading.Lock()
        self.ready = threading.Condition(self.lock)  # for the worker: something to do
        self.worker: threading.Thread | None = None
        self.direct = False  # a caller is inside run_now
        if self.pending or self.working:
            self.failure = DeviceError(f"{self.name} had work pending when this process was forked")
            self.pending.clear()
            self.working = False

    @property
    def idle(self) -> bool:
        return not (self.working or self.direct or self.pending)

    def put(self, operation: _Operation) -> None:
        with self.lock:
            if self.closed:
                raise DeviceError(f"{operation.name} came after {self.name} was closed")
            self.pending.append(operation)
            if self.worker is None:
                self.worker = threading.Thread(target=self.work, name=f"rlx {self.name}", daemon=True)
                self.worker.start()
            self.ready.notify()

    def work(self) -> None:
        """The worker's loop."""
        while True:
            with self.lock:
                self.ready.wait_for(lambda: not self.direct and (self.pending or self.closed))
                if not self.pending:
                    return
                operation = self.pending.popleft()
                self.working = True
            self.execute(operation)
            del operation  # what it holds ends with it, not with the next one
            with self.lock:
                self.working = False

    def execute(self, operation: _Operation) -> None:
        if self.failure is None and operation.work is not None:
            try:
                operation.work()
            except DeviceError as error:  # came by an event: the operation that failed first keeps its name
                self.failure = error
            except BaseException as error:  # noqa: BLE001  # whatever it is, it travels to those who wait
                self.failure = DeviceError(f"{operation.name} failed: {type(error).__name__}: {error}")
                self.failure.__cause__ = error
        if operation.event is not None:
            operation.event.finish(self.failure)

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.ready.notify()


class CommandStream:
    """Work for one device, first in, first out; see the module's contract. name: as messages tell it."""

    def __init__(self, device: Device = HOST, *, name: str = "") -> None:
        self.device = device
        self.name = name or f"the stream of {device}"
        self._queue = _Queue(self.name)
        weakref.finalize(self, self._queue.close).atexit = False

    # -- enqueue ---------------------------------------------------------------------------------------------------

    def run(
        self, work: Work | Executable, inputs: Sequence[Buffer] = (), outputs: Sequence[Buffer] = (), *, name: str = ""
    ) -> None:
        """Enqueue `work(inputs, outputs)`, or an executable's run.

        name: as a failure tells it; the work's own where empty. Raises BufferFreed, DeviceError after `close`.
        """
        call = _call_of(work)
        reads, writes = [b.retain() for b in inputs], [b.retain() for b in outputs]
        self._queue.put(_Operation(name or _name_of(work), lambda: call(reads, writes)))

    def copy(self, destination: Buffer, source: Buffer) -> None:
        """Enqueue `destination.copy_from(source)`. Raises BufferFreed, DeviceError after `close`."""
        target, origin = destination.retain(), source.retain()
        self._queue.put(_Operation(f"copy of {source.type}", lambda: target.copy_from(origin)))

    def fill(self, buffer: Buffer, value: complex | np.generic) -> None:
        """Enqueue `buffer.fill(value)`. Raises BufferFreed, DeviceError after `close`."""
        target = buffer.retain()
        self._queue.put(_Operation(f"fill of {buffer.type}", lambda: target.fill(value)))

    def record(self, event: Event) -> Event:
        """Put the event behind all that was enqueued, and return it. Raises EventError where it was recorded before."""
        event.begin()
        queue = self._queue
        with queue.lock:
            idle, failure = queue.idle, queue.failure
        if idle:
            event.finish(failure)
        else:
            queue.put(_Operation(f"record of {event.name}", event=event))
        return event

    def wait(self, event: Event) -> None:
        """Let what is enqueued from now on begin after the event. Raises EventError where it was never recorded."""
        event.check_recorded()
        self._queue.put(_Operation(f"wait for {event.name}", event.wait))

    # -- now -------------------------------------------------------------------------------------------------------

    def run_now(self, work: Work | Executable, inputs: Sequence[Buffer] = (), outputs: Sequence[Buffer] = ()) -> None:
        """Run behind all that was enqueued, and return when done: on this thread where the stream is idle.

        The work's exception is raised as it is, and does not fail the stream. Raises DeviceError where the stream has
        failed, BufferFreed.
        """
        call = _call_of(work)
        queue = self._queue
        with queue.lock:
            behind = queue.working or queue.direct or queue.pending or queue.failure or queue.closed
            if not behind:
                queue.direct = True
        if behind:
            self._run_behind(call, inputs, outputs)
            return
        try:
            holds = [b.block for b in (*inputs, *outputs)]  # noqa: F841  # against free() meanwhile
            call(inputs, outputs)
        finally:
            with queue.lock:
                queue.direct = False
                if queue.pending:
                    queue.ready.notify()

    def _run_behind(self, call: Work, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        failures: list[BaseException] = []
        reads, writes = [b.retain() for b in inputs], [b.retain() for b in outputs]

        def work() -> None:
            try:
                call(reads, writes)
            except BaseException as error:  # noqa: BLE001  # raised again by the caller, below
                failures.append(error)

        event = Event("run_now")
        event.begin()
        self._queue.put(_Operation("run_now", work, event))
        event.wait()
        if failures:
            raise failures[0]

    def synchronize(self) -> None:
        """Return when all that was enqueued is done. Raises the DeviceError of the first operation that failed."""
        self.record(Event("synchronize")).wait()

    @property
    def idle(self) -> bool:
        """True where nothing is running or pending."""
        with self._queue.lock:
            return self._queue.idle

    def reset(self) -> None:
        """Wait until idle and forget a failure, so that the stream works again. Never raises for a failure."""
        event = self.record(Event("reset"))
        try:
            event.wait()
        except DeviceError:
            self._queue.failure = None

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the stream after its pending work; does not wait for it. Closing twice is allowed."""
        self._queue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<CommandStream {self.name}{'' if self.idle else ', busy'}{', failed' if self._queue.failure else ''}>"


def _call_of(work: Work | Executable) -> Work:
    return getattr(work, "run", None) or work  # type: ignore[return-value]  # asking the protocol takes 10 us


def _name_of(work: object) -> str:
    return getattr(work, "__qualname__", None) or type(work).__name__
