"""Reductions over dimensions, which disappear, and the positions of extremes.

Sums and products of f32 and narrower floats accumulate in f32 or wider and round once at the end; integers wrap. The
order of accumulation is free. Extremes propagate NaN, and order -0 below +0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import DType, bf16, bool_, f16, f32, i8, i32, i64, u8
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, Tolerance, define
from rlx.ir.ops import precision, sampling
from rlx.ir.ops.signature import (
    BOOL,
    INTEGERS,
    NUMERIC,
    ORDERED,
    Evaluate,
    Infer,
    dimension,
    dimensions,
    dtype,
    operands,
    require,
    require_dtype,
    without,
)
from rlx.ir.types import TensorType

Axes = tuple[int, ...]
Reduction = Callable[[np.ndarray, Axes], np.ndarray]


def reduce_sum(x: np.ndarray, axes: Axes) -> np.ndarray:
    """Sums over `axes`; integers wrap, floats accumulate wide."""
    return precision.rounded(np.add.reduce(x.astype(precision.accumulator(x.dtype), copy=False), axes), x.dtype)


def reduce_prod(x: np.ndarray, axes: Axes) -> np.ndarray:
    """Products over `axes`, as `reduce_sum`."""
    return precision.rounded(np.multiply.reduce(x.astype(precision.accumulator(x.dtype), copy=False), axes), x.dtype)


def reduce_max(x: np.ndarray, axes: Axes) -> np.ndarray:
    """The largest over `axes`; NaN if one is NaN; over nothing the lowest number there is."""
    return _extreme(x, axes, np.maximum, high=True)


def reduce_min(x: np.ndarray, axes: Axes) -> np.ndarray:
    """The smallest over `axes`; NaN if one is NaN; over nothing the highest number there is."""
    return _extreme(x, axes, np.minimum, high=False)


def _extreme(x: np.ndarray, axes: Axes, function: np.ufunc, high: bool) -> np.ndarray:
    identity = np.asarray(precision.lowest(x.dtype) if high else precision.highest(x.dtype)).astype(x.dtype)
    keys = precision.order_key(x, nan_high=high)
    # NaN is the strongest key, so the identity need not be weaker than it.
    least = precision.order_key(identity).item()
    return precision.from_order_key(np.asarray(function.reduce(keys, axes, initial=least)), x.dtype)


def reduce_and(x: np.ndarray, axes: Axes) -> np.ndarray:
    """Bits that are set everywhere over `axes`."""
    return np.asarray(np.bitwise_and.reduce(precision.stored(x), axes)).astype(x.dtype)


def reduce_or(x: np.ndarray, axes: Axes) -> np.ndarray:
    """Bits that are set somewhere over `axes`."""
    return np.asarray(np.bitwise_or.reduce(precision.stored(x), axes)).astype(x.dtype)


def _infer(name: str, accepted: Sequence[DType]) -> Infer:
    def rule(call: Call) -> tuple[TensorType, ...]:
        (x,) = operands(name, call, 1)
        require_dtype(name, 0, x, accepted)
        axes = dimensions(name, call.attrs, "dimensions", x.rank)
        return (TensorType(without(x.shape, axes), x.dtype),)

    return rule


def _evaluate(reduction: Reduction) -> Evaluate:
    def evaluate(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
        with np.errstate(all="ignore"):
            return (reduction(arrays[0], attrs["dimensions"]),)

    return evaluate


_SHAPES: tuple[tuple[tuple[int, ...], Axes], ...] = (
    ((3, 37), (1,)), ((3, 37), (0,)), ((2, 3, 5), (0, 2)), ((2, 3, 5), (0, 1, 2)), ((2, 3, 5), ()), ((2, 3, 5), (2, 1)),
    ((), ()), ((1,), (0,)), ((0, 3), (0,)), ((0, 3), (1,)), ((2, 3, 131), (2,)), ((300, 3), (0,)),
)  # fmt: skip


def _samples(accepted: Sequence[DType], low: float, high: float, extreme: bool) -> sampling.Samples:
    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        first = f32 if f32 in accepted else accepted[0]
        for d in accepted:
            yield Sample((sampling.random(rng, (5, 19), d, low, high),), {"dimensions": (1,)})
            yield Sample((sampling.random(rng, (5, 19), d, low, high),), {"dimensions": (0,)})
            if extreme or not (d.is_float or d.is_complex):
                edges = sampling.edges(d)
                yield Sample((np.stack([rng.permutation(edges)[:3] for _ in range(7)]),), {"dimensions": (1,)})
        for shape, axes in _SHAPES:
            yield Sample((sampling.random(rng, shape, first, low, high),), {"dimensions": axes})
        if extreme:
            signs = np.array([[-0.0, 0.0], [0.0, -0.0], [-0.0, -0.0], [np.nan, np.inf], [-np.inf, np.nan]], np.float32)
            yield Sample((signs if first is f32 else signs > 0,), {"dimensions": (1,)})

    return samples


_BITS = BOOL + INTEGERS
for _name, _summary, _reduction, _accepted, _terms, _low, _high in (
    ("reduce_sum", "The sum over `dimensions`; 0 over nothing.", reduce_sum, NUMERIC, True, -4, 4),
    ("reduce_prod", "The product over `dimensions`; 1 over nothing.", reduce_prod, NUMERIC, True, 0.5, 1.9),
    ("reduce_max", "The largest over `dimensions`; the lowest number over nothing.", reduce_max, ORDERED, False, -9, 9),
    ("reduce_min", "The smallest over `dimensions`; the highest over nothing.", reduce_min, ORDERED, False, -9, 9),
    ("reduce_and", "Bitwise and over `dimensions`; all ones over nothing.", reduce_and, _BITS, False, -9, 9),
    ("reduce_or", "Bitwise or over `dimensions`; zero over nothing.", reduce_or, _BITS, False, -9, 9),
):
    define(
        Op(
            _name,
            _summary,
            _infer(_name, _accepted),
            attrs={"dimensions": REQUIRED},
            evaluate=_evaluate(_reduction),
            samples=_samples(_accepted, _low, _high, extreme=not _terms),
            tolerance=Tolerance(terms=_terms),
        )
    )

# -- positions of extremes -----------------------------------------------------------------------------------------


def _arg_infer(name: str) -> Infer:
    def rule(call: Call) -> tuple[TensorType, ...]:
        (x,) = operands(name, call, 1)
        require_dtype(name, 0, x, ORDERED)
        axis = dimension(name, call.attrs, x.rank)
        require(x.shape[axis] != 0, f"{name}: dimension {axis} of {x} is empty, it has no extreme")
        return (TensorType(without(x.shape, (axis,)), dtype(name, call.attrs, (i32, i64))),)

    return rule


def _arg_evaluate(high: bool) -> Evaluate:
    def evaluate(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        # Zeros of either sign are one number here.
        keys = precision.order_key(np.where(x == 0, np.zeros((), x.dtype), x).astype(x.dtype), nan_high=high)
        found = np.argmax(keys, attrs["dimension"]) if high else np.argmin(keys, attrs["dimension"])
        return (np.asarray(found).astype(attrs["dtype"].numpy),)

    return evaluate


def _arg_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in ORDERED:
        for to in (i32, i64):
            yield Sample((sampling.random(rng, (5, 19), d, -9, 9),), {"dimension": 1, "dtype": to})
        edges = sampling.edges(d)
        rows = np.stack([rng.permutation(edges)[:5] if len(edges) > 5 else edges for _ in range(9)])
        yield Sample((rows,), {"dimension": 1, "dtype": i64})
    for shape, axis in (((7,), 0), ((1,), 0), ((2, 37, 3), 1), ((2, 3, 131), 2), ((0, 3), 1), ((300, 2), 0)):
        yield Sample((sampling.random(rng, shape, f32),), {"dimension": axis, "dtype": i64})
    for d in (f32, f16, bf16, i8, u8, bool_):
        yield Sample((np.ones((3, 40), d.numpy),), {"dimension": 1, "dtype": i32})


for _name, _summary, _high in (
    ("argmax", "The first position of the largest along `dimension`, NaN above all.", True),
    ("argmin", "The first position of the smallest along `dimension`, NaN below all.", False),
):
    define(
        Op(
            _name,
            _summary,
            _arg_infer(_name),
            attrs={"dimension": REQUIRED, "dtype": i32},
            evaluate=_arg_evaluate(_high),
            samples=_arg_samples,
        )
    )
