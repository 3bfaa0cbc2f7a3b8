"""Views: parts and other readings of the same bytes, at every offset."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rlx.driver import HOST, Buffer
from rlx.errors import LayoutError
from rlx.ir import TensorType
from rlx.ir.dtypes import DType, f16, f32, f64, i16, u8, u32
from rlx.testing.conformance.case import Subject, Suite, by_name
from rlx.testing.conformance.expect import expect_bits, expect_equal, expect_raises

SUITE = Suite("views")


@SUITE.for_each(by_name([u8, i16, f16, f32, f64]))
def a_part_at_any_offset_is_written_alone(subject: Subject, dtype: DType) -> None:
    for start in range(6):
        for length in (1, 2, 3, 5):
            content = subject.content(TensorType((12,), dtype))
            buffer = subject.buffer(content)
            part = subject.content(TensorType((length,), dtype))
            buffer[start : start + length].copy_from(Buffer.from_numpy(part))
            content[start : start + length] = part
            expect_bits(subject.read(buffer), content, f"{length} of {dtype} written at {start}")


@SUITE.for_each(by_name([u8, i16, f16, f32, f64]))
def a_part_at_any_offset_is_read_and_filled_alone(subject: Subject, dtype: DType) -> None:
    content = np.arange(12).astype(dtype.numpy)
    for start in range(6):
        for length in (1, 2, 3, 5):
            buffer = subject.buffer(content)
            part = buffer[start : start + length]
            expect_bits(subject.read(part), content[start : start + length], f"{length} of {dtype} read at {start}")
            part.fill(77)
            expected = content.copy()
            expected[start : start + length] = 77
            expect_bits(subject.read(buffer), expected, f"{length} of {dtype} filled at {start}")


@SUITE.case
def rows_reshapes_and_new_axes_see_the_same_bytes(subject: Subject) -> None:
    content = np.arange(24, dtype=np.float32).reshape(4, 6)
    buffer = subject.buffer(content)
    expect_bits(subject.read(buffer[2]), content[2], "a row")
    expect_bits(subject.read(buffer[1:3]), content[1:3], "two rows")
    expect_bits(subject.read(buffer.reshape(2, -1)), content.reshape(2, 12), "a reshape")
    expect_bits(subject.read(buffer[None, 3]), content[None, 3], "a new axis")
    buffer.reshape(24)[7:9].fill(-1)
    expect_equal(subject.read(buffer)[1].tolist(), [6, -1, -1, 9, 10, 11], "a row after a view was filled")


@SUITE.case
def bytes_are_read_as_another_dtype(subject: Subject) -> None:
    content = subject.rng.standard_normal((2, 4)).astype(np.float32)
    buffer = subject.buffer(content)
    expect_bits(subject.read(buffer.view(u32)), content.view(np.uint32), "f32 as u32")
    expect_bits(subject.read(buffer.view(u8)), content.view(np.uint8), "f32 as u8")
    expect_bits(subject.read(buffer.view(f64)), content.view(np.float64), "f32 as f64")


@SUITE.case
def a_view_of_a_view_lies_where_it_should(subject: Subject) -> None:
    content = np.arange(32, dtype=np.int16)
    buffer = subject.buffer(content)
    view = buffer[4:28].reshape(4, 6)[1:3].reshape(12)[5:9]
    expect_equal(view.address - buffer.address, 2 * 15, "the view's offset in bytes")
    expect_bits(subject.read(view), content[15:19], "a view of a view of a view")


@SUITE.case
def strides_cross_to_the_host_or_are_refused(subject: Subject) -> None:
    content = np.arange(12, dtype=np.float32).reshape(3, 4)
    for index in (np.s_[:, 1], np.s_[::2], np.s_[::-1]):
        view = subject.buffer(content)[index]
        target = Buffer.empty(view.type)
        if subject.host_visible:
            target.copy_from(view)
            expect_bits(target.numpy(), content[index].copy(), f"the view {index} on the host")
        else:
            expect_raises(LayoutError, partial(target.copy_from, view), "not contiguous")
            expect_raises(LayoutError, partial(view.to, HOST), "not contiguous")


@SUITE.case
def what_is_no_view_is_refused(subject: Subject) -> None:
    buffer = Buffer.empty(TensorType((3, 4), f32), subject.device)
    fancy: Any = [0, 1]
    for bad in (lambda: buffer[5], lambda: buffer[fancy], lambda: buffer.reshape(5), lambda: buffer.transpose(0, 0)):
        expect_raises(LayoutError, bad)
    expect_raises(LayoutError, lambda: buffer[:, :3].view(f64))
