"""Numbers one at a time, exactly: Python's integers and fractions, and how each dtype rounds, wraps and orders them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from rlx.ir.dtypes import DType, bool_, by_name, from_numpy

Attrs = Mapping[str, Any]
Arrays = Sequence[np.ndarray]


def dtype_of(x: np.ndarray) -> DType:
    return from_numpy(x.dtype)


def scalars(x: np.ndarray) -> list[Any]:
    """The elements as Python numbers, exactly."""
    dtype = dtype_of(x)
    flat = x.reshape(-1)
    if dtype is bool_:
        return [bool(v) for v in flat]
    if dtype.is_integer:
        return [int(v) for v in flat]
    return [complex(v) if dtype.is_complex else float(v) for v in flat]


def wrap(value: int, dtype: DType) -> int:
    if dtype is bool_:
        return bool(value)
    value &= (1 << dtype.bits) - 1
    return value - (1 << dtype.bits) if dtype.kind == "int" and value >> (dtype.bits - 1) else value


def from_scalars(values: Sequence[Any], shape: Sequence[int], dtype: DType) -> np.ndarray:
    """Values that `dtype` holds exactly, as an array."""
    if dtype.is_integer and dtype.bits == 4:
        return np.array(values, np.int8).astype(dtype.numpy).reshape(shape)
    if dtype.is_float and dtype.bits < 32:
        return np.array(values, np.float32).astype(dtype.numpy).reshape(shape)
    return np.array(values, dtype.numpy).reshape(shape)


#: precision in bits, least normal exponent, largest finite value, what lies above it.
FORMATS = {
    "f16": (11, -14, Fraction(65504), math.inf),
    "bf16": (8, -126, Fraction((2**8 - 1) * 2**120), math.inf),
    "f32": (24, -126, Fraction((2**24 - 1) * 2**104), math.inf),
    "f64": (53, -1022, Fraction((2**53 - 1) * 2**971), math.inf),
    "f8e4m3": (4, -6, Fraction(448), math.nan),
    "f8e5m2": (3, -14, Fraction(57344), math.inf),
}


def round_to(value: float | int, dtype: DType) -> float:
    """`value` rounded once to the nearest float of `dtype`, ties to even, by exact fractions."""
    precision, least, largest, above = FORMATS[dtype.name]
    if isinstance(value, float) and (math.isnan(value) or math.isinf(value)):
        return math.nan if math.isnan(value) or math.isnan(above) else value
    if value == 0:
        return float(value)
    exact = Fraction(value)
    exponent = max(exact.numerator.bit_length() - exact.denominator.bit_length(), -5000)
    while abs(exact) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(exact) < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** (max(exponent, least) - precision + 1)
    rounded = round(exact / quantum) * quantum
    if abs(rounded) > largest:
        return math.copysign(above, value)
    return math.copysign(float(rounded), value)


def limit(dtype: DType, sign: int) -> int:
    if dtype.kind == "uint":
        return (1 << dtype.bits) - 1 if sign > 0 else 0
    return (1 << (dtype.bits - 1)) - 1 if sign > 0 else -(1 << (dtype.bits - 1))


def ieee_max(x: float, y: float) -> float:
    if math.isnan(x) or math.isnan(y):
        return math.nan
    return max((x, math.copysign(1, x)), (y, math.copysign(1, y)))[0]


def ieee_min(x: float, y: float) -> float:
    return -ieee_max(-x, -y)


def extreme(op: str, dtype: DType) -> Callable[[Any, Any], Any]:
    if dtype.is_float:
        return ieee_max if "max" in op else ieee_min
    return max if "max" in op else min


def combine(op: str, values: list[Any], dtype: DType) -> Any:
    """One result of a reduction named in `op`, of the dtype's own kind, rounded or wrapped."""
    if "max" in op or "min" in op:
        if values:
            return functools.reduce(extreme(op, dtype), values)
        sign = -1 if "max" in op else 1
        if dtype is bool_:
            return sign > 0
        if dtype.is_integer:
            return limit(dtype, sign)
        return math.copysign(448.0 if dtype.name == "f8e4m3" else math.inf, sign)
    if "and" in op:
        return wrap(functools.reduce(lambda a, b: a & b, values, -1), dtype)
    if "or" in op:
        return wrap(functools.reduce(lambda a, b: a | b, values, 0), dtype)
    if dtype.is_complex:
        return sum(values) if "sum" in op else math.prod(values, start=complex(1))
    if dtype.is_float:
        return round_to(math.fsum(values) if "sum" in op else math.prod(values), dtype)
    return wrap(sum(values) if "sum" in op else math.prod(values), dtype)


def assemble(shape: Sequence[int], dtype: DType, element: Callable[[tuple[int, ...]], Any]) -> np.ndarray:
    return from_scalars([element(i) for i in np.ndindex(*shape)], shape, dtype)


def convert_one(value: Any, source: DType, to: DType) -> Any:
    if to is bool_:
        return value != 0
    if to.is_complex:
        part = by_name({"c64": "f32", "c128": "f64"}[to.name])
        whole = complex(value)
        return (
            complex(round_to(whole.real, part), round_to(whole.imag, part))
            if source.is_complex
            else complex(round_to(value, part), 0.0)
        )
    if source.is_complex:
        return convert_one(value.real, by_name("f64"), to)
    if to.is_float:
        return round_to(value if source.is_float else int(value), to)
    if source.is_float:
        if math.isnan(value):
            return 0
        low = -(1 << (to.bits - 1)) if to.kind == "int" else 0
        high = low + (1 << to.bits) - 1
        return high if value > high else low if value < low else int(value)
    return wrap(int(value), to)
