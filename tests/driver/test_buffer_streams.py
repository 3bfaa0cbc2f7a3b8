"""Buffer's transfers given a stream: checked at once, done later, in order, with the bytes kept meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from rlx.driver import HOST, Buffer, CommandStream, Device, device_memory
from rlx.errors import BufferFreed, BufferMismatch, BufferReadOnly, LayoutError
from rlx.ir.dtypes import f32, i8
from rlx.ir.types import TensorType

FOUR = TensorType((4,), f32)


@pytest.fixture(params=["cpu", "opaque"])
def device(request: pytest.FixtureRequest, opaque: Device) -> Device:
    return Device(request.param)


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def held(device: Device, gate: threading.Event) -> Iterator[CommandStream]:
    """A stream that stands still until the gate is opened."""
    with CommandStream(device) as stream:
        stream.run(lambda i, o: gate.wait(20) and None)
        yield stream
        gate.set()


def _on(device: Device, content: object) -> Buffer:
    return Buffer.from_numpy(np.array(content, np.float32), copy=True, device=device)


def test_each_transfer_returns_at_once_and_happens_in_its_turn(
    device: Device, held: CommandStream, gate: threading.Event
) -> None:
    source, target = _on(device, [1, 2, 3, 4]), _on(device, [0, 0, 0, 0])
    target.copy_from(source, stream=held)
    copy = target.copy(stream=held)
    source.fill(9, stream=held)
    moved = source.to(HOST, stream=held)
    assert target.to(HOST).numpy().tolist() == [0, 0, 0, 0]
    gate.set()
    held.synchronize()
    assert [b.to(HOST).numpy().tolist() for b in (target, copy, source, moved)] == [
        [1, 2, 3, 4], [1, 2, 3, 4], [9, 9, 9, 9], [9, 9, 9, 9],
    ]  # fmt: skip


def test_what_is_wrong_is_said_at_the_call_and_not_by_the_stream(device: Device, held: CommandStream) -> None:
    buffer, freed, read_only = _on(device, [0] * 4), _on(device, [0] * 4), _on(device, [0] * 4)
    freed.free()
    read_only.readonly = True
    for error, call in (
        (BufferMismatch, lambda: buffer.copy_from(_on(device, [0] * 3), stream=held)),
        (BufferMismatch, lambda: Buffer.empty(TensorType((4,), i8), device).fill(300, stream=held)),
        (BufferReadOnly, lambda: read_only.fill(1, stream=held)),
        (BufferReadOnly, lambda: read_only.copy_from(buffer, stream=held)),
        (BufferFreed, lambda: freed.fill(1, stream=held)),
        (BufferFreed, lambda: buffer.copy_from(freed, stream=held)),
        (BufferFreed, lambda: freed.to(HOST, stream=held)),
    ):
        with pytest.raises(error):
            call()


def test_strides_that_cannot_cross_are_refused_at_the_call(opaque: Device) -> None:
    with CommandStream(opaque) as stream, pytest.raises(LayoutError):
        Buffer.empty(FOUR, opaque)[::2].to(HOST, stream=stream)


def test_bytes_freed_on_a_stream_end_when_the_stream_has_come_there(
    device: Device, held: CommandStream, gate: threading.Event
) -> None:
    memory = device_memory(device)
    in_use = memory.statistics.in_use
    buffer = _on(device, [1, 2, 3, 4])
    assert memory.statistics.in_use == in_use + 16
    buffer.free(stream=held)
    assert buffer.is_freed
    with pytest.raises(BufferFreed):
        buffer.fill(0)
    assert memory.statistics.in_use == in_use + 16
    buffer.free(stream=held)
    gate.set()
    held.synchronize()
    held.run_now(lambda i, o: None)
    assert memory.statistics.in_use == in_use
