"""Out of memory: what is refused, in which words, and that nothing is lost by it."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import numpy as np

from rlx.driver import Buffer, DeviceArena
from rlx.errors import DeviceError, OutOfMemory
from rlx.ir import TensorType
from rlx.ir.dtypes import u8
from rlx.testing.conformance.blocking import Caller
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect, expect_equal, expect_raises

SUITE = Suite("memory_limits")


def _limit(subject: Subject, room: int) -> int:
    """Bounds the device's memory to what is in use and `room` bytes, until the case ends; gives what is in use."""
    gc.collect()
    subject.ends.callback(subject.memory.set_limit, None)
    start = subject.memory.statistics.in_use
    subject.memory.set_limit(start + room)
    return start


@SUITE.case
def the_limit_is_reached_and_not_passed(subject: Subject) -> None:
    start = _limit(subject, 4096)
    buffers = [Buffer.empty(TensorType((1024,), u8), subject.device) for _ in range(4)]
    expect_raises(OutOfMemory, lambda: Buffer.empty(TensorType((1,), u8), subject.device))
    expect_equal(subject.memory.statistics.in_use, start + 4096, "bytes in use at the limit")
    buffers.pop().free()
    Buffer.empty(TensorType((1024,), u8), subject.device).fill(1)


@SUITE.case
def the_error_says_what_was_asked_what_is_free_and_who_holds_most(subject: Subject) -> None:
    _limit(subject, 1 << 19)
    held = Buffer.empty(TensorType((500_000,), u8), subject.device, name="the cache of keys")
    error = expect_raises(
        OutOfMemory,
        lambda: Buffer.empty(TensorType((123_456,), u8), subject.device),
        str(subject.device), "123456", str((1 << 19) - 500_000), "the cache of keys 500000", "largest hole",
    )  # fmt: skip
    expect(isinstance(error, MemoryError), "the error is no MemoryError")
    expect(error.hint, "the error says nothing about what to do")
    held.free()


@SUITE.case
def what_is_cached_goes_before_a_request_fails(subject: Subject) -> None:
    """Sizes that no hole of another serves: each needs room that the ones before it took."""
    _limit(subject, 400_000)
    subject.memory.trim()
    start = subject.memory.statistics.reserved
    for nbytes in (70_000, 150_000, 300_000, 400_000):
        Buffer.empty(TensorType((nbytes,), u8), subject.device).fill(1)
    now = subject.memory.statistics
    expect(now.reserved - start <= 500_000, f"{now.reserved - start} bytes are reserved beyond a limit of 400000")


@SUITE.case
def what_exceeds_the_whole_device_is_refused(subject: Subject) -> None:
    gc.collect()
    before = subject.memory.statistics
    nbytes = subject.memory.backend.capacity_bytes + 1
    expect_raises(OutOfMemory, lambda: Buffer.empty(TensorType((nbytes,), u8), subject.device), str(nbytes))
    expect_raises(OutOfMemory, lambda: DeviceArena(subject.device, nbytes), str(nbytes))
    after = subject.memory.statistics
    expect_equal((after.in_use, after.live), (before.in_use, before.live), "the account after refused allocations")


@SUITE.case
def content_survives_a_refused_allocation(subject: Subject) -> None:
    buffer = subject.buffer(np.full(1000, 7, np.uint8))
    _limit(subject, 10)
    for _ in range(20):
        expect_raises(OutOfMemory, lambda: Buffer.empty(TensorType((1000,), u8), subject.device))
    expect_equal(set(subject.read(buffer).tolist()), {7}, "what was there")


@SUITE.case
def work_that_finds_no_room_fails_its_stream_and_names_itself(subject: Subject) -> None:
    stream, kept = subject.stream(), subject.buffer(np.full(100, 7, np.uint8))
    _limit(subject, 10)

    def greedy(inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        Buffer.empty(TensorType((1000,), u8), subject.device)

    stream.run(greedy, name="the encoder")
    stream.fill(kept, 8)
    error = expect_raises(DeviceError, stream.synchronize, "the encoder failed: OutOfMemory", "1000")
    expect(isinstance(error.__cause__, OutOfMemory), f"the error's cause is {error.__cause__!r}")
    stream.reset()
    stream.fill(kept[:50], 9)
    stream.synchronize()
    expect_equal(subject.read(kept).tolist(), [9] * 50 + [7] * 50, "what was there, after a fill behind the reset")


@SUITE.case
def threads_do_not_pass_the_limit_together(subject: Subject) -> None:
    start = _limit(subject, 10 * 1024)
    subject.memory.reset_peak()

    def allocate() -> list[Buffer]:
        held: list[Buffer] = []
        try:
            while True:
                held.append(Buffer.empty(TensorType((1024,), u8), subject.device))
        except OutOfMemory:
            return held

    callers = [Caller(allocate, "a thread that allocates") for _ in range(4)]
    held = [buffer for caller in callers for buffer in caller.must_return()]
    expect_equal(len(held), 10, "buffers that four threads got")
    expect_equal(subject.memory.statistics.peak, start + 10 * 1024, "the peak")
