"""DLPack: tensors cross without copying where the reader can hold them, and are refused in words where not."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

from rlx.driver import Buffer, QueuedMemory
from rlx.errors import DLPackError
from rlx.ir import TensorType
from rlx.ir.dtypes import DType, bool_, f16, f32, f64, i8, i64, u16
from rlx.testing.conformance.blocking import Caller, Gate, expect_waits
from rlx.testing.conformance.case import Subject, Suite, by_name
from rlx.testing.conformance.expect import expect, expect_bits, expect_equal, expect_raises

SUITE = Suite("dlpack")
CPU = (1, 0)


def _given(capsule: object, number: tuple[int, int]) -> Any:
    """An object that gives this capsule."""
    return type("Given", (), {"__dlpack__": lambda self, **_: capsule, "__dlpack_device__": lambda self: number})()


def _has_number(subject: Subject) -> bool:
    """Whether the device's buffers can be exported at all."""
    return subject.host_visible or subject.device.properties.dlpack_device is not None


@SUITE.case
def the_number_is_that_of_the_device_or_refused(subject: Subject) -> None:
    buffer, number = Buffer.empty(TensorType((4,), f32), subject.device), subject.device.properties.dlpack_device
    if subject.host_visible:
        expect_equal(buffer.__dlpack_device__(), CPU, "the DLPack device of host memory")
    elif number is None:
        expect_raises(DLPackError, buffer.__dlpack_device__, str(subject.device))
    else:
        expect_equal(buffer.__dlpack_device__(), number, "the buffer's DLPack device")


@SUITE.for_each(by_name([bool_, i8, u16, i64, f16, f32, f64]))
def a_buffer_comes_back_over_the_same_bytes(subject: Subject, dtype: DType) -> None:
    content = subject.content(TensorType((3, 4), dtype))
    buffer = subject.buffer(content)
    if not _has_number(subject):
        expect_raises(DLPackError, buffer.__dlpack__, str(subject.device))
        return
    back = Buffer.from_dlpack(buffer)
    expect_equal((back.address, back.type), (buffer.address, buffer.type), "address and type of what came back")
    expect_bits(subject.read(back), content, "what came back")
    buffer.free()
    del buffer
    gc.collect()
    expect_bits(subject.read(back), content, "what came back, after the buffer was freed")


@SUITE.case
def numpy_reads_host_memory_and_nothing_else(subject: Subject) -> None:
    buffer = subject.buffer(np.arange(6, dtype=np.float32).reshape(2, 3))
    if not subject.host_visible:
        expect_raises(Exception, lambda: np.from_dlpack(buffer))  # type: ignore[arg-type]
        return
    array = np.from_dlpack(buffer)  # type: ignore[arg-type]
    expect_equal(array.ctypes.data, buffer.address, "the address that NumPy sees")
    array = np.from_dlpack(buffer[:, 1:])  # type: ignore[arg-type]
    expect_equal(array.tolist(), [[1, 2], [4, 5]], "a strided view through NumPy")


@SUITE.case
def a_copy_is_given_where_one_is_asked_for(subject: Subject) -> None:
    buffer = subject.buffer(np.zeros(4, np.float32))
    if not _has_number(subject):
        expect_raises(DLPackError, lambda: buffer.__dlpack__(copy=True), str(subject.device))
        return
    capsule = buffer.__dlpack__(max_version=(1, 1), copy=True)
    copy = Buffer.from_dlpack(_given(capsule, buffer.__dlpack_device__()))
    buffer.fill(3)
    expect(copy.address != buffer.address, "the copy is the buffer itself")
    expect_bits(subject.read(copy), np.zeros(4, np.float32), "the copy after the buffer was filled")


@SUITE.case
def another_device_is_refused(subject: Subject) -> None:
    buffer = Buffer.empty(TensorType((4,), f32), subject.device)
    expect_raises(DLPackError, lambda: buffer.__dlpack__(dl_device=(99, 7)))


@SUITE.case
def an_export_waits_for_what_streams_have_yet_to_do_with_the_bytes(subject: Subject) -> None:
    stream, buffer = subject.stream(), subject.buffer(np.zeros(4, np.float32))
    if not _has_number(subject):
        return
    gate = Gate(stream)
    with gate:
        stream.fill(buffer[1:3], 3)
        expect_waits(lambda: buffer.__dlpack__(max_version=(1, 0)), gate.open, "an export")
    with Gate(stream):
        stream.fill(buffer, 3)
        Caller(lambda: buffer.__dlpack__(max_version=(1, 0), stream=-1), "an export with stream -1").must_return()
        other = subject.buffer(np.zeros(4, np.float32))
        Caller(lambda: other.__dlpack__(max_version=(1, 0)), "an export of other bytes").must_return()
    stream.synchronize()  # raises where an export has waited for as long as the gate does


@SUITE.case
def a_copy_for_the_host_is_made_when_the_work_is_done(subject: Subject) -> None:
    """Asked for by name, so also where DLPack has no number for the device."""
    stream, buffer = subject.stream(), subject.buffer(np.zeros(4, np.float32))
    with Gate(stream):
        stream.fill(buffer, 3)
        export = Caller(lambda: buffer.__dlpack__(max_version=(1, 0), dl_device=CPU, copy=True), "an export of a copy")
        export.must_wait()
    array = np.from_dlpack(_given(export.must_return(), CPU))
    expect_equal(array.tolist(), [3, 3, 3, 3], "the copy on the host")
    array = np.from_dlpack(buffer, device="cpu")  # type: ignore[arg-type]
    expect_equal(array.tolist(), [3, 3, 3, 3], "what NumPy asks for on the host")
    if not subject.host_visible:
        expect_raises(DLPackError, lambda: buffer.__dlpack__(dl_device=CPU, copy=False), "copy=False")


@SUITE.case
def a_stream_that_cannot_be_is_refused(subject: Subject) -> None:
    buffer = Buffer.empty(TensorType((4,), f32), subject.device)
    for stream in (-2, 1.5, "1"):
        expect_raises(DLPackError, lambda stream=stream: buffer.__dlpack__(stream=stream))
    if subject.host_visible or not isinstance(subject.memory.backend, QueuedMemory):
        expect_raises(DLPackError, lambda: buffer.__dlpack__(stream=5))


@SUITE.case
def cuda_devices_and_no_others_describe_their_bytes_to_cuda(subject: Subject) -> None:
    buffer = Buffer.empty(TensorType((4,), f32), subject.device)
    expect_equal(hasattr(buffer, "__cuda_array_interface__"), subject.device.kind == "cuda", "a CUDA array interface")
    if subject.device.kind == "cuda":
        back = Buffer.from_cuda_array(buffer, subject.device)
        expect_equal((back.address, back.type), (buffer.address, buffer.type), "address and type of what came back")
