"""The allocator's account: every byte in use is counted, and no byte once it is not."""

from __future__ import annotations

import gc

import numpy as np

from rlx.driver import Buffer
from rlx.ir import TensorType
from rlx.ir.dtypes import u8
from rlx.testing.conformance.blocking import Gate
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect, expect_equal
from rlx.testing.conformance.graphs import VECTOR, affine

SUITE = Suite("allocator")
KIB = TensorType((1024,), u8)


@SUITE.case
def bytes_in_use_follow_what_is_held(subject: Subject) -> None:
    gc.collect()
    memory = subject.memory
    before = memory.statistics
    buffers = [Buffer.empty(KIB, subject.device) for _ in range(5)]
    during = memory.statistics
    expect_equal(during.in_use - before.in_use, 5 * 1024, "bytes in use with five buffers more")
    expect_equal(during.live - before.live, 5, "blocks held with five buffers more")
    expect_equal(during.allocations - before.allocations, 5, "blocks made")
    buffers[0].free()
    del buffers
    gc.collect()
    after = memory.statistics
    expect_equal((after.in_use, after.live), (before.in_use, before.live), "the account when they have ended")
    expect_equal(after.allocations - before.allocations, 5, "blocks ever made")


@SUITE.case
def the_peak_stays_until_it_is_reset(subject: Subject) -> None:
    gc.collect()
    memory = subject.memory
    memory.reset_peak()
    start = memory.statistics.in_use
    Buffer.empty(KIB, subject.device).free()
    Buffer.empty(KIB, subject.device).free()
    expect_equal(memory.statistics.peak, start + 1024, "the peak of two buffers, one after the other")
    memory.reset_peak()
    expect_equal(memory.statistics.peak, memory.statistics.in_use, "the peak after its reset")


@SUITE.case
def bytes_end_with_their_last_reader(subject: Subject) -> None:
    gc.collect()
    memory, stream = subject.memory, subject.stream()
    target = Buffer.empty(KIB, subject.device)
    start = memory.statistics.in_use
    source = subject.buffer(np.full(1024, 6, np.uint8))
    with Gate(stream):
        stream.copy(target, source)
        source.free()
        Buffer.empty(KIB, subject.device).fill(0)
        expect_equal(memory.statistics.in_use, start + 1024, "bytes in use while a stream still reads")
    stream.synchronize()
    stream.run_now(lambda inputs, outputs: None)  # the worker has let go of what came before
    expect_equal(memory.statistics.in_use, start, "bytes in use when it has read")
    expect_equal(set(subject.read(target).tolist()), {6}, "what it read")


@SUITE.case
def views_hold_no_bytes_of_their_own(subject: Subject) -> None:
    buffer = Buffer.empty(KIB, subject.device)
    gc.collect()
    before = subject.memory.statistics
    views = [buffer[i:] for i in range(10)]
    expect_equal(subject.memory.statistics, before, "the account with ten views more")
    expect_equal(len(views), 10, "views")


@SUITE.case
def a_program_allocates_nothing_once_it_runs(subject: Subject) -> None:
    program = subject.program(affine())
    x, y = subject.buffer(subject.content(VECTOR)), Buffer.empty(VECTOR, subject.device)
    stream = subject.stream()
    for _ in range(2):
        stream.run_now(program, [x], [y])
    before = subject.memory.statistics.allocations
    for _ in range(20):
        stream.run_now(program, [x], [y])
    expect_equal(subject.memory.statistics.allocations - before, 0, "allocations of 20 runs")


@SUITE.case
def the_same_bytes_are_given_again_and_again(subject: Subject) -> None:
    """Many times the capacity, a little at a time."""
    statistics = subject.memory.statistics
    nbytes = min(1 << 20, max(1, (statistics.limit - statistics.in_use) // 3))
    for value in range(64):
        with Buffer.empty(TensorType((nbytes,), u8), subject.device) as buffer:
            buffer[:8].fill(value)
            expect_equal(int(subject.read(buffer[:8])[7]), value, "the last of eight bytes")
    expect(subject.memory.statistics.peak <= subject.memory.statistics.limit, "the peak exceeds the limit")
