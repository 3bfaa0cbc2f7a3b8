"""Buffers: content of every dtype goes in and comes out, and what has ended stays ended."""

from __future__ import annotations

import numpy as np

from rlx.driver import HOST, Buffer, MemoryKind
from rlx.errors import BufferFreed, BufferMismatch, MemoryKindError, NotHostMemory, NotOwner
from rlx.ir import TensorType, dtypes
from rlx.ir.dtypes import DType, f32, i8, u8
from rlx.testing.conformance.blocking import Gate
from rlx.testing.conformance.case import Subject, Suite, by_name
from rlx.testing.conformance.expect import expect, expect_bits, expect_equal, expect_raises
from rlx.testing.conformance.graphs import FOUR

SUITE = Suite("buffers")
#: Dtypes of whole bytes without a rule about their bits.
_ANY_BITS = [d for d in dtypes.ALL if d.bits >= 8 and d.kind != "bool"]


@SUITE.for_each(by_name(_ANY_BITS))
def content_comes_back_bit_for_bit(subject: Subject, dtype: DType) -> None:
    for shape in ((7,), (3, 5), (2, 3, 4, 5)):
        count = int(np.prod(shape))
        bits = subject.rng.integers(0, 256, count * dtype.itemsize, np.uint8)  # NaNs with payloads among them
        content = bits.view(dtype.numpy).reshape(shape)
        expect_bits(subject.read(subject.buffer(content)), content, f"{dtype}{list(shape)}")


@SUITE.for_each(by_name(dtypes.ALL))
def every_element_is_filled(subject: Subject, dtype: DType) -> None:
    buffer = subject.buffer(np.zeros((3, 5), dtype.numpy))
    for value in (1, 0):
        buffer.fill(value)
        expect_bits(subject.read(buffer), np.full((3, 5), value, dtype.numpy), f"{dtype} filled with {value}")


@SUITE.case
def special_numbers_are_filled_bit_for_bit(subject: Subject) -> None:
    for value in (float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3.4e38):
        buffer = Buffer.empty(FOUR, subject.device)
        buffer.fill(value)
        expect_bits(subject.read(buffer), np.full(4, value, np.float32), f"filled with {value}")


@SUITE.case
def a_number_that_the_dtype_lacks_is_refused_and_nothing_changes(subject: Subject) -> None:
    buffer = subject.buffer(np.full(3, 5, np.int8))
    expect_raises(BufferMismatch, lambda: buffer.fill(300), "i8", "300")
    expect_bits(subject.read(buffer), np.full(3, 5, np.int8), "the buffer after a refused fill")


@SUITE.case
def buffers_without_elements_and_scalars_are_buffers(subject: Subject) -> None:
    empty = Buffer.empty(TensorType((0, 3), f32), subject.device)
    empty.fill(1)
    expect_equal(subject.read(empty).shape, (0, 3), "the shape of a buffer without elements")
    scalar = subject.buffer(np.array(2.5, np.float32))
    expect_equal((scalar.shape, float(subject.read(scalar))), ((), 2.5), "a scalar")


@SUITE.case
def two_buffers_never_share_a_byte(subject: Subject) -> None:
    sizes = [int(n) for n in subject.rng.integers(1, 3000, 40)]
    buffers = [Buffer.empty(TensorType((n,), u8), subject.device) for n in sizes]
    for i, buffer in enumerate(buffers):
        buffer.fill(i)
    for i, (buffer, n) in enumerate(zip(buffers, sizes, strict=True)):
        expect_bits(subject.read(buffer), np.full(n, i, np.uint8), f"buffer {i} of {len(sizes)}")


@SUITE.case
def addresses_are_aligned_as_asked(subject: Subject) -> None:
    for alignment in (1, 64, 256, 4096):
        for nbytes in (1, 100, 5000):
            address = Buffer.empty(TensorType((nbytes,), i8), subject.device, alignment=alignment).address
            expect_equal(address % alignment, 0, f"the address {address} modulo {alignment}")


@SUITE.case
def a_large_buffer_keeps_every_byte(subject: Subject) -> None:
    statistics = subject.memory.statistics
    nbytes = min(16 << 20, (statistics.limit - statistics.in_use) // 4)
    content = subject.rng.integers(0, 256, nbytes, np.uint8)
    expect_bits(subject.read(subject.buffer(content)), content, f"{nbytes} bytes")


@SUITE.case
def a_copy_is_its_own(subject: Subject) -> None:
    original = subject.buffer(np.arange(4, dtype=np.float32))
    copy = original.copy()
    original.fill(9)
    expect_equal(copy.device, subject.device, "the copy's device")
    expect_bits(subject.read(copy), np.arange(4, dtype=np.float32), "the copy after the original was written")


@SUITE.case
def content_is_taken_when_it_is_given(subject: Subject) -> None:
    content = np.arange(4, dtype=np.float32)
    buffer = subject.buffer(content)
    content[:] = 9
    expect_bits(subject.read(buffer), np.arange(4, dtype=np.float32), "the buffer after its source was written")


@SUITE.case
def host_access_is_the_bytes_themselves_or_refused_with_the_call_to_make(subject: Subject) -> None:
    buffer = subject.buffer(np.zeros(4, np.float32))
    if subject.host_visible:
        buffer.numpy()[1] = 5
        expect_equal(subject.read(buffer).tolist(), [0, 5, 0, 0], "the buffer after its array was written")
        return
    for access in (buffer.numpy, lambda: np.asarray(buffer), lambda: buffer.__array_interface__):
        expect_raises(NotHostMemory, access, str(subject.device), ".to(")


@SUITE.case
def each_use_after_free_is_refused(subject: Subject) -> None:
    buffer, other = Buffer.empty(FOUR, subject.device, name="the freed one"), Buffer.empty(FOUR, subject.device)
    view = buffer[1:3]
    buffer.free()
    buffer.free()
    expect(buffer.is_freed, "a freed buffer does not say so")
    uses = (
        lambda: buffer.address, lambda: buffer.device, lambda: buffer.fill(0), lambda: buffer.copy_from(other),
        lambda: other.copy_from(buffer), lambda: buffer.to(HOST), lambda: buffer[0], lambda: view.fill(0), buffer.copy,
    )  # fmt: skip
    for use in uses:
        expect_raises(BufferFreed, use, "the freed one")


@SUITE.case
def a_view_does_not_free_what_it_views(subject: Subject) -> None:
    buffer = subject.buffer(np.arange(4, dtype=np.float32))
    expect_raises(NotOwner, buffer[1:3].free)
    expect_bits(subject.read(buffer), np.arange(4, dtype=np.float32), "the buffer after a refused free")


@SUITE.for_each({kind: kind for kind in ("device", "host", "pinned", "unified")})
def memory_of_a_kind_keeps_its_promise_or_is_refused(subject: Subject, kind: MemoryKind) -> None:
    try:
        buffer = Buffer.empty(FOUR, subject.device, kind=kind)
    except MemoryKindError as refused:
        expect(kind not in ("device", "host"), f"every device has {kind} memory: {refused}")
        for word in (str(subject.device), kind, "it has: device, host"):
            expect(word in str(refused), f"the error does not say {word!r}: {refused}")
        return
    expect(kind in buffer.kinds, f"memory of kind {kind} says that it is {buffer.kinds}")
    expect_equal(buffer.device, HOST if kind in ("host", "pinned") else subject.device, "the buffer's device")
    if kind != "device":
        buffer.numpy()[...] = [1, 2, 3, 4]
        expect_equal(subject.read(buffer).tolist(), [1, 2, 3, 4], "what the host wrote")
    there = subject.buffer(np.array([5, 6, 7, 8], np.float32))
    buffer.copy_from(there)
    there.fill(0)
    there.copy_from(buffer)
    expect_equal(subject.read(there).tolist(), [5, 6, 7, 8], "what went there and came back")


@SUITE.case
def a_kind_that_no_device_has_is_refused_with_those_that_this_one_has(subject: Subject) -> None:
    expect_raises(
        MemoryKindError, lambda: Buffer.empty(FOUR, subject.device, kind="file"), str(subject.device), "device, host"
    )


@SUITE.case
def bytes_freed_on_a_stream_stay_until_it_has_come_there(subject: Subject) -> None:
    stream, buffer = subject.stream(), Buffer.empty(TensorType((1024,), u8), subject.device)
    start = subject.memory.statistics.in_use
    with Gate(stream):
        buffer.free(stream=stream)
        expect(buffer.is_freed, "the buffer can still be used")
        expect_equal(subject.memory.statistics.in_use, start, "bytes in use while the stream is held")
    stream.synchronize()
    stream.run_now(lambda inputs, outputs: None)  # the worker has let go of what came before
    expect_equal(subject.memory.statistics.in_use, start - 1024, "bytes in use when the stream has come there")


@SUITE.case
def what_a_stream_could_not_do_is_refused_at_the_call(subject: Subject) -> None:
    stream, buffer = subject.stream(), subject.buffer(np.zeros(3, np.int8))
    expect_raises(BufferMismatch, lambda: buffer.fill(300, stream=stream), "i8", "300")
    expect_raises(BufferMismatch, lambda: buffer.copy_from(Buffer.empty(FOUR, subject.device), stream=stream))
    stream.synchronize()
