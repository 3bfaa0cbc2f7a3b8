"""Semaphores: time that only grows, for streams, for the host, and for threads."""

from __future__ import annotations

import numpy as np

from rlx.driver import Semaphore
from rlx.errors import DeviceError, SemaphoreError, SemaphoreTimeout
from rlx.testing.conformance.blocking import SOON, Caller, Gate, expect_waits
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect, expect_equal, expect_raises
from rlx.testing.conformance.graphs import VECTOR, affine
from rlx.testing.conformance.script import MODES, Script, check

SUITE = Suite("semaphores")


@SUITE.case
def a_host_wait_returns_when_the_stream_has_signalled(subject: Subject) -> None:
    stream, semaphore = subject.stream(), Semaphore(3)
    with Gate(stream) as gate:
        stream.signal(semaphore, 5)
        expect_equal(semaphore.query(), 3, "the payload while the stream is held")
        expect_waits(lambda: semaphore.wait(5), gate.open, "a wait for a semaphore")
    expect_equal(semaphore.query(), 5, "the payload")


@SUITE.case
def a_stream_waits_for_the_host(subject: Subject) -> None:
    stream, semaphore = subject.stream(), Semaphore()
    buffer = subject.buffer(np.zeros(4, np.float32))
    stream.wait(semaphore, 2)
    stream.fill(buffer, 8)
    semaphore.signal(1)
    try:
        expect_waits(stream.synchronize, lambda: semaphore.signal(2), "a stream that waits for 2 and has 1")
    finally:
        semaphore.fail(DeviceError("the case is over"))
    expect_equal(set(subject.read(buffer).tolist()), {8}, "what came after the wait")


@SUITE.case
def a_stream_may_wait_before_anyone_signals(subject: Subject) -> None:
    first, second, semaphore = subject.stream(), subject.stream(), Semaphore()
    a, b = subject.buffer(np.zeros(4, np.float32)), subject.buffer(np.zeros(4, np.float32))
    second.wait(semaphore, 1)
    second.copy(b, a)

    def release() -> None:
        first.fill(a, 4)
        first.signal(semaphore, 1)

    expect_waits(second.synchronize, release, "a stream that waits for what is not enqueued yet")
    expect_equal(set(subject.read(b).tolist()), {4}, "what the second stream copied")


@SUITE.case
def a_value_beyond_the_one_waited_for_is_reached_as_well(subject: Subject) -> None:
    stream, semaphore = subject.stream(), Semaphore()
    stream.signal(semaphore, 2**64 - 1)
    for value in (0, 1, 2**63, 2**64 - 1):
        Caller(lambda value=value: semaphore.wait(value), f"a wait for {value}").must_return()


@SUITE.case
def a_wait_that_takes_too_long_says_where_time_is(subject: Subject) -> None:
    stream, semaphore = subject.stream(), Semaphore(4, name="frames")
    with Gate(stream):
        stream.signal(semaphore, 9)
        expect_raises(SemaphoreTimeout, lambda: semaphore.wait(9, 0.01), "frames", "at 4")
    semaphore.wait(9, SOON)


@SUITE.case
def time_does_not_go_back(subject: Subject) -> None:
    stream, semaphore = subject.stream(), Semaphore(5, name="frames")
    for value in (5, 4, -1, 2**64):
        expect_raises(SemaphoreError, lambda: semaphore.signal(value), "frames")  # noqa: B023
    expect_equal(semaphore.query(), 5, "the payload after refused signals")
    stream.signal(semaphore, 5)
    expect_raises(DeviceError, stream.synchronize, "signal of frames to 5")
    expect_raises(DeviceError, lambda: semaphore.wait(1), "signal of frames to 5")


@SUITE.case
def many_threads_and_streams_agree_on_time(subject: Subject) -> None:
    semaphore, steps = Semaphore(), 60
    streams = [subject.stream() for _ in range(3)]

    def follow(at: int) -> int:
        for value in range(1, steps + 1):
            semaphore.wait(value, SOON)
            expect(semaphore.query() >= value, f"thread {at} saw {semaphore.query()} after it had waited for {value}")
        return at

    followers = [Caller(lambda at=at: follow(at), "a thread that follows") for at in range(3)]
    for value in range(1, steps + 1):
        stream = streams[value % 3]
        stream.wait(semaphore, value - 1)
        stream.signal(semaphore, value)
    for follower in followers:
        follower.must_return()


@SUITE.in_modes(MODES)
def two_lanes_hand_work_to_and_fro(subject: Subject) -> None:
    script = Script()
    a, b = script.slot("a", np.zeros(64, np.float32)), script.slot("b", np.zeros(64, np.float32))
    double = script.program(affine(), lambda x: (2 * x + 1,))
    for turn in range(5):
        script.wait("there", turn, lane=0)
        script.run(double, [a], [b], lane=0)
        script.signal("here", turn + 1, lane=0)
        script.wait("here", turn + 1, lane=1)
        script.run(double, [b], [a], lane=1)
        script.signal("there", turn + 1, lane=1)
    check(subject, script)


@SUITE.in_modes(MODES)
def one_lane_feeds_several(subject: Subject) -> None:
    script = Script()
    source = script.slot("source", subject.content(VECTOR))
    double = script.program(affine(), lambda x: (2 * x + 1,))
    sinks = [script.slot(f"sink{i}", np.zeros(64, np.float32)) for i in range(3)]
    script.run(double, [sinks[0]], [source], lane=0)
    script.signal("ready", 1, lane=0)
    for i, sink in enumerate(sinks):
        script.wait("ready", 1, lane=i + 1)
        script.run(double, [source], [sink], lane=i + 1)
        script.signal(f"done{i}", 1, lane=i + 1)
    for i in range(3):
        script.wait(f"done{i}", 1, lane=0)
    script.fill(source, 0, lane=0)
    check(subject, script)
