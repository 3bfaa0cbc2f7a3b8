"""Handles: state that outlives runs."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.driver import HOST, BufferHandle, Device
from rlx.errors import BufferFreed, BufferMismatch, NotOwner
from rlx.ir.dtypes import f32
from rlx.ir.types import TensorType

STATE = TensorType((2, 3), f32)


@pytest.mark.parametrize("place", ["cpu", "opaque"])
def test_state_is_read_written_and_reset_at_one_address(place: str, opaque: Device) -> None:
    with BufferHandle("h", STATE, Device(place)) as handle:
        address = handle.address
        assert not handle.read().any()
        content = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
        handle.write(content.T.copy().T)  # any strides
        assert np.array_equal(handle.read(), content)
        handle.reset()
        assert not handle.read().any()
        assert handle.address == address
        assert handle.device == Device(place)


def test_the_version_grows_with_each_change() -> None:
    handle = BufferHandle("h", STATE)
    seen = [handle.version]
    for change in (lambda: handle.write(np.ones((2, 3), np.float32)), handle.reset, handle.mark_updated):
        change()
        seen.append(handle.version)
    assert seen == [0, 1, 2, 3]
    handle.read()
    assert handle.version == 3


def test_reset_goes_back_to_the_initial_content_whatever_became_of_the_array() -> None:
    initial = np.full((2, 3), 5, np.float32)
    handle = BufferHandle("h", STATE, initial=initial)
    initial[...] = 0
    handle.buffer.fill(1)
    handle.reset()
    assert (handle.read() == 5).all()


def test_what_is_read_is_a_copy_and_the_buffer_is_the_state_itself() -> None:
    handle = BufferHandle("h", STATE)
    copy = handle.read()
    handle.buffer.fill(2)
    assert not copy.any()
    assert (handle.read() == 2).all()
    assert handle.buffer.address == handle.address
    with pytest.raises(NotOwner):
        handle.buffer.free()


def test_another_shape_or_dtype_is_refused_with_both_sides() -> None:
    handle = BufferHandle("h", STATE)
    for array in (np.zeros((3, 2), np.float32), np.zeros((2, 3))):
        with pytest.raises(BufferMismatch, match=r"'h' is f32\[2, 3\], not"):
            handle.write(array)
    with pytest.raises(BufferMismatch):
        BufferHandle("h", STATE, initial=np.zeros(6, np.float32))


def test_closing_ends_the_state_and_its_views() -> None:
    handle = BufferHandle("h", STATE, HOST)
    view = handle.buffer
    handle.close()
    handle.close()
    for use in (handle.read, handle.reset, lambda: handle.address, lambda: view.address):
        with pytest.raises(BufferFreed, match="the state 'h'"):
            use()
