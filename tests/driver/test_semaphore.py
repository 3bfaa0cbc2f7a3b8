"""Timeline semaphores: time that only grows, waits that block, and failure that stays."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlx.driver import Buffer, CommandStream, Event, Semaphore
from rlx.errors import DeviceError, EventError, SemaphoreError, SemaphoreTimeout

SOON = 20.0


def _fail(inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
    raise ZeroDivisionError("on purpose")


def _in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    failures: list[BaseException] = []

    def body() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, failures


@pytest.mark.parametrize("value", [-1, 2**64, 1.5, True])
def test_a_payload_is_a_whole_number_of_64_bits(value: int) -> None:
    with pytest.raises(SemaphoreError, match="cannot have the payload"):
        Semaphore(value)
    with pytest.raises(SemaphoreError, match="cannot have the payload"):
        Semaphore(name="frames").signal(value)
    with CommandStream() as stream:
        for enqueue in (stream.signal, stream.wait):
            with pytest.raises(SemaphoreError, match="cannot have the payload"):
                enqueue(Semaphore(), value)
    with pytest.raises(SemaphoreError, match="cannot have the payload"):
        Semaphore().wait(2**64)


def test_the_payload_reaches_the_largest_number_and_no_further() -> None:
    semaphore = Semaphore(5)
    semaphore.signal(2**64 - 1)
    semaphore.wait(2**64 - 1)
    with pytest.raises(SemaphoreError, match="cannot be signalled"):
        semaphore.signal(2**64 - 1)


@pytest.mark.parametrize("value", [3, 2, 0])
def test_a_payload_that_would_not_grow_is_refused_and_stays(value: int) -> None:
    semaphore = Semaphore(name="frames")
    semaphore.signal(3)
    with pytest.raises(SemaphoreError, match=f"frames is at 3, so it cannot be signalled to {value}"):
        semaphore.signal(value)
    assert semaphore.query() == 3


def test_a_host_wait_blocks_until_the_value_is_reached_and_not_before() -> None:
    semaphore = Semaphore()
    thread, failures = _in_thread(lambda: semaphore.wait(5, SOON))
    semaphore.signal(4)
    thread.join(0.05)
    assert thread.is_alive()
    semaphore.signal(7)  # beyond is reached as well
    thread.join(SOON)
    assert not thread.is_alive()
    assert failures == []


def test_a_wait_that_takes_too_long_says_where_the_semaphore_is() -> None:
    semaphore = Semaphore(2, name="frames")
    with pytest.raises(SemaphoreTimeout, match=r"(?s)frames did not reach 3 in 0.01 s.*at 2"):
        semaphore.wait(3, 0.01)


def test_two_streams_order_their_work_by_a_semaphore_whoever_is_asked_first() -> None:
    log: list[str] = []
    semaphore = Semaphore()
    with CommandStream(name="first") as first, CommandStream(name="second") as second:
        second.wait(semaphore, 1)  # before anyone has promised to signal
        second.run(lambda i, o: log.append("second"))
        time.sleep(0.02)
        assert log == []
        first.run(lambda i, o: (time.sleep(0.02), log.append("first")))
        first.signal(semaphore, 1)
        second.synchronize()
    assert log == ["first", "second"]


def test_the_host_releases_a_stream() -> None:
    log: list[int] = []
    semaphore = Semaphore()
    with CommandStream() as stream:
        stream.wait(semaphore, 2)
        stream.run(lambda i, o: log.append(1))
        semaphore.signal(1)
        time.sleep(0.02)
        assert log == []
        assert not stream.idle
        semaphore.signal(2)
        stream.synchronize()
    assert log == [1]


def test_a_failure_travels_by_semaphores_to_every_later_waiter_with_name_and_place() -> None:
    log: list[int] = []
    one, two = Semaphore(name="one"), Semaphore(name="two")
    with CommandStream() as first, CommandStream() as second, CommandStream() as third:
        third.wait(two, 1)
        third.run(lambda i, o: log.append(3))
        second.wait(one, 1)
        second.signal(two, 1)
        first.run(_fail, name="layer 3 matmul", where="node MatMul_3")
        first.signal(one, 1)
        calls = [third.synchronize, second.synchronize, first.synchronize, one.query]
        calls += [lambda s=s, v=v: s.wait(v, SOON) for s in (one, two) for v in (0, 1, 9)]
        for call in calls:
            thread, failures = _in_thread(call)
            thread.join(SOON)
            (error,) = failures
            assert isinstance(error, DeviceError)
            assert error.message == "layer 3 matmul failed: ZeroDivisionError: on purpose"
            assert error.where == "node MatMul_3"
            assert isinstance(error.__cause__, ZeroDivisionError)
        with pytest.raises(DeviceError, match="layer 3"):
            one.signal(2)
    assert log == []


def test_a_waiting_thread_wakes_when_the_semaphore_fails() -> None:
    semaphore = Semaphore()
    thread, failures = _in_thread(lambda: semaphore.wait(1))
    time.sleep(0.02)
    with CommandStream() as stream:
        stream.run(_fail)
        stream.signal(semaphore, 1)
    thread.join(SOON)
    assert [type(f) for f in failures] == [DeviceError]


def test_the_first_failure_stays() -> None:
    semaphore = Semaphore()
    first = DeviceError("first")
    semaphore.fail(first)
    semaphore.fail(DeviceError("second"))
    assert semaphore.failure is first
    with pytest.raises(DeviceError, match="first"):
        semaphore.wait(1)


def test_a_signal_that_would_not_grow_fails_its_stream_and_the_semaphore() -> None:
    semaphore = Semaphore(3, name="frames")
    with CommandStream() as stream:
        stream.signal(semaphore, 3)
        with pytest.raises(DeviceError, match="signal of frames to 3 failed: SemaphoreError"):
            stream.synchronize()
    with pytest.raises(DeviceError, match="signal of frames to 3"):
        semaphore.wait(3)


def test_a_signal_refused_by_a_closed_stream_fails_the_semaphore() -> None:
    semaphore, event = Semaphore(), Event()
    stream = CommandStream(name="ended")
    stream.run(lambda i, o: None)
    stream.synchronize()
    stream.close()
    with pytest.raises(DeviceError, match="ended was closed"):
        stream.signal(semaphore, 1)
    with pytest.raises(DeviceError, match="ended was closed"):
        semaphore.wait(1, SOON)
    with pytest.raises(EventError):
        event.wait()


def test_a_failure_names_the_line_that_enqueued_the_work() -> None:
    with CommandStream() as stream:
        stream.run(_fail)
        with pytest.raises(DeviceError) as caught:
            stream.synchronize()
    assert f"{Path(__file__).name}:" in (caught.value.where or "")


def test_many_threads_that_signal_and_wait_see_time_grow() -> None:
    semaphore, steps, seen = Semaphore(), 200, []

    def follow() -> None:
        for value in range(1, steps + 1):
            semaphore.wait(value, SOON)
            seen.append(semaphore.query() >= value)

    followers = [_in_thread(follow) for _ in range(4)]
    for value in range(1, steps + 1):
        semaphore.signal(value)
    for thread, failures in followers:
        thread.join(SOON)
        assert failures == []
    assert seen == [True] * (4 * steps)


def test_in_a_forked_child_what_the_parents_streams_were_to_signal_has_failed() -> None:
    by_stream, by_host = Semaphore(name="by stream"), Semaphore()
    gate = threading.Event()
    with CommandStream() as stream:
        stream.run(lambda i, o: gate.wait(SOON))
        stream.signal(by_stream, 1)
        child = os.fork()
        if child == 0:
            by_host.signal(1)
            right = by_stream.failure is not None and by_host.query() == 1
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        gate.set()
        by_stream.wait(1, SOON)
