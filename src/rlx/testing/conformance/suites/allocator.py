"""The allocator: every byte in use is counted, no byte once it is not, and what is free is given again."""

from __future__ import annotations

import gc

import numpy as np

from rlx.driver import Buffer, track_allocations
from rlx.errors import RedZoneError
from rlx.ir import TensorType
from rlx.ir.dtypes import u8
from rlx.testing.conformance.blocking import Gate
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect, expect_equal, expect_raises
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


@SUITE.case
def the_same_sizes_again_ask_the_device_for_nothing(subject: Subject) -> None:
    sizes = (1, 100, 1024, 50_000, 100, 1024)

    def use() -> None:
        buffers = [Buffer.empty(TensorType((n,), u8), subject.device) for n in sizes]
        for value, buffer in enumerate(buffers):
            buffer.fill(value)
        for value, buffer in enumerate(buffers):
            expect_equal(set(subject.read(buffer).tolist()), {value}, "a buffer's bytes")

    use()
    before = subject.memory.statistics
    for _ in range(10):
        use()
    after = subject.memory.statistics
    expect_equal(after.device_allocations - before.device_allocations, 0, "what the device was asked for")
    expect_equal(after.allocations - before.allocations, 60, "blocks made")
    expect_equal(after.reserved, before.reserved, "bytes reserved")


@SUITE.case
def what_is_freed_is_a_hole_that_serves_again(subject: Subject) -> None:
    gc.collect()
    subject.memory.trim()
    buffer = Buffer.empty(TensorType((200_000,), u8), subject.device)
    buffer.free()
    before = subject.memory.statistics
    expect(before.largest_hole >= 200_000, f"the largest hole has {before.largest_hole} bytes, 200000 were freed")
    again = Buffer.empty(TensorType((200_000,), u8), subject.device)
    after = subject.memory.statistics
    expect_equal(after.device_allocations, before.device_allocations, "device allocations when a hole served")
    expect(after.largest_hole <= before.largest_hole, "the largest hole grew when it was used")
    again.free()


@SUITE.case
def trim_gives_back_what_is_unused_and_nothing_else(subject: Subject) -> None:
    memory, content = subject.memory, subject.rng.integers(0, 256, 100_000, np.uint8)
    subject.ends.callback(memory.set_kept, None)
    memory.set_kept(memory.statistics.limit)
    held = subject.buffer(content)
    large = TensorType((min(3 << 20, (memory.statistics.limit - memory.statistics.in_use) // 4),), u8)
    Buffer.empty(large, subject.device).free()
    before = memory.statistics
    given_back = memory.trim()
    after = memory.statistics
    expect(given_back > 0, "nothing was given back after a buffer was freed")
    expect_equal(before.reserved - after.reserved, given_back, "bytes fewer in reserve, and bytes given back")
    expect_equal((after.in_use, after.live), (before.in_use, before.live), "the account of what is in use")
    expect(after.reserved >= after.in_use, f"{after.reserved} bytes are reserved, and {after.in_use} in use")
    expect_equal(memory.trim(), 0, "what a second trim gives back")
    expect_equal(subject.read(held).tobytes(), content.tobytes(), "what was held meanwhile")
    Buffer.empty(large, subject.device).fill(1)


@SUITE.case
def the_peak_of_what_is_reserved_stays_until_it_is_reset(subject: Subject) -> None:
    memory = subject.memory
    Buffer.empty(TensorType((200_000,), u8), subject.device).free()
    peak = memory.statistics.peak_reserved
    memory.trim()
    expect(peak >= 200_000, "the peak does not reach what was reserved")
    expect_equal(memory.statistics.peak_reserved, peak, "the peak after a trim")
    memory.reset_peak()
    expect_equal(memory.statistics.peak_reserved, memory.statistics.reserved, "the peak after its reset")


@SUITE.case
def a_write_beside_or_after_a_block_is_found_while_debugging(subject: Subject) -> None:
    memory = subject.memory
    memory.check()
    subject.ends.callback(memory.set_debug, False)
    memory.set_debug(True)
    buffer = Buffer.empty(TensorType((100,), u8), subject.device, name="the mask")
    address = buffer.address
    expect_equal(set(subject.read(buffer).tolist()), {0xFF}, "fresh bytes")
    memory.check()
    for beside in (-1, 100):
        memory.backend.fill(address + beside, b"\0", 1)
        expect_raises(RedZoneError, memory.check, "the mask")
        memory.check()
    buffer.free()
    memory.check()
    memory.backend.fill(address, b"\0", 1)
    expect_raises(RedZoneError, memory.check, "the mask", "after it was freed")


@SUITE.case
def what_is_live_is_named_with_the_line_that_allocated_it(subject: Subject) -> None:
    with track_allocations() as allocations:
        held = Buffer.empty(KIB, subject.device, name="the cache")
        Buffer.empty(KIB, subject.device).free()
    gc.collect()
    expect_equal([what.whose for what in allocations.live], ["the cache"], "live allocations")
    expect_equal(allocations.live[0].nbytes, 1024, "the bytes of the one that is live")
    held.free()
    expect_equal(allocations.live, [], "live allocations after the last was freed")
