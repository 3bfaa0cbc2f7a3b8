"""Failure: the operation that failed first is named to everyone who waits, wherever they wait."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

import numpy as np

from rlx.driver import Buffer, Event, Semaphore
from rlx.errors import DeviceError, DriverError
from rlx.testing.conformance.blocking import Caller, Gate
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect, expect_bits, expect_equal, expect_raises
from rlx.testing.conformance.graphs import VECTOR, affine

SUITE = Suite("failures")
CULPRIT, FIRST = "layer 3 matmul", "layer 3 matmul failed: ZeroDivisionError: on purpose"


def _fail(inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
    raise ZeroDivisionError("on purpose")


def _wait_until(true: Callable[[], bool]) -> None:
    """Wait, a little: a worker may still be letting go."""
    for _ in range(100):
        if true():
            return
        time.sleep(0.001)


def _expect_culprit(error: BaseException) -> None:
    assert isinstance(error, DeviceError)
    expect_equal((error.message, error.where), (FIRST, "node MatMul_3"), "what the error says")
    expect(isinstance(error.__cause__, ZeroDivisionError), f"the error's cause is {error.__cause__!r}")


@SUITE.case
def every_wait_behind_the_failure_names_it(subject: Subject) -> None:
    stream, semaphore = subject.stream(), Semaphore()
    with Gate(stream):
        before = stream.record(Event("before"))
        stream.run(_fail, name=CULPRIT, where="node MatMul_3")
        behind = stream.record(Event("behind"))
        stream.signal(semaphore, 1)
        stream.run(_fail, name="layer 4 matmul")
        waiting = [
            Caller(w, "a wait begun before") for w in (behind.wait, lambda: semaphore.wait(1), stream.synchronize)
        ]
    for caller in waiting:
        _expect_culprit(caller.must_raise())
    waits = (behind.wait, behind.query, lambda: semaphore.wait(1), semaphore.query, stream.synchronize)
    for wait in (*waits, lambda: stream.run_now(lambda i, o: None)) * 2:
        _expect_culprit(Caller(wait, "a wait behind a failure").must_raise())
    before.wait()


@SUITE.case
def nothing_behind_the_failure_runs(subject: Subject) -> None:
    stream, buffer = subject.stream(), subject.buffer(np.zeros(64, np.float32))
    source = subject.buffer(np.ones(64, np.float32))
    stream.run(_fail)
    stream.fill(buffer, 1)
    stream.copy(buffer, source)
    stream.run(subject.program(affine()), [source], [buffer])
    expect_raises(DeviceError, stream.synchronize, "_fail")
    expect_bits(subject.read(buffer), np.zeros(64, np.float32), "what was to be written behind the failure")


@SUITE.case
def it_travels_by_events_and_semaphores_through_other_streams(subject: Subject) -> None:
    first, second, third = (subject.stream(n) for n in ("first", "second", "third"))
    semaphore = Semaphore()
    buffer = subject.buffer(np.zeros(64, np.float32))
    third.wait(semaphore, 1)
    third.fill(buffer, 3)
    with Gate(first):
        first.run(_fail, name=CULPRIT, where="node MatMul_3")
        second.wait(first.record(Event()))
        second.fill(buffer, 2)
        second.signal(semaphore, 1)
    for stream in (third, second, first):
        _expect_culprit(Caller(stream.synchronize, "a synchronize").must_raise())
    expect_bits(subject.read(buffer), np.zeros(64, np.float32), "what other streams were to write")


@SUITE.case
def a_stream_beside_it_goes_on(subject: Subject) -> None:
    failed, well = subject.stream(), subject.stream()
    buffer = subject.buffer(np.zeros(64, np.float32))
    failed.run(_fail)
    expect_raises(DeviceError, failed.synchronize)
    well.fill(buffer, 1)
    well.synchronize()
    expect_bits(subject.read(buffer), np.ones(64, np.float32), "what the other stream wrote")


@SUITE.case
def reset_makes_the_stream_usable_and_leaves_the_semaphore_failed(subject: Subject) -> None:
    stream, semaphore = subject.stream(), Semaphore()
    buffer = subject.buffer(np.zeros(64, np.float32))
    stream.run(_fail)
    stream.signal(semaphore, 1)
    expect_raises(DeviceError, stream.synchronize)
    stream.reset()
    stream.fill(buffer, 1)
    stream.synchronize()
    expect_bits(subject.read(buffer), np.ones(64, np.float32), "what was written after the reset")
    expect_raises(DeviceError, semaphore.query, "_fail")


@SUITE.case
def a_failure_holds_no_bytes(subject: Subject) -> None:
    gc.collect()
    stream, semaphore = subject.stream(), Semaphore()
    start = subject.memory.statistics.in_use
    longer, shorter = (subject.buffer(np.zeros(n, np.float32)) for n in (5000, 4999))
    stream.run(lambda inputs, outputs: outputs[0].copy_from(inputs[0]), [longer], [shorter])
    stream.signal(semaphore, 1)
    longer.free()
    shorter.free()
    expect_raises(DeviceError, stream.synchronize, "BufferMismatch")
    _wait_until(lambda: subject.memory.statistics.in_use == start)
    expect_equal(subject.memory.statistics.in_use, start, "bytes in use after the failure")
    expect_raises(DeviceError, semaphore.query, "BufferMismatch")


@SUITE.case
def a_program_that_fails_is_named(subject: Subject) -> None:
    stream, closed = subject.stream(), subject.programs.load(affine())
    closed.close()
    x, y = Buffer.empty(VECTOR, subject.device), Buffer.empty(VECTOR, subject.device)
    stream.run(closed, [x], [y], name="the encoder")
    expect_raises(DeviceError, stream.synchronize, "the encoder failed")


@SUITE.case
def run_now_reports_to_its_caller_alone(subject: Subject) -> None:
    stream = subject.stream()
    expect_raises(ZeroDivisionError, lambda: stream.run_now(_fail), "on purpose")
    with Gate(stream) as gate:
        caller = Caller(lambda: stream.run_now(_fail), "run_now")
        gate.open()
        expect(isinstance(caller.must_raise(), ZeroDivisionError), "run_now raised another error than its work's")
    stream.synchronize()


@SUITE.case
def a_closed_program_refuses_to_run(subject: Subject) -> None:
    closed = subject.programs.load(affine())
    closed.close()
    closed.close()
    x, y = Buffer.empty(VECTOR, subject.device), Buffer.empty(VECTOR, subject.device)
    expect_raises(DriverError, lambda: closed.run([x], [y]))
