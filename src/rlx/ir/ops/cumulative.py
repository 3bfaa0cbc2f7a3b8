"""Running sums, products and extremes along one dimension; the shape stays.

Accumulation is as in `rlx.ir.ops.reduce`: element i of the result reduces elements 0..i (i.. to the end, reversed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import DType, f32
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, Tolerance, define
from rlx.ir.ops import precision, sampling
from rlx.ir.ops.signature import NUMERIC, ORDERED, Evaluate, Infer, dimension, flag, operands, require_dtype
from rlx.ir.types import TensorType


def _sum(x: np.ndarray, axis: int) -> np.ndarray:
    return precision.rounded(np.add.accumulate(x.astype(precision.accumulator(x.dtype)), axis), x.dtype)


def _prod(x: np.ndarray, axis: int) -> np.ndarray:
    return precision.rounded(np.multiply.accumulate(x.astype(precision.accumulator(x.dtype)), axis), x.dtype)


def _max(x: np.ndarray, axis: int) -> np.ndarray:
    return precision.from_order_key(np.maximum.accumulate(precision.order_key(x), axis), x.dtype)


def _min(x: np.ndarray, axis: int) -> np.ndarray:
    return precision.from_order_key(np.minimum.accumulate(precision.order_key(x, nan_high=False), axis), x.dtype)


def _infer(name: str, accepted: Sequence[DType]) -> Infer:
    def rule(call: Call) -> tuple[TensorType, ...]:
        (x,) = operands(name, call, 1)
        require_dtype(name, 0, x, accepted)
        dimension(name, call.attrs, x.rank)
        flag(name, call.attrs, "reverse")
        return (x,)

    return rule


def _evaluate(function: Callable[[np.ndarray, int], np.ndarray]) -> Evaluate:
    def evaluate(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        axis = attrs["dimension"]
        with np.errstate(all="ignore"):
            if attrs["reverse"]:
                return (np.flip(function(np.flip(x, axis), axis), axis),)
            return (function(x, axis),)

    return evaluate


def _samples(accepted: Sequence[DType], low: float, high: float, extreme: bool) -> sampling.Samples:
    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for d in accepted:
            for reverse in (False, True):
                attrs = {"dimension": 1, "reverse": reverse}
                yield Sample((sampling.random(rng, (3, 19), d, low, high),), attrs)
                if extreme:
                    yield Sample((np.stack([rng.permutation(sampling.edges(d)) for _ in range(3)]),), attrs)
        for shape, axis in (
            ((7,), 0),
            ((1,), 0),
            ((0, 3), 0),
            ((0, 3), 1),
            ((2, 5, 3), 1),
            ((2, 131), 1),
            ((67, 2), 0),
        ):
            for reverse in (False, True):
                yield Sample((sampling.random(rng, shape, f32, low, high),), {"dimension": axis, "reverse": reverse})

    return samples


for _name, _summary, _function, _accepted, _terms, _low, _high in (
    ("cumsum", "The sum of x up to each element along `dimension`.", _sum, NUMERIC, True, -4, 4),
    ("cumprod", "The product of x up to each element along `dimension`.", _prod, NUMERIC, True, 0.5, 1.9),
    ("cummax", "The largest of x up to each element; NaN from the first NaN on.", _max, ORDERED, False, -9, 9),
    ("cummin", "The smallest of x up to each element; NaN from the first NaN on.", _min, ORDERED, False, -9, 9),
):  # fmt: skip
    define(
        Op(
            _name,
            _summary,
            _infer(_name, _accepted),
            attrs={"dimension": REQUIRED, "reverse": False},
            evaluate=_evaluate(_function),
            samples=_samples(_accepted, _low, _high, not _terms),
            tolerance=Tolerance(terms=_terms),
        )
    )
