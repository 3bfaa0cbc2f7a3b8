"""Where CPython and NumPy keep what native code reads of lists and arrays.

NumPy publishes the fields of its array objects as part of its C ABI; a list's are CPython's own. `LAYOUT_HOLDS` says
whether this interpreter has both so; where it has not, native code must not be given objects.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np


class ArrayObject(ctypes.Structure):
    """A NumPy array; `type`, `sizes`, `strides`, `base` and `dtype` are addresses."""

    _fields_ = (
        ("references", ctypes.c_ssize_t),
        ("type", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int),
        ("sizes", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("base", ctypes.c_void_p),
        ("dtype", ctypes.c_void_p),
        ("flags", ctypes.c_int),
    )


class ListObject(ctypes.Structure):
    """A list; `items` is the address of the addresses of its items."""

    _fields_ = (
        ("references", ctypes.c_ssize_t),
        ("type", ctypes.c_void_p),
        ("size", ctypes.c_ssize_t),
        ("items", ctypes.c_void_p),
    )


def _layout_holds() -> bool:
    """Whether an `id` is an address, and every field is where it should be."""
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    base = np.arange(12, dtype=np.int16).reshape(3, 4)
    arrays = [base, base[1:, 2:], base[::-1]]
    items = ListObject.from_address(id(arrays)).items or 0
    return list((ctypes.c_void_p * 3).from_address(items)) == list(map(id, arrays)) and all(map(_is_laid_out, arrays))


def _is_laid_out(array: np.ndarray) -> bool:
    seen = ArrayObject.from_address(id(array))
    sizes = (ctypes.c_int64 * array.ndim).from_address(seen.sizes or 0)
    found = seen.type, seen.data, seen.rank, tuple(sizes), seen.dtype, seen.flags
    expected = id(np.ndarray), array.ctypes.data, array.ndim, array.shape, id(array.dtype), array.flags.num
    return found == expected


#: Whether this interpreter lays arrays and lists out so.
LAYOUT_HOLDS = _layout_holds()


def _array_address(array: np.ndarray) -> int:
    return ArrayObject.from_address(id(array)).data or 0


#: The address of an array's first element; `array.ctypes.data` takes ten times as long.
array_address = _array_address if LAYOUT_HOLDS else lambda array: array.__array_interface__["data"][0]
