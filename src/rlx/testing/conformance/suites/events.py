"""Events: points in a stream that are reached once, in order, and waited for from anywhere."""

from __future__ import annotations

import time

import numpy as np

from rlx.driver import Event
from rlx.errors import EventError, EventTimeout
from rlx.testing.conformance.blocking import SOON, Caller, Gate, expect_waits
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect, expect_equal, expect_raises

SUITE = Suite("events")


@SUITE.case
def a_wait_returns_when_what_was_before_the_event_is_done(subject: Subject) -> None:
    stream = subject.stream()
    with Gate(stream) as gate:
        event = stream.record(Event("behind the gate"))
        expect(not event.query(), "an event behind a closed gate is reached")
        expect_waits(event.wait, gate.open, "a wait for an event")
    expect(event.query(), "an event that was waited for is not reached")


@SUITE.case
def a_wait_does_not_wait_for_what_is_behind_the_event(subject: Subject) -> None:
    stream = subject.stream()
    with Gate(stream) as first:
        event = stream.record(Event())
        with Gate(stream):
            first.open()
            Caller(event.wait, "a wait for an event before the gate").must_return()
            expect(not stream.idle, "the stream is idle behind its gate")


@SUITE.case
def another_stream_begins_after_the_event(subject: Subject) -> None:
    first, second = subject.stream("first"), subject.stream("second")
    a, b = subject.buffer(np.zeros(4, np.float32)), subject.buffer(np.zeros(4, np.float32))
    with Gate(first) as gate:
        first.fill(a, 3)
        second.wait(first.record(Event()))
        second.copy(b, a)
        expect_waits(second.synchronize, gate.open, "a stream that waits for another's event")
    expect_equal(set(subject.read(b).tolist()), {3}, "what the second stream copied")


@SUITE.case
def a_wait_that_takes_too_long_says_so(subject: Subject) -> None:
    stream = subject.stream()
    with Gate(stream):
        event = stream.record(Event("too late"))
        expect_raises(EventTimeout, lambda: event.wait(0.01), "too late")
    event.wait(SOON)


@SUITE.case
def times_follow_the_order(subject: Subject) -> None:
    stream = subject.stream()
    first = stream.record(Event())
    stream.run(lambda inputs, outputs: time.sleep(0.01))
    second = stream.record(Event())
    stream.synchronize()
    expect(second.time_ns - first.time_ns >= 10_000_000, "the time between two events is shorter than the work")


@SUITE.case
def an_event_is_recorded_once_and_before_it_is_waited_for(subject: Subject) -> None:
    stream, event = subject.stream(), Event("twice")
    for wait in (event.wait, lambda: stream.wait(event)):
        expect_raises(EventError, wait, "'twice' was never recorded")
    stream.record(event)
    expect_raises(EventError, lambda: stream.record(event), "'twice' is recorded already")
