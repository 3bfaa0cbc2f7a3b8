"""DLPack: tensors cross without copying where the reader can hold them, and are refused in words where not."""

from __future__ import annotations

import gc

import numpy as np

from rlx.driver import Buffer
from rlx.errors import DLPackError
from rlx.ir import TensorType
from rlx.ir.dtypes import DType, bool_, f16, f32, f64, i8, i64, u16
from rlx.testing.conformance.case import Subject, Suite, by_name
from rlx.testing.conformance.expect import expect, expect_bits, expect_equal, expect_raises

SUITE = Suite("dlpack")
CPU = (1, 0)


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
    if not subject.host_visible and subject.device.properties.dlpack_device is None:
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
    if not subject.host_visible and subject.device.properties.dlpack_device is None:
        expect_raises(DLPackError, lambda: buffer.__dlpack__(copy=True), str(subject.device))
        return
    capsule = buffer.__dlpack__(max_version=(1, 1), copy=True)
    number = buffer.__dlpack_device__()
    given = type("Given", (), {"__dlpack__": lambda self, **_: capsule, "__dlpack_device__": lambda self: number})()
    copy = Buffer.from_dlpack(given)
    buffer.fill(3)
    expect(copy.address != buffer.address, "the copy is the buffer itself")
    expect_bits(subject.read(copy), np.zeros(4, np.float32), "the copy after the buffer was filled")


@SUITE.case
def another_device_is_refused(subject: Subject) -> None:
    buffer = Buffer.empty(TensorType((4,), f32), subject.device)
    expect_raises(DLPackError, lambda: buffer.__dlpack__(dl_device=(99, 7)))
