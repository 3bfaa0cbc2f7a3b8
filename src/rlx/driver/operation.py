"""Operations: what a stream does, one after the other, each with its name and the place that it came from.

The functions here make operations; a `CommandStream` executes them. An operation holds its buffers' bytes (not the
buffers: `Buffer.free` after the making is safe), so it keeps what it touches until it ends. It never changes; the
stream's thread executes it, once. Work is bound by `partial`, since the frames of a failure keep what a closure holds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from rlx.driver.buffer import Buffer
from rlx.driver.device import Device
from rlx.driver.element import element_of
from rlx.driver.event import Event
from rlx.driver.executable import Executable
from rlx.driver.memory import Block, device_memory
from rlx.driver.semaphore import Semaphore, check_payload
from rlx.errors import BufferMismatch, DeviceError
from rlx.ir.dtypes import DType

#: Work on buffers: called with (inputs, outputs).
Work = Callable[[Sequence[Buffer], Sequence[Buffer]], None]
Kind = Literal["run", "copy", "fill", "record", "signal", "wait"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing for a stream to do.

    kind, what: as a launch trace tells them; `what` knows no addresses. name, where: as a failure tells them.
    work: what to do, unless the stream has failed. settle: told how it went, in any case.
    reads, writes: the buffers that it touches.
    """

    kind: Kind
    what: str
    name: str
    where: str
    work: Callable[[], None] | None = None
    settle: Callable[[DeviceError | None], None] | None = None
    reads: tuple[Buffer, ...] = ()
    writes: tuple[Buffer, ...] = ()

    @property
    def computes(self) -> bool:
        """Whether it keeps a processor busy: it does not wait, and is no mark in time."""
        return self.kind in ("run", "copy", "fill")

    @property
    def blocks(self) -> list[Block]:
        """The bytes that it touches."""
        return [buffer.block for buffer in (*self.reads, *self.writes)]


def run_operation(
    work: Work | Executable, inputs: Sequence[Buffer], outputs: Sequence[Buffer], name: str, where: str, what: str = ""
) -> Operation:
    """`work(inputs, outputs)`, or an executable's run. Raises BufferFreed.

    name: the work's own where empty. what: as a launch trace tells it; the name where empty.
    """
    call = call_of(work)
    reads, writes = tuple(b.retain() for b in inputs), tuple(b.retain() for b in outputs)
    name = name or name_of(work)
    return Operation("run", what or name, name, where, partial(call, reads, writes), None, reads, writes)


def copy_operation(destination: Buffer, source: Buffer, name: str, where: str) -> Operation:
    """`destination.copy_from(source)`. Raises BufferFreed."""
    target, origin = destination.retain(), source.retain()
    name = name or f"copy of {source.type}"
    return Operation("copy", "", name, where, partial(target.copy_from, origin), None, (origin,), (target,))


def fill_operation(buffer: Buffer, value: complex | np.generic, name: str, where: str) -> Operation:
    """`buffer.fill(value)`. Raises BufferFreed."""
    target = buffer.retain()
    name = name or f"fill of {buffer.type}"
    return Operation(
        "fill", _shown(value, target.type.dtype), name, where, partial(target.fill, value), None, (), (target,)
    )


def _shown(value: complex | np.generic, dtype: DType) -> str:
    """The element that a fill writes: the same words however the number was given."""
    try:
        return str(element_of(dtype, value)[()])
    except BufferMismatch:  # the fill itself will say so
        return str(value)


def signal_operation(semaphore: Semaphore, value: int, device: Device, name: str, where: str) -> Operation:
    """`semaphore.signal(value)`, when `device` has done what was submitted to it before.

    Where that does not come about, the semaphore fails. Raises SemaphoreError.
    """
    check_payload(semaphore.name, value)
    semaphore.promise()
    name = name or f"signal of {semaphore.name} to {value}"

    def work() -> None:
        await_device(device)
        semaphore.signal(value)

    return Operation("signal", str(value), name, where, work, semaphore.settle)


def wait_operation(semaphore: Semaphore, value: int, name: str, where: str) -> Operation:
    """`semaphore.wait(value)`. Raises SemaphoreError."""
    check_payload(semaphore.name, value)
    name = name or f"wait for {semaphore.name} to reach {value}"
    return Operation("wait", str(value), name, where, partial(semaphore.wait, value))


def record_operation(event: Event, device: Device, where: str) -> Operation:
    """The event is reached, when `device` has done what was submitted to it before; it was begun by the caller."""
    name = f"record of {event.name}"
    return Operation("record", event.name, name, where, partial(await_device, device), event.finish)


def await_operation(event: Event, where: str) -> Operation:
    """`event.wait()`. Raises EventError where it was never recorded."""
    event.check_recorded()
    return Operation("wait", event.name, f"wait for {event.name}", where, event.wait)


def is_asynchronous(device: Device) -> bool:
    """Whether calls return before the device has done them; see `AsynchronousMemory`."""
    return hasattr(device_memory(device).backend, "synchronize")


def await_device(device: Device) -> None:
    """Return when the device has done what was submitted to it; see `AsynchronousMemory`. Raises DeviceLost."""
    synchronize = getattr(device_memory(device).backend, "synchronize", None)
    if synchronize is not None:
        synchronize()


def call_of(work: Work | Executable) -> Work:
    """What to call with (inputs, outputs)."""
    return getattr(work, "run", None) or work  # type: ignore[return-value]  # asking the protocol takes 10 us


def name_of(work: object) -> str:
    """What a failure calls work that was given no name."""
    return getattr(work, "__qualname__", None) or type(work).__name__


def call_site() -> str:
    """The nearest line outside the driver: where an operation came from."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("rlx.driver."):
        frame = frame.f_back
    return f"enqueued at {frame.f_code.co_filename}:{frame.f_lineno}"
