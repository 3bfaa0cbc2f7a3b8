"""Transfers: bytes move when asked, all of them, and no others."""

from __future__ import annotations

import numpy as np

from rlx.driver import HOST, Buffer, Device
from rlx.errors import BufferMismatch, BufferReadOnly
from rlx.ir import TensorType
from rlx.ir.dtypes import f32, i32, u8
from rlx.testing.conformance.blocking import Gate
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect, expect_bits, expect_equal, expect_raises
from rlx.testing.conformance.graphs import FOUR

SUITE = Suite("transfers")


@SUITE.case
def to_another_device_and_back_keeps_every_bit(subject: Subject) -> None:
    content = subject.rng.integers(0, 2**32, 1000, np.uint32).view(np.float32)
    for other in Device.all():
        there = subject.buffer(content).to(other)
        expect_equal(there.device, other, "where to(device) leads")
        back = there.to(subject.device)
        expect_equal(back.device, subject.device, "where to(device) leads back")
        expect_bits(subject.read(back), content, f"content that went to {other} and back")


@SUITE.case
def to_the_same_device_is_the_buffer_itself(subject: Subject) -> None:
    buffer = Buffer.empty(FOUR, subject.device)
    expect(buffer.to(subject.device) is buffer, "to() copied though the bytes are there")


@SUITE.case
def to_another_device_is_a_copy(subject: Subject) -> None:
    if subject.device == HOST:
        there = Device("reference")
        buffer = subject.buffer(np.zeros(4, np.float32))
        moved = buffer.to(there)
    else:
        buffer = subject.buffer(np.zeros(4, np.float32))
        moved = buffer.to(HOST)
    buffer.fill(7)
    expect_bits(moved.to(HOST).numpy(), np.zeros(4, np.float32), "what was moved, after its source was filled")


@SUITE.case
def overlapping_bytes_are_copied_as_if_apart(subject: Subject) -> None:
    content = subject.rng.integers(0, 256, 512, np.uint8)
    for source, target in ((0, 3), (3, 0), (0, 256), (100, 101), (64, 0)):
        buffer = subject.buffer(content)
        buffer[target : target + 256].copy_from(buffer[source : source + 256])
        expected = content.copy()
        expected[target : target + 256] = content[source : source + 256]
        expect_bits(subject.read(buffer), expected, f"256 bytes from {source} to {target}")


@SUITE.case
def nothing_beside_the_target_is_touched(subject: Subject) -> None:
    for start, length in ((1, 1), (3, 5), (7, 64), (63, 129)):
        buffer, source = subject.buffer(np.full(256, 0xA5, np.uint8)), subject.content(TensorType((length,), u8))
        expected = np.full(256, 0xA5, np.uint8)
        expected[start : start + length] = source
        buffer[start : start + length].copy_from(subject.buffer(source))
        expect_bits(subject.read(buffer), expected, f"{length} bytes on the device, to {start}")


@SUITE.case
def a_transfer_has_happened_when_the_call_returns(subject: Subject) -> None:
    buffer = Buffer.empty(TensorType((1 << 16,), u8), subject.device)
    staging = np.zeros(1 << 16, np.uint8)
    for value in range(1, 8):
        staging[:] = value
        buffer.copy_from(Buffer.from_numpy(staging))
        staging[:] = 0  # the source is the caller's again
        expect_equal(set(subject.read(buffer).tolist()), {value}, "the content after the transfer")


@SUITE.case
def transfers_on_a_stream_take_their_turn(subject: Subject) -> None:
    stream, content = subject.stream(), subject.content(FOUR)
    source, there, back = Buffer.from_numpy(content.copy()), subject.buffer(content * 0), Buffer.empty(FOUR)
    back.fill(0)
    with Gate(stream):
        stream.copy(there, source)
        stream.copy(back, there)
        stream.fill(there, 9)
        expect_bits(back.numpy(), content * 0, "the host's buffer while the stream is held")
        source.copy_from(Buffer.from_numpy(content + 1))
    stream.synchronize()
    expect_bits(back.numpy(), content + 1, "what went to the device and back, as it was when the stream came to it")
    expect_equal(set(subject.read(there).tolist()), {9}, "what was filled behind the copies")


@SUITE.case
def sides_that_differ_are_refused_and_nothing_changes(subject: Subject) -> None:
    buffer = subject.buffer(np.arange(4, dtype=np.float32))
    for other in (TensorType((5,), f32), TensorType((4,), i32), TensorType((2, 2), f32)):
        wrong = Buffer.empty(other, subject.device)
        expect_raises(BufferMismatch, lambda: buffer.copy_from(wrong), "f32[4]", str(other))  # noqa: B023
    expect_bits(subject.read(buffer), np.arange(4, dtype=np.float32), "the buffer after refused copies")


@SUITE.case
def what_is_read_only_is_read_and_not_written(subject: Subject) -> None:
    array = np.arange(4, dtype=np.float32)
    array.flags.writeable = False
    source, buffer = Buffer.from_numpy(array), Buffer.empty(FOUR, subject.device)
    buffer.copy_from(source)
    expect_bits(subject.read(buffer), array, "what came from a read-only buffer")
    expect_raises(BufferReadOnly, lambda: source.copy_from(buffer))


@SUITE.case
def buffers_without_elements_are_transferred(subject: Subject) -> None:
    empty = Buffer.empty(TensorType((0,), f32), subject.device)
    empty.copy_from(Buffer.empty(TensorType((0,), f32)))
    expect_equal(empty.to(HOST).shape, (0,), "the shape of nothing")
