"""Views: where the elements of a value lie in a virtual buffer."""

from __future__ import annotations

from dataclasses import dataclass

from rlx.codegen.program import VirtualBuffer
from rlx.ir.dtypes import DType


@dataclass(frozen=True, slots=True)
class View:
    """Element `index` lies at offset + sum of stride * index, counted in elements from the buffer's start."""

    buffer: VirtualBuffer
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def is_row_major(self) -> bool:
        """Whether the elements lie one after another, last dimension fastest."""
        return (
            all(s == e for n, s, e in zip(self.shape, self.strides, row_major(self.shape), strict=True) if n != 1)
            or 0 in self.shape
        )

    @property
    def byte_offset(self) -> int:
        return self.offset * self.dtype.itemsize

    @property
    def elements(self) -> int:
        count = 1
        for n in self.shape:
            count *= n
        return count


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a dense array, last dimension fastest."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * max(shape[i + 1], 1)
    return tuple(strides)


def dense(buffer: VirtualBuffer, dtype: DType, shape: tuple[int, ...], offset: int = 0) -> View:
    """A row-major view."""
    return View(buffer, dtype, shape, row_major(shape), offset)
