"""Shapes over bytes: NumPy's own stride arithmetic, on addresses that may not be the host's.

A layout is an address, a shape, strides in bytes and a dtype. `array_at` makes it a NumPy array; slicing, transposing,
reshaping and reinterpreting such an array only computes, it reads no byte, so an address in a device's memory works as
well as one of the host's. `layout_of` takes the result apart again. Only host addresses may ever be read.
"""

from __future__ import annotations

import math
from types import EllipsisType
from typing import Any

import numpy as np

Strides = tuple[int, ...]
#: What an axis may be indexed with: views only, never a copy.
Index = int | slice | EllipsisType | None


class _Span:
    """What NumPy reads to make an array: `__array_interface__`. The array keeps it, and with it `keep`."""

    __slots__ = ("__array_interface__", "keep")

    def __init__(self, interface: dict[str, Any], keep: object) -> None:
        self.__array_interface__ = interface
        self.keep = keep


def array_at(
    address: int,
    shape: tuple[int, ...],
    strides: Strides,
    dtype: np.dtype,
    *,
    readonly: bool = False,
    keep: object = None,
) -> np.ndarray:
    """An array over bytes at `address`, which keeps `keep` alive."""
    interface = {
        "version": 3, "data": (address, readonly), "shape": shape, "strides": strides, "typestr": type_string(dtype),
    }  # fmt: skip
    array = np.asarray(_Span(interface, keep))
    return array if dtype.isbuiltin == 1 else array.view(dtype)


def type_string(dtype: np.dtype) -> str:
    """How the array protocol names a dtype; those of ml_dtypes, unknown to it, are raw bytes of their width."""
    return dtype.str if dtype.isbuiltin == 1 else f"|V{dtype.itemsize}"


def layout_of(array: np.ndarray) -> tuple[int, tuple[int, ...], Strides, np.dtype]:
    """(address, shape, strides, dtype)."""
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype


def dense_strides(shape: tuple[int, ...], itemsize: int) -> Strides:
    """Row-major strides in bytes."""
    strides: list[int] = []
    step = itemsize
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_dense(shape: tuple[int, ...], strides: Strides, itemsize: int) -> bool:
    """True where elements lie row-major without gaps; axes of size 1 and empty shapes place no demand."""
    if 0 in shape:
        return True
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def byte_range(shape: tuple[int, ...], strides: Strides, itemsize: int) -> tuple[int, int]:
    """Lowest and one past the highest byte touched, relative to the first element; (0, 0) for an empty shape."""
    if math.prod(shape) == 0:
        return 0, 0
    reach = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    return sum(r for r in reach if r < 0), sum(r for r in reach if r > 0) + itemsize
