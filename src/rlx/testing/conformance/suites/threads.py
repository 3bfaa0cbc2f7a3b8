"""Threads: what any thread may call is right when many do."""

from __future__ import annotations

import gc
from queue import SimpleQueue

import numpy as np

from rlx.driver import Buffer, BufferHandle, Event, Semaphore
from rlx.ir import TensorType
from rlx.ir.dtypes import u8
from rlx.testing.conformance.blocking import SOON, Caller
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect_bits, expect_equal
from rlx.testing.conformance.graphs import MANY, VECTOR, add, advance, affine, scramble

SUITE = Suite("threads")


def _together(*bodies: object) -> None:
    callers = [Caller(body, "a thread") for body in bodies]  # type: ignore[arg-type]
    for caller in callers:
        caller.must_return()


@SUITE.case
def many_allocate_fill_move_and_free(subject: Subject) -> None:
    gc.collect()
    before = subject.memory.statistics

    def body(at: int) -> None:
        rng = np.random.default_rng(at)
        for step in range(40):
            size = int(rng.integers(1, 2000))
            with Buffer.empty(TensorType((size,), u8), subject.device) as buffer:
                buffer.fill((at * 40 + step) % 256)
                expect_bits(subject.read(buffer), np.full(size, (at * 40 + step) % 256, np.uint8), f"thread {at}")

    _together(*(lambda at=at: body(at) for at in range(4)))
    gc.collect()
    after = subject.memory.statistics
    expect_equal((after.in_use, after.live), (before.in_use, before.live), "the account when all have ended")
    expect_equal(after.allocations - before.allocations, 160, "blocks made")


@SUITE.case
def two_run_one_program_on_streams_of_their_own(subject: Subject) -> None:
    program = subject.program(affine())

    def body(at: int) -> None:
        stream, rng = subject.stream(), np.random.default_rng(at)
        for _ in range(30):
            content = rng.integers(-50, 50, 64).astype(np.float32)
            x, y = subject.buffer(content), Buffer.empty(VECTOR, subject.device)
            stream.run(program, [x], [y])
            stream.synchronize()
            expect_bits(subject.read(y), 2 * content + 1, f"thread {at}")

    _together(lambda: body(1), lambda: body(2))


@SUITE.case
def many_enqueue_on_one_stream(subject: Subject) -> None:
    stream = subject.stream()
    buffers = [subject.buffer(np.zeros(16, np.float32)) for _ in range(4)]

    def body(at: int) -> None:
        for value in range(50):
            stream.fill(buffers[at], value)
        stream.record(Event()).wait(SOON)
        expect_bits(subject.read(buffers[at]), np.full(16, 49, np.float32), f"thread {at}")

    _together(*(lambda at=at: body(at) for at in range(4)))


@SUITE.case
def two_programs_share_a_state_with_time_between_them(subject: Subject) -> None:
    """One stream adds one to the state, the other takes 2 s + 1 of it, in turns, each driven by its own thread."""
    increment, double = subject.program(add()), subject.program(affine())
    time, turns = Semaphore(), 20
    one, scratch = subject.buffer(np.ones(64, np.float32)), [Buffer.empty(VECTOR, subject.device) for _ in range(2)]
    with BufferHandle("state", VECTOR, subject.device) as state:

        def drive(at: int) -> None:
            stream = subject.stream()
            for turn in range(turns):
                stream.wait(time, 2 * turn + at)
                inputs = [state.buffer, one] if at == 0 else [state.buffer]
                stream.run(increment if at == 0 else double, inputs, [scratch[at]])
                stream.copy(state.buffer, scratch[at])
                stream.signal(time, 2 * turn + at + 1)
            stream.synchronize()

        _together(lambda: drive(0), lambda: drive(1))
        expected = np.zeros(64, np.float32)
        for _ in range(turns):
            expected = 2 * (expected + 1) + 1
        expect_bits(state.read(), expected.astype(np.float32), "the state after all turns")


@SUITE.case
def two_programs_share_a_state_with_events_between_many_times(subject: Subject) -> None:
    """Each program has a stream and a thread of its own; what passes between the threads is an event a turn."""
    programs = subject.program(advance()), subject.program(scramble())
    turns, past = 300, (SimpleQueue[Event](), SimpleQueue[Event]())
    start, step = (subject.rng.integers(-(2**31), 2**31, MANY.sizes).astype(np.int32) for _ in range(2))
    steps, scratch = subject.buffer(step), [Buffer.empty(MANY, subject.device) for _ in range(2)]
    with BufferHandle("state", MANY, subject.device, initial=start) as state:

        def drive(at: int) -> None:
            stream = subject.stream()
            inputs = [state.buffer, steps] if at == 0 else [state.buffer]
            for turn in range(turns):
                if at or turn:
                    stream.wait(past[at].get(timeout=SOON))
                stream.run(programs[at], inputs, [scratch[at]])
                stream.copy(state.buffer, scratch[at])
                past[1 - at].put(stream.record(Event()))
            stream.synchronize()

        _together(lambda: drive(0), lambda: drive(1))
        expected = start
        for _ in range(turns):
            expected = (expected + step) * np.int32(1664525) + np.int32(1013904223)
        expect_bits(state.read(), expected, "the state after all turns")


@SUITE.case
def one_waits_while_another_signals(subject: Subject) -> None:
    for _ in range(30):
        stream, semaphore, event = subject.stream(), Semaphore(), Event()
        waiter = Caller(lambda: semaphore.wait(1, SOON), "a wait")  # noqa: B023
        stream.run(lambda inputs, outputs: None)
        stream.signal(semaphore, 1)
        stream.record(event)
        waiter.must_return()
        event.wait(SOON)
        stream.close()
