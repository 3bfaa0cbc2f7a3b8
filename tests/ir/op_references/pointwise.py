"""Pointwise ops: floats by PyTorch, integers by Python, everything else one number at a time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from op_references.numbers import (
    Arrays,
    Attrs,
    convert_one,
    dtype_of,
    extreme,
    from_scalars,
    ieee_max,
    ieee_min,
    round_to,
    scalars,
    wrap,
)
from rlx.ir.dtypes import DType, bool_, by_name

TORCH = {
    "bool": torch.bool,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "c64": torch.complex64,
    "c128": torch.complex128,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
}


def tensor(x: np.ndarray) -> torch.Tensor:
    name = dtype_of(x).name
    x = np.array(x, order="C")
    if name in ("bf16", "f8e4m3", "f8e5m2"):
        return torch.from_numpy(x.view(f"i{x.itemsize}")).view(TORCH[name])
    return torch.from_numpy(x)


def array(t: torch.Tensor, dtype: DType) -> np.ndarray:
    assert t.dtype == TORCH[dtype.name], (t.dtype, dtype)
    if dtype.name in ("bf16", "f8e4m3", "f8e5m2"):
        return t.contiguous().view({1: torch.int8, 2: torch.int16}[dtype.itemsize]).numpy().view(dtype.numpy)
    return t.resolve_conj().contiguous().numpy()


def integers(function: Callable[..., int]) -> Callable[[Arrays], np.ndarray]:
    """Elementwise by Python's own integers, then wrapped."""

    def run(arrays: Arrays) -> np.ndarray:
        dtype = dtype_of(arrays[0])
        values = [wrap(function(*v, dtype), dtype) for v in zip(*map(scalars, arrays), strict=True)]
        return from_scalars(values, arrays[0].shape, dtype)

    return run


def floats(function: Callable[..., torch.Tensor], exact: bool) -> Callable[[Arrays], np.ndarray]:
    """Elementwise by PyTorch: in f32 for what is exact or rounded once there, else in f64; then rounded."""

    def run(arrays: Arrays) -> np.ndarray:
        dtype = dtype_of(arrays[0])
        narrow = dtype.is_float and dtype.bits < 32
        inputs = [tensor(x) for x in arrays]
        if exact:
            out = function(*(t.float() if narrow else t for t in inputs))
        else:
            out = function(*(t.to(torch.complex128 if dtype.is_complex else torch.float64) for t in inputs))
        if out.dtype == torch.bool:
            return out.numpy()
        real = dtype.is_complex and not out.is_complex()
        to = {"c64": by_name("f32"), "c128": by_name("f64")}[dtype.name] if real else dtype
        # Narrow floats go through f32, as the rule says; PyTorch's own step to 8 bits saturates.
        if to.bits == 8:
            return from_scalars([round_to(v, to) for v in out.float().reshape(-1).tolist()], arrays[0].shape, to)
        return array((out.float() if narrow else out).to(TORCH[to.name]), to)

    return run


def one_by_one(function: Callable[..., float], *operands: torch.Tensor) -> torch.Tensor:
    """Elementwise by Python's floats, which are f64."""
    values = [function(*v) for v in zip(*(t.reshape(-1).tolist() for t in operands), strict=True)]
    return torch.tensor(values, dtype=torch.float64).to(operands[0].dtype).reshape(operands[0].shape)


def c_fmod(x: float, y: float) -> float:
    return math.nan if math.isinf(x) or y == 0 else math.fmod(x, y)


def c_sqrt(x: float) -> float:
    return math.nan if x < 0 else math.sqrt(x)


def truncated(x: int, y: int) -> int:
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def int_pow(x: int, y: int, dtype: DType) -> int:
    if y >= 0:
        return pow(x, y, 1 << dtype.bits)
    return truncated(1, x ** min(-y, 2 + y % 2)) if x else 0


def bits(x: int, dtype: DType) -> int:
    return x & ((1 << dtype.bits) - 1)


def shift(x: int, y: int, dtype: DType, kind: str) -> int:
    amount = bits(y, dtype)
    if kind == "arithmetic":
        return x >> min(amount, dtype.bits)
    return 0 if amount >= dtype.bits else x << amount if kind == "left" else bits(x, dtype) >> amount


INTEGER_OPS: dict[str, Callable[..., int]] = {
    "neg": lambda x, d: -x,
    "abs": lambda x, d: abs(x),
    "sign": lambda x, d: (x > 0) - (x < 0),
    "not": lambda x, d: not x if d is bool_ else ~x,
    "popcnt": lambda x, d: bits(x, d).bit_count(),
    "clz": lambda x, d: d.bits - bits(x, d).bit_length(),
    "add": lambda x, y, d: x + y,
    "sub": lambda x, y, d: x - y,
    "mul": lambda x, y, d: x * y,
    "div": lambda x, y, d: truncated(x, y) if y else -1,
    "rem": lambda x, y, d: x - truncated(x, y) * y if y else x,
    "pow": int_pow,
    "max": lambda x, y, d: max(x, y),
    "min": lambda x, y, d: min(x, y),
    "and": lambda x, y, d: x & y,
    "or": lambda x, y, d: x | y,
    "xor": lambda x, y, d: x ^ y,
    "shift_left": lambda x, y, d: shift(x, y, d, "left"),
    "shift_right_logical": lambda x, y, d: shift(x, y, d, "logical"),
    "shift_right_arithmetic": lambda x, y, d: shift(x, y, d, "arithmetic"),
    "clamp": lambda low, x, high, d: min(max(x, low), high),
}
EXACT_FLOATS: dict[str, Callable[..., torch.Tensor]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": lambda x: torch.sgn(x) if x.is_complex() else torch.where((x == 0) | x.isnan(), x, torch.sign(x)),
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "is_finite": torch.isfinite,
    "conj": torch.conj,
    "real": torch.real,
    "imag": torch.imag,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    # PyTorch's fmod loses denormal divisors.
    "rem": lambda x, y: one_by_one(c_fmod, x, y),
    "clamp": lambda low, x, high: torch.minimum(torch.maximum(x, low), high),
}
WIDE_FLOATS: dict[str, Callable[..., torch.Tensor]] = {
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    # PyTorch's f32 square root is not correctly rounded everywhere.
    "sqrt": lambda x: torch.sqrt(x) if x.is_complex() else one_by_one(c_sqrt, x),
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "logistic": torch.sigmoid,
    "erf": torch.erf,
    "pow": torch.pow,
    "atan2": torch.atan2,
    "cbrt": lambda x: one_by_one(math.cbrt, x),
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}


@functools.cache
def all_floats(name: str) -> list[float]:
    """Every number of a float of 16 bits or fewer, in order, with one zero."""
    dtype = by_name(name)
    every = np.arange(1 << dtype.bits, dtype=f"u{dtype.itemsize}").view(dtype.numpy).astype(np.float64)
    return sorted({float(v) for v in every if not math.isnan(v)})


def next_after(x: float, y: float, dtype: DType) -> float:
    if math.isnan(x) or math.isnan(y):
        return math.nan
    if x == y:
        return y
    if dtype.name == "f64":
        return math.nextafter(x, y)
    if dtype.name == "f32":
        return torch.nextafter(torch.tensor(x), torch.tensor(y)).item()
    numbers = all_floats(dtype.name)
    at = numbers.index(x) + (1 if y > x else -1)
    # A step onto zero keeps the sign that it came from.
    return math.copysign(numbers[at], x if numbers[at] == 0 else numbers[at])


def pointwise(op: str, arrays: Arrays, attrs: Attrs) -> np.ndarray | None:
    dtype, shape = dtype_of(arrays[-1]), arrays[0].shape
    if op in COMPARISONS:
        values = [COMPARISONS[op](x, y) for x, y in zip(*map(scalars, arrays), strict=True)]
        return from_scalars(values, shape, bool_)
    if op == "select":
        chosen = [a if p else b for p, a, b in zip(*(x.reshape(-1) for x in arrays), strict=True)]
        return np.array(chosen, dtype.numpy).reshape(shape)
    if op == "complex":
        pairs = np.stack([x.reshape(-1) for x in arrays], -1)
        return np.ascontiguousarray(pairs).view(f"c{2 * arrays[0].itemsize}").reshape(shape)
    if op == "nextafter":
        return from_scalars([next_after(*v, dtype) for v in zip(*map(scalars, arrays), strict=True)], shape, dtype)
    if op in ("max", "min") and dtype.is_float:
        pick = extreme(op, dtype)
        return from_scalars([pick(*v) for v in zip(*map(scalars, arrays), strict=True)], shape, dtype)
    if op == "clamp" and dtype.is_float:
        found = [ieee_min(ieee_max(x, low), high) for low, x, high in zip(*map(scalars, arrays), strict=True)]
        return from_scalars(found, shape, dtype)
    if not (dtype.is_float or dtype.is_complex):
        return integers(INTEGER_OPS[op])(arrays) if op in INTEGER_OPS else None
    if op in EXACT_FLOATS:
        return floats(EXACT_FLOATS[op], exact=True)(arrays)
    return floats(WIDE_FLOATS[op], exact=False)(arrays) if op in WIDE_FLOATS else None


def convert(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    values = [convert_one(v, dtype_of(x), attrs["dtype"]) for v in scalars(x)]
    return from_scalars(values, x.shape, attrs["dtype"])


def bitcast(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    if attrs["dtype"].bits == 4:
        return from_scalars([wrap(v, attrs["dtype"]) for v in scalars(x)], x.shape, attrs["dtype"])
    return np.frombuffer(x.tobytes(), attrs["dtype"].numpy).reshape(x.shape)
