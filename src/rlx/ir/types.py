"""Tensor types: a shape and a dtype. A dimension is an int or a symbolic `Dim`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlx.errors import IRError
from rlx.ir.dim import Dim
from rlx.ir.dtypes import DType, from_numpy

Size = int | Dim
Shape = tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and dtype of a value. Printed as `f32[2, 3]`, `i64[]`, `f32[batch, 384]`.

    Raises IRError for a negative dimension, and for more bytes than a signed number of 64 bits counts.
    """

    shape: Shape
    dtype: DType

    def __post_init__(self) -> None:
        nbytes = self.dtype.itemsize
        for d in self.shape:
            if isinstance(d, int):
                if d < 0:
                    raise IRError(f"dimension {d} of shape {self.shape} is negative")
                nbytes *= d or 1
        if nbytes >= 1 << 63:
            raise IRError(f"{self} takes more bytes than 64 bits count")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape as plain ints. Raises IRError where a dimension is symbolic."""
        if not self.is_static:
            raise IRError(f"{self} has symbolic dimensions where sizes must be known")
        return self.shape  # type: ignore[return-value]  # is_static has just said so

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join(str(d) for d in self.shape)}]"


def type_of(array: np.ndarray) -> TensorType:
    """The type of a NumPy array. Raises IRError for a dtype that RLX does not have."""
    return TensorType(tuple(int(d) for d in array.shape), from_numpy(array.dtype))
