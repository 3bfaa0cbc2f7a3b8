"""Streams: order, failure and lifetime, seen by holding a stream at a gate."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from rlx.driver import HOST, Buffer, CommandStream, Device, Event, Semaphore, device_memory
from rlx.errors import BufferFreed, BufferReadOnly, DeviceError, DeviceLost, EventError, EventTimeout
from rlx.ir.dtypes import f32
from rlx.ir.types import TensorType

FOUR = TensorType((4,), f32)
SOON = 20.0  # seconds that nothing here should ever take


class Gate:
    """Work that holds a stream until it is opened."""

    def __init__(self, stream: CommandStream) -> None:
        self.reached, self._open = threading.Event(), threading.Event()
        stream.run(self._work, name="gate")

    def _work(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        self.reached.set()
        assert self._open.wait(SOON)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def stream() -> Iterator[CommandStream]:
    with CommandStream() as stream:
        yield stream


def _append(log: list[object], what: object) -> Callable[[Sequence[Buffer], Sequence[Buffer]], None]:
    return lambda inputs, outputs: log.append(what)


def _fail(inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
    raise ZeroDivisionError("on purpose")


def _wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


# -- order ------------------------------------------------------------------------------------------------------------


def test_enqueuing_returns_while_the_work_waits_and_order_is_kept(stream: CommandStream) -> None:
    log: list[object] = []
    gate = Gate(stream)
    for i in range(50):
        stream.run(_append(log, i))
    assert log == []
    assert not stream.idle
    gate.open()
    stream.synchronize()
    assert log == list(range(50))
    assert stream.idle


def test_copies_and_fills_take_their_turn(stream: CommandStream) -> None:
    a, b, c = (Buffer.empty(FOUR) for _ in range(3))
    for buffer in (a, b, c):
        buffer.fill(0)
    gate = Gate(stream)
    stream.fill(a, 1)
    stream.copy(b, a)
    stream.fill(a, 2)
    stream.copy(c, a)
    assert a.numpy().sum() == b.numpy().sum() == 0
    gate.open()
    stream.synchronize()
    assert (a.numpy()[0], b.numpy()[0], c.numpy()[0]) == (2, 1, 2)


def test_work_gets_its_inputs_and_outputs(stream: CommandStream) -> None:
    a, b = Buffer.from_numpy(np.arange(4, dtype=np.float32)), Buffer.empty(FOUR)
    stream.run(lambda i, o: o[0].copy_from(i[0]), [a], [b])
    stream.synchronize()
    assert b.numpy().tolist() == [0, 1, 2, 3]


def test_an_event_is_reached_when_what_was_before_it_is_done_and_not_earlier(stream: CommandStream) -> None:
    gate = Gate(stream)
    event = stream.record(Event("after the gate"))
    assert not event.query()
    with pytest.raises(EventTimeout, match="after the gate"):
        event.wait(0.01)
    with pytest.raises(EventError, match="no time"):
        _ = event.time_ns
    gate.open()
    event.wait(SOON)
    assert event.query()


def test_one_stream_waits_for_anothers_event(stream: CommandStream) -> None:
    log: list[object] = []
    with CommandStream(name="second") as second:
        gate = Gate(stream)
        stream.run(_append(log, "first"))
        second.wait(stream.record(Event()))
        second.run(_append(log, "second"))
        second.run(_append(log, "third"))
        _wait_until(gate.reached.is_set)
        time.sleep(0.02)
        assert log == []
        gate.open()
        second.synchronize()
    assert log == ["first", "second", "third"]


def test_streams_without_events_do_not_wait_for_each_other(stream: CommandStream) -> None:
    log: list[object] = []
    gate = Gate(stream)
    with CommandStream() as second:
        second.run(_append(log, "free"))
        second.synchronize()
    assert log == ["free"]
    gate.open()


def test_event_times_follow_the_order_and_measure_what_lies_between(stream: CommandStream) -> None:
    first = stream.record(Event())
    stream.run(lambda i, o: time.sleep(0.02))
    second = stream.record(Event())
    second.wait(SOON)
    assert second.time_ns - first.time_ns >= 20_000_000


def test_an_event_is_recorded_once_and_waited_for_only_afterwards(stream: CommandStream) -> None:
    event = Event("twice")
    for wait in (event.wait, lambda: stream.wait(event)):
        with pytest.raises(EventError, match="'twice' was never recorded"):
            wait()
    assert not event.query()
    stream.record(event)
    with pytest.raises(EventError, match="'twice' is recorded already"):
        stream.record(event)


def test_synchronize_waits_for_what_was_enqueued_before_it_alone(stream: CommandStream) -> None:
    gate = Gate(stream)
    done = threading.Event()
    waiter = threading.Thread(target=lambda: (stream.synchronize(), done.set()))
    waiter.start()
    _wait_until(lambda: len(stream._queue.pending) == 1)  # the waiter's event
    second = Gate(stream)
    gate.open()
    assert done.wait(SOON)
    assert not stream.idle
    second.open()
    waiter.join(SOON)


# -- now --------------------------------------------------------------------------------------------------------------


def test_an_idle_stream_runs_now_on_the_callers_thread_without_a_worker(stream: CommandStream) -> None:
    threads: list[object] = []
    before = threading.active_count()
    stream.run_now(lambda i, o: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]
    assert threading.active_count() == before


def test_run_now_on_a_busy_stream_takes_its_turn(stream: CommandStream) -> None:
    log: list[object] = []
    gate = Gate(stream)
    stream.run(_append(log, "before"))
    caller = threading.Thread(target=lambda: (stream.run_now(_append(log, "now")), log.append("returned")))
    caller.start()
    _wait_until(lambda: len(stream._queue.pending) == 2)
    assert log == []
    gate.open()
    caller.join(SOON)
    assert log == ["before", "now", "returned"]


def test_work_enqueued_during_run_now_comes_after_it(stream: CommandStream) -> None:
    log: list[object] = []
    enqueued = threading.Event()

    def now(inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        other = threading.Thread(target=lambda: (stream.run(_append(log, "after")), enqueued.set()))
        other.start()
        assert enqueued.wait(SOON)
        other.join(SOON)
        time.sleep(0.02)
        log.append("now")

    stream.run_now(now)
    stream.synchronize()
    assert log == ["now", "after"]


def test_threads_that_run_now_take_turns(stream: CommandStream) -> None:
    inside, most, total = [0], [0], [0]

    def work(inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.0005)
        total[0] += 1
        inside[0] -= 1

    threads = [threading.Thread(target=lambda: [stream.run_now(work) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert (most[0], total[0]) == (1, 80)


@pytest.mark.parametrize("busy", [False, True])
def test_a_failure_in_run_now_is_the_callers_own_and_the_stream_goes_on(stream: CommandStream, busy: bool) -> None:
    gate = Gate(stream) if busy else None
    opener = threading.Timer(0.05, gate.open) if gate else None
    if gate and opener:
        _wait_until(gate.reached.is_set)
        opener.start()
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        stream.run_now(_fail)
    stream.synchronize()
    stream.run_now(_append([], 1))


def test_an_interrupt_during_run_now_leaves_the_stream_usable(stream: CommandStream) -> None:
    def interrupted(inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream.run_now(interrupted)
    log: list[object] = []
    stream.run(_append(log, 1))
    stream.synchronize()
    assert log == [1]


# -- failure ----------------------------------------------------------------------------------------------------------


def test_the_first_failure_is_named_at_every_later_wait_and_nothing_behind_it_runs(stream: CommandStream) -> None:
    log: list[object] = []
    gate = Gate(stream)
    stream.run(_append(log, "before"))
    before = stream.record(Event("before"))
    stream.run(_fail, name="layer 3 matmul")
    stream.run(_append(log, "behind"))
    behind = stream.record(Event("behind"))
    stream.run(_fail, name="layer 4 matmul")
    gate.open()
    waits = [behind.wait, behind.query, stream.synchronize, lambda: stream.run_now(_append(log, "now"))]
    for wait in waits * 2:
        with pytest.raises(DeviceError, match="layer 3 matmul failed: ZeroDivisionError: on purpose") as caught:
            wait()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    before.wait()
    assert log == ["before"]


def test_a_failure_travels_to_the_streams_that_wait_for_it(stream: CommandStream) -> None:
    log: list[object] = []
    with CommandStream(name="second") as second, CommandStream(name="third") as third:
        gate = Gate(stream)
        stream.run(_fail, name="the culprit")
        second.wait(stream.record(Event()))
        second.run(_append(log, "second"))
        third.wait(second.record(Event()))
        third.run(_append(log, "third"))
        gate.open()
        for each in (third, second, stream):
            with pytest.raises(DeviceError) as caught:
                each.synchronize()
            assert caught.value.message == "the culprit failed: ZeroDivisionError: on purpose"
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert log == []


def test_reset_makes_a_failed_stream_usable_again(stream: CommandStream) -> None:
    stream.run(_fail)
    with pytest.raises(DeviceError, match="_fail failed"):
        stream.synchronize()
    assert "failed" in repr(stream)
    stream.reset()
    stream.synchronize()
    log: list[object] = []
    stream.run(_append(log, 1))
    stream.synchronize()
    assert log == [1]


def test_a_failing_copy_is_an_operation_like_any_other(stream: CommandStream) -> None:
    array = np.zeros(4, np.float32)
    array.flags.writeable = False
    stream.copy(Buffer.from_numpy(array), Buffer.empty(FOUR))
    with pytest.raises(DeviceError, match=r"copy of f32\[4\] failed") as caught:
        stream.synchronize()
    assert isinstance(caught.value.__cause__, BufferReadOnly)


# -- lifetime ---------------------------------------------------------------------------------------------------------


def test_free_while_a_stream_still_reads_keeps_the_bytes_until_the_read_is_done(stream: CommandStream) -> None:
    memory = device_memory(HOST)
    target = Buffer.empty(TensorType((1 << 18,), f32))
    before = memory.statistics.in_use
    source = Buffer.empty(TensorType((1 << 18,), f32))
    source.fill(6)
    gate = Gate(stream)
    stream.copy(target, source)
    source.free()
    with pytest.raises(BufferFreed):
        _ = source.address
    Buffer.empty(TensorType((1 << 18,), f32)).fill(0)
    assert memory.statistics.in_use == before + (1 << 20)
    gate.open()
    _wait_until(lambda: memory.statistics.in_use == before)  # though nothing came behind the copy
    stream.synchronize()
    assert target.numpy().min() == target.numpy().max() == 6


def test_free_during_run_now_keeps_the_bytes_until_it_returns(stream: CommandStream) -> None:
    memory = device_memory(HOST)
    before = memory.statistics.in_use
    buffer = Buffer.empty(TensorType((1 << 18,), f32))
    seen: list[int] = []

    def work(inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        buffer.free()
        seen.append(memory.statistics.in_use)

    stream.run_now(work, [buffer])
    assert seen == [before + (1 << 20)]
    assert memory.statistics.in_use == before


def test_freed_buffers_are_refused_when_enqueued(stream: CommandStream) -> None:
    buffer = Buffer.empty(FOUR)
    buffer.free()
    for use in (
        lambda: stream.fill(buffer, 0),
        lambda: stream.copy(buffer, buffer),
        lambda: stream.run(_fail, [buffer]),
        lambda: stream.run_now(_fail, [], [buffer]),
    ):
        with pytest.raises(BufferFreed):
            use()
    stream.synchronize()


def test_a_stream_that_nobody_holds_finishes_its_work_and_its_thread_ends() -> None:
    log: list[object] = []
    stream = CommandStream(name="forgotten")
    gate = Gate(stream)
    stream.run(_append(log, 1))
    worker = stream._queue.worker
    assert worker is not None
    del stream
    gc.collect()
    gate.open()
    worker.join(SOON)
    assert not worker.is_alive()
    assert log == [1]


def test_a_closed_stream_finishes_and_takes_no_more() -> None:
    log: list[object] = []
    stream = CommandStream(name="closing")
    gate = Gate(stream)
    stream.run(_append(log, 1))
    worker = stream._queue.worker
    assert worker is not None
    stream.close()
    stream.close()
    gate.open()
    worker.join(SOON)
    assert log == [1]
    for use in (lambda: stream.run(_append(log, 2)), lambda: stream.run_now(_append(log, 2))):
        with pytest.raises(DeviceError, match="closing was closed"):
            use()
    assert log == [1]


def test_a_stream_serves_devices_whose_memory_the_host_cannot_read(opaque: Device) -> None:
    with CommandStream(opaque) as stream:
        there, back = Buffer.empty(FOUR, opaque), Buffer.empty(FOUR)
        stream.fill(there, 3)
        stream.copy(back, there)
        stream.synchronize()
        assert back.numpy().tolist() == [3] * 4


def test_a_pending_stream_does_not_keep_the_interpreter_from_ending() -> None:
    program = """
import threading
from rlx.driver import CommandStream
stream = CommandStream()
stream.run(lambda i, o: threading.Event().wait())
print("leaving", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")


# -- devices with a queue of their own --------------------------------------------------------------------------------


def test_whoever_waits_for_a_stream_waits_for_the_devices_own_queue(
    opaque: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer, log = Buffer.empty(FOUR, opaque), []
    monkeypatch.setattr(device_memory(opaque).backend, "synchronize", lambda: log.append("device"))
    with CommandStream(opaque) as stream:
        for wait in (
            stream.synchronize,
            lambda: stream.record(Event()).wait(SOON),
            lambda: (stream.signal(semaphore := Semaphore(), 1), semaphore.wait(1, SOON)),
            lambda: stream.run_now(_append([], 1)),
        ):
            stream.fill(buffer, 1)
            log.clear()
            wait()
            assert log == ["device"] * len(log)
            assert log


def test_recording_does_not_wait_for_the_devices_own_queue(opaque: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    door = threading.Event()
    monkeypatch.setattr(device_memory(opaque).backend, "synchronize", lambda: door.wait(SOON) and None)
    with CommandStream(opaque) as stream:
        event = stream.record(Event("behind the device's work"))
        assert not event.query()
        door.set()
        event.wait(SOON)


def test_a_lost_device_fails_the_streams_that_need_it_and_the_host_goes_on(
    opaque: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = Buffer.empty(FOUR, opaque), Buffer.empty(FOUR)
    with CommandStream(opaque) as lost, CommandStream() as host:
        monkeypatch.setattr(device_memory(opaque).backend, "lost", True)
        lost.fill(there, 1)
        host.copy(here, there)
        for stream in (lost, host):
            with pytest.raises(DeviceLost, match="the device Opaque is lost"):
                stream.synchronize()
            stream.reset()
        with pytest.raises(DeviceLost):
            lost.synchronize()
        host.fill(here, 2)
        host.synchronize()
    assert here.numpy().tolist() == [2] * 4
