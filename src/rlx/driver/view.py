"""Views as arithmetic: other shapes, strides and dtypes over the same addresses. What `Buffer`'s view methods do.

NumPy computes on arrays over addresses (`rlx.driver.layout`); no byte is read, so device memory is viewed alike.
Each function raises LayoutError where the result would need a copy or does not exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlx.driver.layout import Index, array_at
from rlx.errors import LayoutError
from rlx.ir.dtypes import DType

if TYPE_CHECKING:
    from rlx.driver.buffer import Buffer


def indexed(buffer: Buffer, index: Index | tuple[Index, ...]) -> np.ndarray:
    """By integers, slices, `...` and None, as NumPy's basic indexing."""
    parts = index if isinstance(index, tuple) else (index,)
    if not all(p is None or p is Ellipsis or isinstance(p, slice | int | np.integer) for p in parts) or any(
        isinstance(p, bool) for p in parts
    ):
        raise LayoutError(f"{buffer.type} cannot be viewed with {index!r}", hint="only ints and slices make views")
    try:
        # the trailing Ellipsis makes NumPy give a view even of a single element
        return _addresses(buffer)[parts if Ellipsis in parts else (*parts, Ellipsis)]
    except IndexError as error:
        raise LayoutError(f"{buffer.type} cannot be viewed with {index!r}: {error}") from None


def reshaped(buffer: Buffer, shape: tuple[int, ...]) -> np.ndarray:
    """Of another shape; one size may be -1."""
    try:
        return np.reshape(_addresses(buffer), shape, copy=False)
    except ValueError as error:
        raise LayoutError(f"{buffer.type} has no view of shape {shape}: {error}", hint="copy() it first") from None


def transposed(buffer: Buffer, permutation: tuple[int, ...]) -> np.ndarray:
    """With axes permuted."""
    try:
        return _addresses(buffer).transpose(permutation)
    except ValueError as error:
        raise LayoutError(f"{buffer.type} cannot be transposed by {permutation}: {error}") from None


def reinterpreted(buffer: Buffer, dtype: DType) -> np.ndarray:
    """As another dtype; where widths differ, the last axis takes the change."""
    try:
        return _addresses(buffer).view(dtype.numpy)
    except (ValueError, TypeError) as error:
        raise LayoutError(f"{buffer.type} cannot be read as {dtype}: {error}") from None


def _addresses(buffer: Buffer) -> np.ndarray:
    return array_at(buffer.address, buffer.shape, buffer.strides, buffer.dtype.numpy)
