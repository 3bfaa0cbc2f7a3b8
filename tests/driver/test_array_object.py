"""Array and list objects are where native code looks for their fields."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import pytest

from rlx.driver import array_object
from rlx.driver.array_object import ArrayObject, array_address

ARRAYS = [
    np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, 1:, ::2],
    np.asfortranarray(np.ones((3, 5), np.float64)),
    np.array(7, np.int8),
    np.empty((0, 3), np.float32),
    np.arange(9, dtype=np.uint8)[1:].view(np.float32),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{list(array.shape)}")
def test_the_fields_of_an_array_say_what_numpy_says(array: np.ndarray) -> None:
    seen = ArrayObject.from_address(id(array))
    assert seen.data == array_address(array) == array.ctypes.data
    assert (seen.type, seen.dtype, seen.rank, seen.flags) == (
        id(np.ndarray),
        id(array.dtype),
        array.ndim,
        array.flags.num,
    )
    for field, expected in ((seen.sizes, array.shape), (seen.strides, array.strides)):
        assert tuple((ctypes.c_int64 * array.ndim).from_address(field)) == expected if array.ndim else True


@pytest.mark.skipif(sys.implementation.name != "cpython" or sys.maxsize < 2**32, reason="the layout of 64-bit CPython")
def test_this_interpreter_is_seen_to_lay_objects_out_so() -> None:
    assert array_object.LAYOUT_HOLDS


def test_another_layout_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shifted(ctypes.Structure):
        _fields_ = (("more", ctypes.c_int64), *ArrayObject._fields_)

    monkeypatch.setattr(array_object, "ArrayObject", Shifted)
    assert not array_object._layout_holds()
