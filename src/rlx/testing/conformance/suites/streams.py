"""Streams: work in order, without waiting for it, beside other streams."""

from __future__ import annotations

import threading

import numpy as np

from rlx.driver import Buffer, Event, Operand
from rlx.errors import BufferFreed, DeviceError
from rlx.ir import TensorType
from rlx.ir.dtypes import f32
from rlx.testing.conformance.blocking import SOON, Caller, Gate, expect_waits
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect, expect_bits, expect_equal, expect_raises
from rlx.testing.conformance.graphs import FOUR, VECTOR, affine, swap
from rlx.testing.conformance.script import MODES, Script, check

SUITE = Suite("streams")


@SUITE.case
def enqueuing_returns_while_the_stream_is_held(subject: Subject) -> None:
    stream, program = subject.stream(), subject.program(affine())
    x, y = subject.buffer(np.ones(64, np.float32)), subject.buffer(np.zeros(64, np.float32))
    with Gate(stream):
        Caller(lambda: stream.fill(x, 3), "a fill").must_return()
        Caller(lambda: stream.run(program, [x], [y]), "a run").must_return()
        Caller(lambda: stream.copy(x, y), "a copy").must_return()
        expect(not stream.idle, "a held stream says that it is idle")
        expect_equal(set(subject.read(y).tolist()), {0}, "what the held work is to write")
    stream.synchronize()
    expect_equal(set(subject.read(x).tolist()), {7}, "what it wrote")


@SUITE.case
def synchronize_waits_for_what_was_enqueued_before_it(subject: Subject) -> None:
    stream = subject.stream()
    with Gate(stream) as gate:
        expect_waits(stream.synchronize, gate.open, "synchronize")
    expect(stream.idle, "a synchronised stream is not idle")


@SUITE.case
def synchronize_does_not_wait_for_other_streams(subject: Subject) -> None:
    held, free = subject.stream("held"), subject.stream("free")
    buffer = subject.buffer(np.zeros(4, np.float32))
    with Gate(held):
        free.fill(buffer, 2)
        Caller(free.synchronize, "synchronize beside a held stream").must_return()
        expect(not held.idle, "the held stream is idle before its gate was opened")
        expect_equal(set(subject.read(buffer).tolist()), {2}, "what the free stream wrote")


@SUITE.case
def two_streams_run_at_the_same_time(subject: Subject) -> None:
    meeting = threading.Barrier(2)
    first, second = subject.stream(), subject.stream()
    for stream in (first, second):
        stream.run(lambda inputs, outputs: (meeting.wait(SOON), None)[1], name="meeting")
    Caller(lambda: (first.synchronize(), second.synchronize()), "waiting for two streams that meet").must_return()


@SUITE.in_modes(MODES)
def fills_copies_and_runs_take_their_turn(subject: Subject) -> None:
    script = Script()
    a, b, c, d = (script.slot(n, subject.content(VECTOR)) for n in "abcd")
    double = script.program(affine(), lambda x: (2 * x + 1,))
    script.fill(a, 1)
    script.copy(b, a)
    script.run(double, [b], [c])
    script.fill(b, 5)
    script.run(double, [c], [b])
    script.copy(d, b)
    script.fill(b, 9)
    check(subject, script)


@SUITE.in_modes(MODES)
def a_long_chain_of_runs_keeps_its_order(subject: Subject) -> None:
    script = Script()
    a, b = script.slot("a", np.zeros(64, np.float32)), script.slot("b", np.zeros(64, np.float32))
    double = script.program(affine(), lambda x: (2 * x + 1,))
    for _ in range(10):
        script.run(double, [a], [b])
        script.run(double, [b], [a])
    check(subject, script)


@SUITE.in_modes(MODES)
def programs_with_several_results_write_each_to_its_place(subject: Subject) -> None:
    script = Script()
    x, y, d, p = (script.slot(n, subject.content(VECTOR)) for n in ("x", "y", "d", "p"))
    key = script.program(swap(), lambda x, y: (x - y, x * y))
    script.run(key, [x, y], [d, p])
    script.run(key, [p, d], [x, y])
    script.run(key, [x, x], [d, p])
    check(subject, script)


@SUITE.in_modes(MODES)
def parts_of_a_buffer_are_written_in_order(subject: Subject) -> None:
    script = Script()
    whole = script.slot("whole", np.zeros(64, np.float32))
    other = script.slot("other", subject.content(VECTOR))
    for i in range(8):
        part = Operand("whole", TensorType((8,), f32), 32 * i)
        script.copy(part, other.part(32 * (7 - i), part.type))
        script.fill(part.part(4, TensorType((2,), f32)), i)
    script.copy(other, whole)
    check(subject, script)


@SUITE.case
def free_after_enqueuing_keeps_the_bytes_until_they_are_read(subject: Subject) -> None:
    stream, target = subject.stream(), subject.buffer(np.zeros(64, np.float32))
    source = subject.buffer(np.full(64, 6, np.float32))
    with Gate(stream):
        stream.run(subject.program(affine()), [source], [target])
        source.free()
        subject.buffer(np.full(64, 1, np.float32))  # may take the bytes, if they were given back
    stream.synchronize()
    expect_equal(set(subject.read(target).tolist()), {13}, "what was computed from a freed buffer")


@SUITE.case
def freed_buffers_are_refused_when_enqueued(subject: Subject) -> None:
    stream, buffer, other = subject.stream(), Buffer.empty(FOUR, subject.device), Buffer.empty(FOUR, subject.device)
    buffer.free()
    for use in (
        lambda: stream.fill(buffer, 0),
        lambda: stream.copy(other, buffer),
        lambda: stream.copy(buffer, other),
        lambda: stream.run(lambda i, o: None, [buffer]),
    ):
        expect_raises(BufferFreed, use)
    stream.synchronize()


@SUITE.case
def an_idle_stream_runs_now_on_the_calling_thread(subject: Subject) -> None:
    stream, threads = subject.stream(), []
    stream.run_now(lambda inputs, outputs: threads.append(threading.current_thread()))
    expect_equal(threads, [threading.current_thread()], "the thread that ran")


@SUITE.case
def run_now_on_a_held_stream_waits_its_turn(subject: Subject) -> None:
    stream, log = subject.stream(), []
    with Gate(stream) as gate:
        stream.run(lambda inputs, outputs: log.append("before"))

        def release() -> None:
            expect_equal(log, [], "what ran while the stream was held")
            gate.open()

        expect_waits(lambda: stream.run_now(lambda i, o: log.append("now")), release, "run_now")
    expect_equal(log, ["before", "now", "now"], "the order")


@SUITE.case
def results_are_the_same_at_once_and_enqueued(subject: Subject) -> None:
    stream, program = subject.stream(), subject.program(affine())
    x = subject.buffer(subject.rng.standard_normal(64).astype(np.float32))
    now, later = Buffer.empty(VECTOR, subject.device), Buffer.empty(VECTOR, subject.device)
    stream.run_now(program, [x], [now])
    stream.run(program, [x], [later])
    stream.synchronize()
    expect_bits(subject.read(later), subject.read(now), "the enqueued run's result")


@SUITE.case
def reset_waits_for_what_was_enqueued(subject: Subject) -> None:
    stream = subject.stream()
    with Gate(stream) as gate:
        expect_waits(stream.reset, gate.open, "reset")
    expect(stream.idle, "a stream that was reset is not idle")


@SUITE.case
def a_trace_tells_what_was_done_in_order_and_to_which_bytes(subject: Subject) -> None:
    stream, program = subject.stream(), subject.program(affine())
    x, y = (Buffer.empty(VECTOR, subject.device) for _ in range(2))
    with stream.trace() as trace:
        stream.fill(x[2:4], 3)
        stream.run(program, [x], [y], name="affine")
        stream.copy(x, y)
        stream.synchronize()
    kinds = (
        "fill 3.0 -> (#0+8: f32[2])",
        "run affine (#0+0: f32[64]) -> (#1+0: f32[64])",
        "copy (#1+0: f32[64]) -> (#0+0: f32[64])",
    )
    expect_equal(tuple(map(str, trace.entries[:3])), kinds, "the trace")


@SUITE.case
def a_closed_stream_finishes_its_work_and_takes_no_more(subject: Subject) -> None:
    stream, buffer = subject.stream("the closed one"), subject.buffer(np.zeros(4, np.float32))
    gate = Gate(stream)
    stream.fill(buffer, 4)
    done = stream.record(Event("the end"))
    stream.close()
    stream.close()
    expect_raises(DeviceError, lambda: stream.fill(buffer, 5), "the closed one was closed")
    gate.open()
    done.wait(SOON)
    expect_equal(set(subject.read(buffer).tolist()), {4}, "what it wrote after it was closed")
