"""Pointwise ops of two operands: arithmetic, extrema, bits, shifts, angles, neighbours, complex numbers from parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import from_numpy
from rlx.ir.op import Attrs, RunRegion, Sample
from rlx.ir.ops import precision, sampling
from rlx.ir.ops.pointwise import direct, record, through_wider
from rlx.ir.ops.pointwise_unary import unsigned
from rlx.ir.ops.signature import BOOL, COMPLEX_OF, FLOATS, INTEGERS, NUMERIC, ORDERED


def _div(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind not in "iu":
        return np.divide(x, y)
    return np.where(y == 0, np.invert(np.zeros_like(x)), _truncated(x, np.where(y == 0, 1, y).astype(x.dtype)))


def _truncated(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Integer quotients rounded towards zero; y has no zeros."""
    floored = np.floor_divide(x, y)
    inexact = floored * y != x
    return (floored + (inexact & ((x < 0) != (y < 0)))).astype(x.dtype)


def _rem(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind not in "iu":
        return np.fmod(x, y)
    divisor = np.where(y == 0, 1, y).astype(x.dtype)
    return np.where(y == 0, x, x - _truncated(x, divisor) * divisor)


def _pow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind != "i":
        return np.power(x, y)
    negative = y < 0
    whole = np.power(x, np.where(negative, 0, y).astype(x.dtype))
    # 1 / x^|y|, truncated: only 1 and -1 leave anything.
    inverse = np.where(x == 1, 1, np.where(x == -1, np.where(y & 1, -1, 1), 0))
    return np.where(negative, inverse, whole).astype(x.dtype)


def _max(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    chosen = np.maximum(x, y)
    zeros = _zeros(x, y)
    # Of two zeros the positive one, as IEEE 754 says: -0 + -0 is the only sum of zeros that is -0.
    return np.where(zeros, x + y, chosen) if zeros.any() else chosen


def _min(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    chosen = np.minimum(x, y)
    zeros = _zeros(x, y)
    return np.where(zeros, -(-x - y), chosen) if zeros.any() else chosen


def _zeros(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where floats x and y are both zero."""
    return (x == 0) & (y == 0) if x.dtype.kind == "f" else np.zeros((), np.bool_)


def _nextafter(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    """Steps in the storage dtype itself: keys of neighbours differ by one."""
    x, y = arrays
    key, goal = precision.order_key(x), precision.order_key(y)
    # Both zeros are one number: step away from the one that lies on the goal's side.
    key = np.where(x == 0, np.where(goal < 0, -1, 0), key).astype(key.dtype)
    step = (goal > key).astype(key.dtype) - (goal < key).astype(key.dtype)
    moved = precision.from_order_key((key + step).astype(key.dtype), x.dtype)
    return (np.where(np.isnan(x) | np.isnan(y), np.array(np.nan, x.dtype), np.where(x == y, y, moved)).astype(x.dtype),)


def _shift(arrays: Sequence[np.ndarray], left: bool, arithmetic: bool) -> tuple[np.ndarray, ...]:
    x, amount = arrays
    bits = from_numpy(x.dtype).bits
    by = unsigned(amount)
    out = by >= bits
    by = np.where(out, 0, by).astype(by.dtype)
    if arithmetic:
        wide = precision.stored(x)
        fill = np.where(wide < 0, -1, 0) if wide.dtype.kind == "i" else np.zeros_like(wide)
        shifted = np.where(out, fill, wide >> by.astype(wide.dtype))
    else:
        shifted = np.where(out, 0, unsigned(x) << by if left else unsigned(x) >> by)
    return (_wrap(shifted, x.dtype),)


def _wrap(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(dtype)


def _shift_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in INTEGERS:
        values, amounts = sampling.edges(dtype), np.array([-1, 0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 100])
        limit = dtype.bits if dtype.bits > 4 else 3
        amounts = amounts[(amounts <= max(limit, 7)) & (amounts >= (0 if dtype.kind == "uint" else -1))]
        x, y = np.meshgrid(np.arange(len(values)), amounts, indexing="ij")
        yield Sample((values[x.reshape(-1)], y.reshape(-1).astype(dtype.numpy)))
        yield Sample(
            (sampling.whole_range(rng, (5, 13), dtype), sampling.random(rng, (5, 13), dtype, 0, dtype.bits - 1))
        )


def _pow_samples(rng: np.random.Generator) -> Iterator[Sample]:
    yield from sampling.pointwise(INTEGERS, 2, low=-4, high=9)(rng)
    for dtype in NUMERIC[len(INTEGERS) :]:
        if not dtype.is_complex:
            yield Sample(sampling.combinations(rng, sampling.edges(dtype), 2))
        yield Sample((sampling.random(rng, (3, 37), dtype, 0.1, 4), sampling.random(rng, (3, 37), dtype, -3, 3)))


def _complex(re: np.ndarray, im: np.ndarray) -> np.ndarray:
    whole = np.empty(re.shape, COMPLEX_OF[from_numpy(re.dtype)].numpy)
    whole.real, whole.imag = re, im
    return whole


record("add", "x + y; integers wrap.", direct(np.add), count=2, accepted=NUMERIC, commutative=True)
record("sub", "x - y; integers wrap.", direct(np.subtract), count=2, accepted=NUMERIC)
record("mul", "x * y; integers wrap.", direct(np.multiply), count=2, accepted=NUMERIC, commutative=True)
record(
    "div",
    "x / y; integers truncate towards zero, divided by zero they give all ones, the least by -1 wraps.",
    direct(_div),
    count=2,
    accepted=NUMERIC,
)
record(
    "rem",
    "x - y * truncate(x / y), with the sign of x; an integer x by zero gives x.",
    direct(_rem),
    count=2,
    accepted=INTEGERS + FLOATS,
)
record(
    "pow",
    "x to the power y, as C's pow; integers wrap, and a negative exponent truncates 1 / x**-y (0 for x = 0).",
    through_wider(_pow),
    count=2,
    accepted=NUMERIC,
    ulps=4,
    samples=_pow_samples,
)
record(
    "max",
    "The larger of x and y; NaN if either is NaN; +0 is above -0.",
    direct(_max),
    count=2,
    accepted=ORDERED,
    commutative=True,
)
record(
    "min",
    "The smaller of x and y; NaN if either is NaN; -0 is below +0.",
    direct(_min),
    count=2,
    accepted=ORDERED,
    commutative=True,
)
record(
    "atan2",
    "The angle of the point (y, x) given as atan2(y, x), in [-pi, pi].",
    through_wider(np.arctan2),
    count=2,
    accepted=FLOATS,
    ulps=4,
)
record(
    "nextafter",
    "The float next to x in the direction of y; y where they are equal.",
    _nextafter,
    count=2,
    accepted=FLOATS,
)

record(
    "and", "Bitwise and; logical for bool.", direct(np.bitwise_and), count=2, accepted=BOOL + INTEGERS, commutative=True
)
record(
    "or", "Bitwise or; logical for bool.", direct(np.bitwise_or), count=2, accepted=BOOL + INTEGERS, commutative=True
)
record(
    "xor",
    "Bitwise exclusive or; logical for bool.",
    direct(np.bitwise_xor),
    count=2,
    accepted=BOOL + INTEGERS,
    commutative=True,
)
record(
    "shift_left",
    "x with its bits moved up by y (read as unsigned); 0 where y is not below the width.",
    lambda arrays, attrs, run_region: _shift(arrays, left=True, arithmetic=False),
    count=2,
    accepted=INTEGERS,
    samples=_shift_samples,
)
record(
    "shift_right_logical",
    "x with its bits moved down by y (read as unsigned), zeros moving in; 0 where y is not below the width.",
    lambda arrays, attrs, run_region: _shift(arrays, left=False, arithmetic=False),
    count=2,
    accepted=INTEGERS,
    samples=_shift_samples,
)
record(
    "shift_right_arithmetic",
    "x with its bits moved down by y (read as unsigned), the sign moving in (zeros for unsigned x).",
    lambda arrays, attrs, run_region: _shift(arrays, left=False, arithmetic=True),
    count=2,
    accepted=INTEGERS,
    samples=_shift_samples,
)
record(
    "complex",
    "The complex number of a real and an imaginary part.",
    direct(_complex, COMPLEX_OF.__getitem__),
    count=2,
    accepted=tuple(COMPLEX_OF),
    result=COMPLEX_OF.__getitem__,
)
