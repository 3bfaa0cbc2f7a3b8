"""Element types, with exact storage.

A `DType` names a kind, a width and the NumPy dtype that stores it; `ml_dtypes` supplies what NumPy lacks. i4 and u4
take one byte an element in memory. No value is ever carried in a type that cannot hold it: an i64 is never a float.
All instances are module constants, compared by identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np

from rlx.errors import IRError, nearest

Kind = Literal["bool", "int", "uint", "float", "complex"]


@dataclass(frozen=True, eq=False)
class DType:
    """One element type: `name` as printed, `bits` of information, `numpy` as stored."""

    name: str
    kind: Kind
    bits: int
    numpy: np.dtype

    @property
    def itemsize(self) -> int:
        """Bytes one element takes in memory."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """Signed or unsigned, without bool."""
        return self.kind in ("int", "uint")

    @property
    def is_complex(self) -> bool:
        return self.kind == "complex"

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, ...]:
        return (by_name, (self.name,))


bool_ = DType("bool", "bool", 1, np.dtype(np.bool_))
i4 = DType("i4", "int", 4, np.dtype(ml_dtypes.int4))
u4 = DType("u4", "uint", 4, np.dtype(ml_dtypes.uint4))
i8 = DType("i8", "int", 8, np.dtype(np.int8))
i16 = DType("i16", "int", 16, np.dtype(np.int16))
i32 = DType("i32", "int", 32, np.dtype(np.int32))
i64 = DType("i64", "int", 64, np.dtype(np.int64))
u8 = DType("u8", "uint", 8, np.dtype(np.uint8))
u16 = DType("u16", "uint", 16, np.dtype(np.uint16))
u32 = DType("u32", "uint", 32, np.dtype(np.uint32))
u64 = DType("u64", "uint", 64, np.dtype(np.uint64))
f8e4m3 = DType("f8e4m3", "float", 8, np.dtype(ml_dtypes.float8_e4m3fn))
f8e5m2 = DType("f8e5m2", "float", 8, np.dtype(ml_dtypes.float8_e5m2))
f16 = DType("f16", "float", 16, np.dtype(np.float16))
bf16 = DType("bf16", "float", 16, np.dtype(ml_dtypes.bfloat16))
f32 = DType("f32", "float", 32, np.dtype(np.float32))
f64 = DType("f64", "float", 64, np.dtype(np.float64))
c64 = DType("c64", "complex", 64, np.dtype(np.complex64))
c128 = DType("c128", "complex", 128, np.dtype(np.complex128))

ALL: tuple[DType, ...] = (
    bool_, i4, u4, i8, i16, i32, i64, u8, u16, u32, u64, f8e4m3, f8e5m2, f16, bf16, f32, f64, c64, c128,
)  # fmt: skip
_BY_NAME = {d.name: d for d in ALL}
_BY_NUMPY = {d.numpy: d for d in ALL}


def by_name(name: str) -> DType:
    """The dtype printed as `name`. Raises IRError for an unknown one, naming the nearest."""
    try:
        return _BY_NAME[name]
    except KeyError:
        close = nearest(name, _BY_NAME)
        raise IRError(
            f"unknown dtype {name!r}", hint=f"did you mean {close!r}?" if close else f"known: {', '.join(_BY_NAME)}"
        ) from None


def from_numpy(dtype: object) -> DType:
    """The dtype stored as NumPy `dtype`. Raises IRError where RLX has none (object, datetime, big-endian, ...)."""
    found = _BY_NUMPY.get(np.dtype(dtype))  # type: ignore[arg-type]  # np.dtype checks it
    if found is None:
        raise IRError(f"NumPy dtype {np.dtype(dtype)!r} has no RLX dtype", hint=f"known: {', '.join(_BY_NAME)}")  # type: ignore[arg-type]
    return found
