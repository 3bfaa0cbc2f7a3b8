"""Command streams: a device's work, in order, without waiting for it.

Ordering. Operations of one stream run one after the other, in the order in which they were enqueued; operations of two
streams are ordered only by semaphores and events. Enqueuing returns at once. A device may have any number of streams,
and they run beside each other.
Owner. A stream keeps what its pending operations touch: `Buffer.free` after enqueuing is safe, the bytes end when the
operation is done, also where it fails: the error keeps the lines that it came through, and no local variable of theirs.
Failure. The first operation that fails stops the stream: what is behind it does not run, events and semaphores behind
it fail, and each later wait (`synchronize`, `Event.wait`, `Semaphore.wait`, another stream's) raises the same
DeviceError, which names that operation and the line that enqueued it, and has its exception as `__cause__`. `reset`
makes the stream usable again, not what has failed with it. An operation given to `run_now` reports to its caller alone,
with its own exception. The loss of a device is a failure as well, a DeviceLost: the waits and operations after a
`reset` find the device lost again.
Threads. Any thread may call anything. A worker thread starts with the first operation that is not run at once, never at
import, and sleeps while the stream is idle. Operations run on that thread, or on the caller's (`run_now`).
Fork. A forked child has an idle stream; work that was pending has failed there, and goes on in the parent.
Lifetime. A stream that nobody holds ends after its pending work. At interpreter exit pending work is dropped:
`synchronize` first.
"""

from __future__ import annotations

import threading
import traceback
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np

from rlx.driver.buffer import Buffer
from rlx.driver.device import HOST, Device
from rlx.driver.event import Event
from rlx.driver.executable import Executable
from rlx.driver.fork import renew_in_child
from rlx.driver.launch_trace import LaunchTrace
from rlx.driver.operation import (
    Operation,
    Work,
    await_device,
    await_operation,
    call_of,
    call_site,
    copy_operation,
    fill_operation,
    is_asynchronous,
    name_of,
    record_operation,
    run_operation,
    signal_operation,
    wait_operation,
)
from rlx.driver.pending_work import PENDING_WORK
from rlx.driver.placement import PLACEMENT
from rlx.driver.semaphore import Semaphore
from rlx.errors import DeviceError, DriverError, RLXError


class _Queue:
    """What a stream and its worker share. The worker holds this and not the stream, so that a stream can end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pending: deque[Operation] = deque()
        self.failure: DeviceError | None = None
        self.trace: LaunchTrace | None = None
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

    def put(self, *operations: Operation) -> None:
        """Enqueue them behind one another, with nothing in between."""
        with self.lock:
            if self.closed:
                error = DeviceError(f"{operations[0].name} came after {self.name} was closed")
            else:
                error = None
                for operation in operations:
                    PENDING_WORK.begin(operation.blocks)
                self.pending.extend(operations)
                if self.worker is None:
                    self.worker = threading.Thread(target=self.work, name=f"rlx {self.name}", daemon=True)
                    self.worker.start()
                if not self.working and self.worker.native_id is not None:
                    PLACEMENT.wake(self.worker.native_id)
                self.ready.notify()
        if error is not None:
            for operation in operations:
                if operation.settle is not None:
                    operation.settle(error)
            raise error

    def work(self) -> None:
        """The worker's loop."""
        PENDING_WORK.exempt()
        me = threading.get_native_id()
        while True:
            with self.lock:
                self.ready.wait_for(lambda: not self.direct and (self.pending or self.closed))
                if not self.pending:
                    return
                operation = self.pending.popleft()
                self.working = True
            PLACEMENT.begin(me)
            if not operation.computes:
                PLACEMENT.end(me)
            self.execute(operation)
            PLACEMENT.end(me)
            del operation  # what it holds ends with it, not with the next one
            with self.lock:
                self.working = False

    def execute(self, operation: Operation) -> None:
        if self.trace is not None:
            self.trace.add(operation, "begun" if self.failure is None else "skipped")
        if self.failure is None and operation.work is not None:
            try:
                operation.work()
            except DeviceError as error:  # came from elsewhere: the operation that failed first keeps its name
                self.failure = error
                _let_go(error)
            except BaseException as error:  # noqa: BLE001  # whatever it is, it travels to those who wait
                what = error.message if isinstance(error, RLXError) else str(error)
                self.failure = DeviceError(
                    f"{operation.name} failed: {type(error).__name__}: {what}", where=operation.where
                )
                self.failure.__cause__ = error
                _let_go(error)
        PENDING_WORK.end(operation.blocks, self.failure)
        if operation.settle is not None:
            operation.settle(self.failure)
        del operation  # a failure's frames keep this one

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.ready.notify()


def _let_go(error: BaseException | None) -> None:
    """Let an error that outlives its work keep the lines that it came through, and nothing that they held."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class CommandStream:
    """Work for one device, first in, first out; see the module's contract. name: as messages tell it."""

    def __init__(self, device: Device | str = HOST, *, name: str = "") -> None:
        self.device = Device(device)
        self.name = name or f"the stream of {self.device}"
        self._queue = _Queue(self.name)
        weakref.finalize(self, self._queue.close).atexit = False

    # -- enqueue ---------------------------------------------------------------------------------------------------

    def run(
        self,
        work: Work | Executable,
        inputs: Sequence[Buffer] = (),
        outputs: Sequence[Buffer] = (),
        *,
        name: str = "",
        where: str = "",
    ) -> None:
        """Enqueue `work(inputs, outputs)`, or an executable's run.

        name: as a failure tells it; the work's own where empty. where: where it came from; the caller's line where
        empty. Raises BufferFreed, DeviceError after `close`.
        """
        self.enqueue(run_operation(work, inputs, outputs, name, where or call_site()))

    def copy(self, destination: Buffer, source: Buffer) -> None:
        """Enqueue `destination.copy_from(source)`. Raises BufferFreed, DeviceError after `close`."""
        self.enqueue(copy_operation(destination, source, "", call_site()))

    def fill(self, buffer: Buffer, value: complex | np.generic) -> None:
        """Enqueue `buffer.fill(value)`. Raises BufferFreed, DeviceError after `close`."""
        self.enqueue(fill_operation(buffer, value, "", call_site()))

    def signal(self, semaphore: Semaphore, value: int) -> None:
        """Let the semaphore reach `value` when all that was enqueued is done; where that fails, the semaphore fails.

        Raises SemaphoreError where no payload can be `value`, DeviceError after `close`.
        """
        self.enqueue(signal_operation(semaphore, value, self.device, "", call_site()))

    def wait(self, point: Event | Semaphore, value: int | None = None) -> None:
        """Let what is enqueued from now on begin after the event, or after the semaphore has reached `value`.

        Raises EventError where the event was never recorded; SemaphoreError where no payload can be `value`;
        DeviceError after `close`.
        """
        if isinstance(point, Event):
            self.enqueue(await_operation(point, call_site()))
        else:
            self.enqueue(wait_operation(point, 1 if value is None else value, "", call_site()))

    def record(self, event: Event) -> Event:
        """Put the event behind all that was enqueued, and return it. Raises EventError where it was recorded before."""
        return self._record(event, here=not is_asynchronous(self.device))

    def _record(self, event: Event, *, here: bool) -> Event:
        """here: where the stream is idle, this thread waits for the device and reaches the event."""
        event.begin()
        queue = self._queue
        with queue.lock:
            at_once, failure = here and queue.idle and queue.trace is None, queue.failure
        if at_once:
            event.finish(failure or self._device_failure())
        else:
            queue.put(record_operation(event, self.device, call_site()))
        return event

    def _device_failure(self) -> DeviceError | None:
        try:
            await_device(self.device)
        except DeviceError as error:
            return error
        return None

    def enqueue(self, *operations: Operation) -> None:
        """Enqueue operations behind one another, with nothing of another thread between them.

        Raises DeviceError after `close`.
        """
        if operations:
            self._queue.put(*operations)

    @contextmanager
    def trace(self) -> Iterator[LaunchTrace]:
        """Follow what is executed while the body runs. Raises DriverError where the stream is followed already."""
        trace = LaunchTrace()
        with self._queue.lock:
            if self._queue.trace is not None:
                raise DriverError(f"{self.name} has a launch trace already")
            self._queue.trace = trace
        try:
            yield trace
        finally:
            self._queue.trace = None

    # -- now -------------------------------------------------------------------------------------------------------

    def run_now(self, work: Work | Executable, inputs: Sequence[Buffer] = (), outputs: Sequence[Buffer] = ()) -> None:
        """Run behind all that was enqueued, and return when done: on this thread where the stream is idle.

        The work's exception is raised as it is, and does not fail the stream. Raises DeviceError where the stream has
        failed, BufferFreed.
        """
        call = call_of(work)
        queue = self._queue
        with queue.lock:
            behind = queue.working or queue.direct or queue.pending or queue.failure or queue.closed or queue.trace
            if not behind:
                queue.direct = True
        if behind:
            self._run_behind(call, inputs, outputs, name_of(work))
            return
        try:
            holds = [b.block for b in (*inputs, *outputs)]  # noqa: F841  # against free() meanwhile
            call(inputs, outputs)
            await_device(self.device)
        finally:
            with queue.lock:
                queue.direct = False
                if queue.pending:
                    queue.ready.notify()

    def _run_behind(self, call: Work, inputs: Sequence[Buffer], outputs: Sequence[Buffer], name: str) -> None:
        failures: list[BaseException] = []

        def work(reads: Sequence[Buffer], writes: Sequence[Buffer]) -> None:
            try:
                call(reads, writes)
                await_device(self.device)
            except BaseException as error:  # noqa: BLE001  # raised again by the caller, below
                failures.append(error)

        event, where = Event("run_now"), call_site()
        event.begin()
        self._queue.put(replace(run_operation(work, inputs, outputs, name, where), settle=event.finish))
        event.wait()
        if failures:
            raise failures[0]

    def synchronize(self) -> None:
        """Return when all that was enqueued is done. Raises the DeviceError of the first operation that failed."""
        self._record(Event("synchronize"), here=True).wait()

    @property
    def idle(self) -> bool:
        """True where nothing is running or pending."""
        with self._queue.lock:
            return self._queue.idle

    def reset(self) -> None:
        """Wait until idle and forget a failure, so that the stream works again. Never raises for a failure."""
        event = self._record(Event("reset"), here=True)
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
