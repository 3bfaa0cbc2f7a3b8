"""Pointwise ops of one operand: arithmetic, rounding, elementary functions, bits, parts of complex numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import from_numpy
from rlx.ir.op import Attrs, RunRegion, Sample
from rlx.ir.ops import sampling
from rlx.ir.ops.pointwise import direct, record, through_wider, to_bool
from rlx.ir.ops.signature import BOOL, COMPLEXES, FLOATS, INTEGERS, NUMERIC, PART_OF, Evaluate

_ANALYTIC = FLOATS + COMPLEXES


def _logistic(x: np.ndarray) -> np.ndarray:
    if np.iscomplexobj(x):
        return 1 / (1 + np.exp(-x))
    # exp of a number that is not positive cannot overflow.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _abs(x: np.ndarray) -> np.ndarray:
    # np.abs of complex numbers is an ulp off at times.
    return np.hypot(np.real(x), np.imag(x)) if np.iscomplexobj(x) else np.abs(x)


def _sign(x: np.ndarray) -> np.ndarray:
    return np.where(x == 0, x, np.sign(x))


def unsigned(x: np.ndarray) -> np.ndarray:
    """The bits of an integer array as the unsigned dtype of its width; a nibble in the low half of a byte."""
    if from_numpy(x.dtype).bits == 4:
        return x.astype(np.int8).view(np.uint8) & np.uint8(15)
    return x.view(np.dtype(f"u{x.dtype.itemsize}"))


def _popcnt(x: np.ndarray) -> np.ndarray:
    return np.bitwise_count(unsigned(x))


def _clz(x: np.ndarray) -> np.ndarray:
    bits = from_numpy(x.dtype).bits
    smeared = unsigned(x)
    shift = 1
    while shift < bits:
        smeared = smeared | (smeared >> smeared.dtype.type(shift))
        shift *= 2
    return np.uint8(bits) - np.bitwise_count(smeared)


def _bits(function: Callable[[np.ndarray], np.ndarray]) -> Evaluate:
    """Evaluate on the operand as it is stored, nibbles included."""

    def evaluate(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        return (np.asarray(function(x)).astype(x.dtype),)

    return evaluate


def _bit_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in INTEGERS:
        yield Sample((sampling.edges(dtype),))
        yield Sample((sampling.whole_range(rng, (5, 13), dtype),))


def _not(x: np.ndarray) -> np.ndarray:
    return ~x if x.dtype.kind == "b" else ~unsigned(x)


record("exp", "e to the power x.", through_wider(np.exp), count=1, accepted=_ANALYTIC, ulps=2, low=-8, high=8)
record(
    "expm1", "exp(x) - 1, exact near 0.", through_wider(np.expm1), count=1, accepted=_ANALYTIC, ulps=3, low=-4, high=4
)
record(
    "log",
    "Natural logarithm; NaN below 0, -inf at 0.",
    through_wider(np.log),
    count=1,
    accepted=_ANALYTIC,
    ulps=2,
    low=0.01,
    high=50,
)
record(
    "log1p",
    "log(1 + x), exact near 0.",
    through_wider(np.log1p),
    count=1,
    accepted=_ANALYTIC,
    ulps=3,
    low=-0.99,
    high=8,
)
record(
    "sqrt",
    "Square root, correctly rounded; NaN below 0.",
    through_wider(np.sqrt),
    count=1,
    accepted=_ANALYTIC,
    ulps=0,
    low=0,
    high=50,
)
record(
    "rsqrt",
    "1 / sqrt(x).",
    through_wider(lambda x: 1 / np.sqrt(x)),
    count=1,
    accepted=_ANALYTIC,
    ulps=2,
    low=0.01,
    high=50,
)
record(
    "cbrt",
    "Cube root, negative numbers included.",
    through_wider(np.cbrt),
    count=1,
    accepted=FLOATS,
    ulps=2,
    low=-50,
    high=50,
)
record("sin", "Sine of x radians.", through_wider(np.sin), count=1, accepted=_ANALYTIC, ulps=2, low=-20, high=20)
record("cos", "Cosine of x radians.", through_wider(np.cos), count=1, accepted=_ANALYTIC, ulps=2, low=-20, high=20)
record("tan", "Tangent of x radians.", through_wider(np.tan), count=1, accepted=_ANALYTIC, ulps=4, low=-20, high=20)
record(
    "asin",
    "Inverse sine in [-pi/2, pi/2]; NaN outside [-1, 1].",
    through_wider(np.arcsin),
    count=1,
    accepted=_ANALYTIC,
    ulps=4,
    low=-1,
    high=1,
)
record(
    "acos",
    "Inverse cosine in [0, pi]; NaN outside [-1, 1].",
    through_wider(np.arccos),
    count=1,
    accepted=_ANALYTIC,
    ulps=4,
    low=-1,
    high=1,
)
record(
    "atan",
    "Inverse tangent in [-pi/2, pi/2].",
    through_wider(np.arctan),
    count=1,
    accepted=_ANALYTIC,
    ulps=3,
    low=-8,
    high=8,
)
record("sinh", "Hyperbolic sine.", through_wider(np.sinh), count=1, accepted=_ANALYTIC, ulps=4, low=-8, high=8)
record("cosh", "Hyperbolic cosine.", through_wider(np.cosh), count=1, accepted=_ANALYTIC, ulps=4, low=-8, high=8)
record("tanh", "Hyperbolic tangent.", through_wider(np.tanh), count=1, accepted=_ANALYTIC, ulps=4, low=-4, high=4)
record(
    "asinh",
    "Inverse hyperbolic sine.",
    through_wider(np.arcsinh),
    count=1,
    accepted=_ANALYTIC,
    ulps=4,
    low=-50,
    high=50,
)
record(
    "acosh",
    "Inverse hyperbolic cosine; NaN below 1.",
    through_wider(np.arccosh),
    count=1,
    accepted=_ANALYTIC,
    ulps=4,
    low=1,
    high=50,
)
record(
    "atanh",
    "Inverse hyperbolic tangent; NaN outside [-1, 1].",
    through_wider(np.arctanh),
    count=1,
    accepted=_ANALYTIC,
    ulps=4,
    low=-1,
    high=1,
)
record(
    "logistic", "1 / (1 + exp(-x)).", through_wider(_logistic), count=1, accepted=_ANALYTIC, ulps=4, low=-10, high=10
)
record("erf", "The error function.", through_wider(_erf), count=1, accepted=FLOATS, ulps=4, low=-4, high=4)

record("neg", "-x; integers wrap.", direct(np.negative), count=1, accepted=NUMERIC)
record(
    "abs",
    "The magnitude of x, real for complex x; the least signed integer is its own.",
    through_wider(_abs, lambda d: PART_OF.get(d, d)),
    count=1,
    accepted=NUMERIC,
    result=lambda d: PART_OF.get(d, d),
    ulps=1,
)
record(
    "sign",
    "-1, 0 or 1 by the sign of x; zeros and NaN give themselves, complex x gives x / abs(x).",
    direct(_sign),
    count=1,
    accepted=NUMERIC,
)
record("floor", "The greatest whole number that is not above x.", direct(np.floor), count=1, accepted=FLOATS)
record("ceil", "The least whole number that is not below x.", direct(np.ceil), count=1, accepted=FLOATS)
record("round", "The nearest whole number, halves to even.", direct(np.rint), count=1, accepted=FLOATS)
record(
    "is_finite",
    "Whether x is neither infinite nor NaN.",
    direct(np.isfinite, to_bool),
    count=1,
    accepted=FLOATS,
    result=to_bool,
)

record("not", "Every bit inverted; logical not for bool.", _bits(_not), count=1, accepted=BOOL + INTEGERS)
record("popcnt", "The number of bits set.", _bits(_popcnt), count=1, accepted=INTEGERS, samples=_bit_samples)
record(
    "clz",
    "The number of zero bits above the highest bit set.",
    _bits(_clz),
    count=1,
    accepted=INTEGERS,
    samples=_bit_samples,
)

record(
    "real",
    "The real part of a complex x.",
    direct(np.real, PART_OF.__getitem__),
    count=1,
    accepted=COMPLEXES,
    result=PART_OF.__getitem__,
)
record(
    "imag",
    "The imaginary part of a complex x.",
    direct(np.imag, PART_OF.__getitem__),
    count=1,
    accepted=COMPLEXES,
    result=PART_OF.__getitem__,
)
record("conj", "The complex conjugate of x.", direct(np.conj), count=1, accepted=COMPLEXES)
