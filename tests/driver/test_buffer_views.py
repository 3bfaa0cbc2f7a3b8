"""Views are metadata: they agree with NumPy's, on memory that the host cannot read too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlx.driver import Buffer, Device
from rlx.errors import LayoutError
from rlx.ir.dtypes import bf16, c64, f32, i16, i64, u8, u16
from rlx.ir.types import TensorType

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_basic_indexing_agrees_with_numpy(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    view = Buffer.from_numpy(array)[index]
    expected = array[index]
    assert view.shape == np.shape(expected)
    assert np.array_equal(view.numpy(), expected)
    if view.nbytes:
        assert np.shares_memory(view.numpy(), array)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_reshape_is_a_view_exactly_where_numpy_needs_no_copy(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    view = array[data.draw(hnp.basic_indices(shape, allow_newaxis=False, allow_ellipsis=False))]
    if not isinstance(view, np.ndarray):
        return
    view = view.T if data.draw(st.booleans()) else view
    buffer = Buffer.from_numpy(view)
    try:
        expected = np.reshape(view, (-1,), copy=False)
    except ValueError:
        with pytest.raises(LayoutError, match=r"copy\(\)"):
            buffer.reshape(-1)
        assert buffer.copy().reshape(-1).numpy().tolist() == view.ravel().tolist()
    else:
        assert np.array_equal(buffer.reshape(-1).numpy(), expected)


def test_views_of_device_memory_compute_addresses_without_reading(opaque: Device) -> None:
    buffer = Buffer.empty(TensorType((4, 6), f32), opaque)
    base = buffer.address
    assert buffer[2, 3].address == base + (2 * 6 + 3) * 4
    assert buffer[::-1].address == base + 3 * 6 * 4
    assert buffer[::-1].strides == (-24, 4)
    assert buffer.reshape(3, 8)[1].address == base + 32
    assert buffer.view(u8).shape == (4, 24)
    assert buffer.transpose(1, 0)[5].address == base + 20


def test_view_as_another_dtype_keeps_the_bits() -> None:
    array = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
    buffer = Buffer.from_numpy(array)
    assert buffer.view(u16).shape == (2, 4)
    assert buffer.view(c64).shape == (2, 1)
    assert buffer.view(bf16).numpy().astype(np.float32)[0].tolist() == [0.0, 1.0, 0.0, -2.0]
    assert buffer.view(u16).view(f32).numpy().tolist() == array.tolist()


def test_view_as_a_wider_dtype_needs_a_last_axis_that_divides() -> None:
    buffer = Buffer.empty(TensorType((2, 3), f32))
    with pytest.raises(LayoutError, match="cannot be read as i64"):
        buffer.view(i64)
    with pytest.raises(LayoutError, match="cannot be read as i16"):
        buffer.transpose(1, 0).view(i16)


@pytest.mark.parametrize("index", [[0, 1], np.array([0, 1]), np.array([True, False]), True, 1.0, "x", (0, [1])])
def test_indices_that_would_copy_are_refused(index: object) -> None:
    with pytest.raises(LayoutError, match="cannot be viewed"):
        Buffer.empty(TensorType((2, 3), f32))[index]  # type: ignore[index]


def test_indices_out_of_range_and_shapes_of_another_size_are_refused() -> None:
    buffer = Buffer.empty(TensorType((2, 3), f32))
    with pytest.raises(LayoutError, match="out of bounds"):
        buffer[2]
    with pytest.raises(LayoutError, match="too many indices"):
        buffer[0, 0, 0]
    with pytest.raises(LayoutError, match="no view of shape"):
        buffer.reshape(4)
    with pytest.raises(LayoutError, match="cannot be transposed"):
        buffer.transpose(0, 0)


def test_contiguity_follows_the_strides() -> None:
    buffer = Buffer.empty(TensorType((4, 6), f32))
    assert buffer[1:3].is_contiguous
    assert buffer[:, None].is_contiguous
    assert buffer[:1, ::1].is_contiguous
    assert buffer[2, ::5][:1].is_contiguous  # one element, whatever its stride
    for strided in (buffer[::2], buffer[:, 1:], buffer[::-1], buffer.transpose(1, 0)):
        assert not strided.is_contiguous
        assert strided.copy().is_contiguous
