"""Buffers: whose the bytes are, where they live, and when they end."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from rlx.driver import HOST, Buffer, Device, device_memory
from rlx.errors import (
    BufferFreed,
    BufferMismatch,
    BufferReadOnly,
    IRError,
    LayoutError,
    NotHostMemory,
    NotOwner,
)
from rlx.ir import dtypes
from rlx.ir.dtypes import bf16, f32, i32, u8
from rlx.ir.types import TensorType

ROWS = TensorType((3, 4), f32)


def _random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# -- NumPy ------------------------------------------------------------------------------------------------------------


def test_from_numpy_shares_the_arrays_bytes_both_ways() -> None:
    array = _random((3, 4))
    buffer = Buffer.from_numpy(array)
    assert buffer.address == array.ctypes.data
    array[1, 2] = 7
    assert buffer.numpy()[1, 2] == 7
    buffer.numpy()[0, 0] = 5
    assert array[0, 0] == 5


def test_from_numpy_with_copy_shares_nothing() -> None:
    array = _random((3, 4))
    buffer = Buffer.from_numpy(array, copy=True)
    before = array.copy()
    array[...] = 0
    assert np.array_equal(buffer.numpy(), before)


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_every_dtype_comes_back_from_numpy_bit_by_bit(dtype: dtypes.DType) -> None:
    raw = np.random.default_rng(1).integers(0, 2, (5, 3 * dtype.itemsize), np.uint8)
    array = raw.view(dtype.numpy)
    buffer = Buffer.from_numpy(array)
    assert buffer.type == TensorType((5, 3), dtype)
    for back in (buffer.numpy(), np.asarray(buffer), np.array(buffer)):
        assert back.dtype == dtype.numpy
        assert back.tobytes() == raw.tobytes()
    assert np.shares_memory(np.asarray(buffer), array)


def test_strides_of_an_array_are_kept_whatever_they_are() -> None:
    base = _random((6, 8))
    for view in (base[::-1, ::2], base.T, base[2:2], base[:, 3], np.broadcast_to(base[0], (5, 8)), base[1, 1, ...]):
        buffer = Buffer.from_numpy(view)
        assert buffer.strides == view.strides
        assert np.array_equal(np.asarray(buffer), view)


def test_np_asarray_honours_dtype_and_copy() -> None:
    buffer = Buffer.from_numpy(_random((3, 4)))
    assert np.asarray(buffer, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(buffer, copy=True), buffer.numpy())
    assert np.array(buffer, copy=False).ctypes.data == buffer.address
    with pytest.raises(ValueError, match="copy"):
        np.array(buffer, dtype=np.float64, copy=False)


def test_a_dtype_without_a_counterpart_is_refused() -> None:
    with pytest.raises(IRError, match="M8"):
        Buffer.from_numpy(np.zeros(3, "datetime64[s]"))


def test_a_read_only_array_makes_a_read_only_buffer_and_views_stay_read_only() -> None:
    array = _random((3, 4))
    array.flags.writeable = False
    buffer = Buffer.from_numpy(array)
    for each in (buffer, buffer[1:], buffer.reshape(12), buffer.view(i32), buffer.retain()):
        assert each.readonly
        assert not each.numpy().flags.writeable
        assert not np.asarray(each).flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            np.asarray(each).flags.writeable = True
        with pytest.raises(BufferReadOnly):
            each.fill(0)
        with pytest.raises(BufferReadOnly):
            each.copy_from(each)
    assert not buffer.copy().readonly


# -- lifetime ---------------------------------------------------------------------------------------------------------


def test_use_after_free_raises_for_the_buffer_and_all_its_views() -> None:
    buffer = Buffer.empty(ROWS, name="the logits")
    views = [buffer, buffer[1], buffer.reshape(12), buffer.transpose(1, 0), buffer.view(i32)]
    buffer.free()
    other = Buffer.empty(ROWS)
    for each in views:
        uses = [
            lambda b: b.address, lambda b: b.device, lambda b: b.numpy(), np.asarray, lambda b: b.__dlpack__(),
            lambda b: b.fill(0), lambda b: b.copy(), lambda b: b.to(HOST), lambda b: b[0], lambda b: b.reshape(-1),
            lambda b: b.copy_from(b), lambda b: b.retain(), lambda b: b.block, lambda b: b.__array_interface__,
        ]  # fmt: skip
        for use in uses:
            with pytest.raises(BufferFreed, match="the logits"):
                use(each)
        assert "freed" in repr(each)
        assert each.is_freed
    with pytest.raises(BufferFreed):
        other.copy_from(buffer)


def test_freeing_twice_is_allowed_and_a_with_block_frees() -> None:
    with Buffer.empty(ROWS) as buffer:
        buffer.fill(1)
    assert buffer.is_freed
    buffer.free()


def test_a_view_cannot_free_what_it_does_not_own() -> None:
    buffer = Buffer.empty(ROWS)
    with pytest.raises(NotOwner):
        buffer[0].free()
    buffer.fill(1)


def test_a_numpy_view_made_before_free_keeps_the_bytes() -> None:
    memory = device_memory(HOST)
    before = memory.statistics.in_use
    buffer = Buffer.empty(TensorType((1 << 20,), f32))
    buffer.fill(3)
    for make in (Buffer.numpy, np.asarray, lambda b: b[5:].numpy()[7:]):
        array = make(buffer.retain())
        assert memory.statistics.in_use == before + (4 << 20)
        assert array.min() == array.max() == 3
        del array
    buffer.free()
    gc.collect()
    assert memory.statistics.in_use == before


def test_the_bytes_of_a_buffer_outlive_it_under_a_numpy_view() -> None:
    buffer = Buffer.empty(TensorType((1 << 20,), f32))
    buffer.fill(3)
    array, interface = buffer.numpy(), np.asarray(buffer)
    buffer.free()
    del buffer
    Buffer.empty(TensorType((1 << 20,), f32)).fill(9)
    assert array.min() == array.max() == interface.min() == interface.max() == 3


def test_a_buffer_keeps_the_array_it_was_made_from() -> None:
    array = _random((1000,))
    expected = array.sum()
    alive = weakref.ref(array)
    buffer = Buffer.from_numpy(array)
    view = buffer[10:]
    del array, buffer
    gc.collect()
    assert alive() is not None
    assert view.numpy().base is not None
    assert alive().sum() == expected  # type: ignore[union-attr]
    del view
    assert alive() is None


def test_a_retained_buffer_lives_by_itself() -> None:
    buffer = Buffer.empty(ROWS)
    buffer.fill(2)
    twin = buffer.retain()
    assert twin.address == buffer.address
    buffer.free()
    assert twin.numpy().sum() == 24
    twin.free()


# -- transfers --------------------------------------------------------------------------------------------------------


def test_reading_device_memory_as_host_memory_raises(opaque: Device) -> None:
    buffer = Buffer.from_numpy(_random((3, 4))).to(opaque)
    for use in (Buffer.numpy, np.asarray, np.array, lambda b: b.__array_interface__, lambda b: b + 1):
        with pytest.raises((NotHostMemory, TypeError)) as caught:
            use(buffer)
        assert isinstance(caught.value, NotHostMemory) or "unsupported operand" in str(caught.value)
    with pytest.raises(NotHostMemory, match=r"opaque:0.*\n.*to"):
        buffer.numpy()


def test_to_copies_between_devices_and_back(opaque: Device) -> None:
    array = _random((3, 4))
    here = Buffer.from_numpy(array)
    there = here.to(opaque)
    beyond = there.to(Device("opaque:1"))
    assert (there.device, beyond.device) == (opaque, Device("opaque:1"))
    array[...] = 0
    assert np.array_equal(there.to(HOST).numpy(), beyond.to(HOST).numpy())
    assert np.array_equal(there.to(HOST).numpy(), _random((3, 4)))


def test_to_the_same_device_is_the_buffer_itself_and_to_another_host_device_is_a_copy() -> None:
    buffer = Buffer.from_numpy(_random((3, 4)))
    assert buffer.to(HOST) is buffer
    other = buffer.to(Device("reference"))
    assert other.device == Device("reference")
    assert other.address != buffer.address
    assert np.array_equal(other.numpy(), buffer.numpy())


def test_from_numpy_adopts_for_devices_in_host_memory_alone(opaque: Device) -> None:
    array = _random((3, 4))
    assert Buffer.from_numpy(array, device=Device("reference")).address == array.ctypes.data
    with pytest.raises(NotHostMemory, match="opaque:0"):
        Buffer.from_numpy(array, device=opaque)
    assert np.array_equal(Buffer.from_numpy(array, copy=True, device=opaque).to(HOST).numpy(), array)


def test_copy_from_needs_equal_shapes_and_dtypes_and_shows_both() -> None:
    buffer = Buffer.empty(ROWS)
    for other in (TensorType((4, 3), f32), TensorType((3, 4), i32)):
        with pytest.raises(BufferMismatch, match=r"f32\[3, 4\].*" + str(other).replace("[", r"\[")):
            buffer.copy_from(Buffer.empty(other))


def test_copy_from_follows_strides_and_may_overlap() -> None:
    array = np.arange(10, dtype=np.int32)
    buffer = Buffer.from_numpy(array)
    buffer[2:].copy_from(buffer[:-2])
    assert array.tolist() == [0, 1, 0, 1, 2, 3, 4, 5, 6, 7]
    buffer[::2].copy_from(Buffer.from_numpy(np.full(5, -1, np.int32)))
    assert array.tolist() == [-1, 1, -1, 1, -1, 3, -1, 5, -1, 7]


def test_device_memory_that_is_not_contiguous_cannot_cross(opaque: Device) -> None:
    there = Buffer.from_numpy(_random((3, 4))).to(opaque)
    with pytest.raises(LayoutError, match="not contiguous"):
        there.transpose(1, 0).to(HOST)
    with pytest.raises(LayoutError, match="not contiguous"):
        there[:, 1].fill(0)
    with pytest.raises(LayoutError, match="not contiguous"):
        there.copy_from(Buffer.from_numpy(_random((4, 3)).T))
    assert np.array_equal(there[1:].to(HOST).numpy(), _random((3, 4))[1:])


def test_device_memory_copies_and_fills_on_the_device(opaque: Device) -> None:
    there = Buffer.from_numpy(_random((3, 4))).to(opaque)
    calls = there.block.memory.backend.calls  # type: ignore[attr-defined]  # the plug-in's own record
    calls.clear()
    twin = there.copy()
    twin[1].fill(4)
    assert calls == ["copy_within", "fill"]
    expected = _random((3, 4))
    expected[1] = 4
    assert np.array_equal(twin.to(HOST).numpy(), expected)


@pytest.mark.parametrize("place", ["cpu", "opaque"])
@pytest.mark.parametrize("dtype", [f32, bf16, u8, dtypes.bool_, dtypes.c128, dtypes.f8e5m2], ids=str)
def test_fill_sets_every_element(place: str, dtype: dtypes.DType, opaque: Device) -> None:
    buffer = Buffer.empty(TensorType((7, 3), dtype), Device(place))
    buffer.fill(1)
    assert np.array_equal(buffer.to(HOST).numpy(), np.ones((7, 3), dtype.numpy))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (u8, -1), (u8, 256), (dtypes.i64, 1 << 63), (f32, "one"), (f32, 1j), (f32, None), (f32, "1"),
        (f32, np.zeros(2)), (f32, np.complex64(1j)), (f32, 1e39), (f32, 10**400), (dtypes.f16, np.float32(1e6)),
        (dtypes.f8e4m3, np.inf), (u8, np.int64(300)), (dtypes.i8, 1.5), (dtypes.i8, np.float32(1.5)), (dtypes.i4, 9),
        (dtypes.i32, np.nan), (dtypes.bool_, 2), (dtypes.bool_, np.nan),
    ],
)  # fmt: skip
def test_fill_refuses_what_the_dtype_cannot_hold(dtype: dtypes.DType, value: complex) -> None:
    buffer = Buffer.from_numpy(np.ones(2, dtype.numpy))
    with pytest.raises(BufferMismatch, match=f"{dtype} cannot hold"):
        buffer.fill(value)
    assert np.array_equal(buffer.numpy(), np.ones(2, dtype.numpy))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (f32, 2**70), (f32, 0.1), (f32, True), (f32, np.array(3)), (f32, -np.inf), (bf16, f32.numpy.type(1.01)),
        (dtypes.i64, (1 << 63) - 1), (dtypes.i8, 3.0), (dtypes.i4, -8), (dtypes.bool_, 1), (dtypes.c64, 1),
        (u8, bf16.numpy.type(3)),
    ],
)  # fmt: skip
def test_fill_rounds_floats_and_takes_what_is_held_exactly(dtype: dtypes.DType, value: complex) -> None:
    buffer = Buffer.empty(TensorType((2,), dtype))
    buffer.fill(value)
    assert buffer.numpy().tolist() == [np.asarray(value).astype(dtype.numpy)] * 2


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1)])
def test_empty_and_scalar_shapes_work_everywhere(shape: tuple[int, ...], opaque: Device) -> None:
    buffer = Buffer.empty(TensorType(shape, f32))
    buffer.fill(2)
    there = buffer.to(opaque)
    there.fill(3)
    back = there.to(HOST)
    assert back.shape == shape
    assert np.array_equal(back.numpy(), np.full(shape, 3, np.float32))
    assert np.array_equal(np.asarray(buffer), np.full(shape, 2, np.float32))
    assert buffer.is_contiguous


def test_a_buffer_tells_what_it_is() -> None:
    buffer = Buffer.empty(ROWS)
    assert (buffer.shape, buffer.dtype, buffer.nbytes, buffer.device) == ((3, 4), f32, 48, HOST)
    assert "f32[3, 4]" in repr(buffer)
    assert "view" in repr(buffer[0])
    assert buffer.address % 64 == 0


def test_what_is_no_buffer_or_array_is_refused_with_what_to_give() -> None:
    buffer = Buffer.empty(TensorType((3,), f32))
    with pytest.raises(BufferMismatch, match="Buffer.from_numpy"):
        buffer.copy_from(np.zeros(3, np.float32))  # type: ignore[arg-type]
    with pytest.raises(BufferMismatch, match="NumPy array, not a list"):
        Buffer.from_numpy([1, 2, 3])  # type: ignore[arg-type]


@pytest.mark.parametrize("alignment", [0, -64])
def test_an_alignment_that_no_address_has_is_refused(alignment: int) -> None:
    with pytest.raises(LayoutError, match="alignment"):
        Buffer.empty(TensorType((3,), f32), alignment=alignment)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [pickle.dumps, copy.deepcopy])
def test_a_buffer_is_not_pickled_and_leaves_nothing_behind(make: Callable[[Buffer], object]) -> None:
    buffer = Buffer.empty(TensorType((3,), f32))
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        make(buffer)
    gc.collect()
