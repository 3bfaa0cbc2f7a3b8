"""In which precision the interpreter computes, and how a result is rounded back to where it is stored.

Floats narrower than f32 compute in f32 and round once, to nearest even; f32 itself goes through f64, which rounds at
most one part in 2^29 of all results the wrong way; f64 and c128 compute as they are. Integers wrap. i4 and u4 compute
in bytes. Sums, products and contractions of narrow floats accumulate in f32 or wider.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

_F32, _F64, _I64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
_NARROW = {np.dtype(d) for d in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)}
#: Floats that NumPy alone does not round to from f64: ml_dtypes goes through f32, which would round twice.
_FOREIGN = _NARROW - {np.dtype(np.float16)}
_NIBBLES = {np.dtype(ml_dtypes.int4): np.dtype(np.int8), np.dtype(ml_dtypes.uint4): np.dtype(np.uint8)}
_WIDER = {np.dtype(np.float32): _F64, np.dtype(np.complex64): np.dtype(np.complex128)}


def is_narrow(dtype: np.dtype) -> bool:
    """Whether `dtype` is a float narrower than f32."""
    return dtype in _NARROW


def stored(x: np.ndarray) -> np.ndarray:
    """`x` in the dtype that its arithmetic is defined in: f32 for narrow floats, bytes for nibbles, else as it is."""
    if x.dtype in _NARROW:
        return x.astype(_F32)
    return x.astype(_NIBBLES[x.dtype]) if x.dtype in _NIBBLES else x


def widened(x: np.ndarray) -> np.ndarray:
    """`x` for computing a function with less error than its storage has: f64 for floats, c128 for complex."""
    x = stored(x)
    return x.astype(_WIDER[x.dtype]) if x.dtype in _WIDER else x


def rounded(x: np.ndarray | np.generic, dtype: np.dtype) -> np.ndarray:
    """`x` as `dtype`, where x is what `widened` computed with: through f32 for narrow floats, as the rule says."""
    x = np.asarray(x)
    if x.dtype == dtype:
        return x
    if dtype in _NARROW and x.dtype == _F64:
        x = x.astype(_F32)
    return x.astype(dtype)


def rounded_once(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """f64 values as the float `dtype`, rounded once to nearest even, whatever lies between."""
    return (_to_odd_f32(x) if dtype in _FOREIGN else x).astype(dtype)


def _to_odd_f32(x: np.ndarray) -> np.ndarray:
    """f64 to f32, rounding to odd: a later rounding to fewer bits is then the only one that shows."""
    near = x.astype(_F32)
    back = near.astype(_F64)
    inexact = np.isfinite(x) & (back != x)
    # Truncate towards zero, then set the last bit where anything was cut off.
    over = inexact & (np.abs(back) > np.abs(x))
    bits = near.view(np.uint32) - over.astype(np.uint32)
    return np.where(inexact, bits | np.uint32(1), bits).astype(np.uint32).view(_F32)


def to_odd_f64(x: np.ndarray) -> np.ndarray:
    """64-bit integers to f64, rounding to odd (see `_to_odd_f32`)."""
    near = x.astype(_F64)
    # Beyond 2^53 an f64 drops low bits: clear them first, so that the conversion is exact, then mark it odd.
    magnitude = np.where(x < 0, -x.astype(np.uint64), x.astype(np.uint64)) if x.dtype == _I64 else x
    magnitude = magnitude.astype(np.uint64)
    kept = magnitude & ~np.uint64(0x7FF)
    big = magnitude >= np.uint64(1 << 53)
    odd = (kept | np.where(kept != magnitude, np.uint64(0x800), np.uint64(0))).astype(_F64)
    return np.where(big, np.copysign(odd, near), near)


def order_key(x: np.ndarray, *, nan_high: bool = True) -> np.ndarray:
    """Integers that order as `x` does under IEEE 754 maximum: -0 below +0; every NaN above all, or below all.

    x: bool, integers or floats. The keys of integers and bools are the numbers themselves.
    """
    x = np.asarray(x)
    if x.dtype in _NIBBLES:
        return x.astype(_NIBBLES[x.dtype])
    if x.dtype.kind in "iub":
        return x
    signed = np.dtype(f"i{x.dtype.itemsize}")
    limits = np.iinfo(signed)
    bits = x.view(signed)
    key = np.where(bits < 0, bits ^ limits.max, bits)
    return np.where(np.isnan(x), limits.max if nan_high else limits.min, key).astype(signed)


def from_order_key(key: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values whose `order_key` is `key`."""
    if dtype in _NIBBLES or dtype.kind in "iub":
        return key.astype(dtype)
    bits = np.where(key < 0, key ^ np.iinfo(key.dtype).max, key).astype(key.dtype)
    return bits.view(dtype)


def lowest(dtype: np.dtype) -> np.generic:
    """The identity of max: -inf, or the lowest number where there is no infinity; False."""
    if dtype.kind == "b":
        return np.False_
    if dtype in _NIBBLES or dtype.kind in "iu":
        return dtype.type(ml_dtypes.iinfo(dtype).min)
    return dtype.type(ml_dtypes.finfo(dtype).min if dtype == np.dtype(ml_dtypes.float8_e4m3fn) else -np.inf)


def highest(dtype: np.dtype) -> np.generic:
    """The identity of min: +inf, or the highest number where there is no infinity; True."""
    if dtype.kind == "b":
        return np.True_
    if dtype in _NIBBLES or dtype.kind in "iu":
        return dtype.type(ml_dtypes.iinfo(dtype).max)
    return dtype.type(ml_dtypes.finfo(dtype).max if dtype == np.dtype(ml_dtypes.float8_e4m3fn) else np.inf)


def accumulator(dtype: np.dtype) -> np.dtype:
    """In what a sum or product of `dtype` accumulates here: f64 for f32 and narrower, wrapping bytes for nibbles."""
    if dtype in _NARROW or dtype == _F32:
        return _F64
    return _NIBBLES.get(dtype, _WIDER.get(dtype, dtype))
