"""Sorting and selecting along one dimension, always stable: equal keys keep their order.

NaN of every kind is one key above all numbers, and zeros of either sign are one key; values themselves are never
changed. Ascending therefore ends in NaN; descending begins with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import ALL, DType, f32, i32, i64
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, define
from rlx.ir.ops import precision, sampling
from rlx.ir.ops.signature import (
    ORDERED,
    at_least,
    dimension,
    flag,
    operands,
    require,
    require_dtype,
    require_fits,
    require_same_shape,
    whole,
)
from rlx.ir.types import TensorType


def _key(x: np.ndarray, descending: bool) -> np.ndarray:
    """Integers in whose ascending order `x` is sorted."""
    key = precision.order_key(np.where(x == 0, np.zeros((), x.dtype), x).astype(x.dtype))
    return ~key if descending else key


def _infer(call: Call) -> tuple[TensorType, ...]:
    types = at_least("sort", call, 1)
    require_same_shape("sort", types)
    dimension("sort", call.attrs, types[0].rank)
    flag("sort", call.attrs, "descending")
    keys = whole("sort", call.attrs, "num_keys", 1)
    require(keys <= len(types), f"sort: num_keys is {keys}, there are {len(types)} operands")
    for i in range(keys):
        require_dtype("sort", i, types[i], ORDERED)
    return tuple(types)


def _sort(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    axis = attrs["dimension"]
    keys = [_key(x, attrs["descending"]) for x in arrays[: attrs["num_keys"]]]
    order = np.lexsort(keys[::-1], axis)
    return tuple(np.take_along_axis(x, order, axis) for x in arrays)


def _sort_samples(rng: np.random.Generator) -> Iterator[Sample]:
    def attrs(axis: int = 1, keys: int = 1, descending: bool = False) -> Attrs:
        return {"dimension": axis, "num_keys": keys, "descending": descending}

    for descending in (False, True):
        for d in ORDERED:
            rows = np.stack([rng.permutation(np.repeat(sampling.edges(d), 2)) for _ in range(3)])
            yield Sample((rows,), attrs(descending=descending))
        for d in ALL:
            keys = sampling.random(rng, (3, 19), i32, 0, 5)
            yield Sample((keys, sampling.random(rng, (3, 19), d)), attrs(descending=descending))
        two = tuple(sampling.random(rng, (2, 29, 3), i64, 0, 3) for _ in range(3))
        yield Sample(two, attrs(1, 2, descending))
        for shape, axis in (((7,), 0), ((1,), 0), ((0, 3), 0), ((0, 3), 1), ((131, 2), 0)):
            yield Sample((sampling.random(rng, shape, f32),), attrs(axis, descending=descending))


define(
    Op(
        "sort",
        "The operands reordered alike along `dimension`, by the first num_keys of them lexicographically; stable.",
        _infer,
        attrs={"dimension": REQUIRED, "num_keys": 1, "descending": False},
        evaluate=_sort,
        samples=_sort_samples,
    )
)


def _top_k_infer(call: Call) -> tuple[TensorType, ...]:
    (x,) = operands("top_k", call, 1)
    require_dtype("top_k", 0, x, ORDERED)
    k = whole("top_k", call.attrs, "k", 0)
    flag("top_k", call.attrs, "largest")
    axis = call.attrs["dimension"]
    good = isinstance(axis, int) and not isinstance(axis, bool) and -x.rank <= axis < x.rank
    require(good, f"top_k: dimension is {axis!r}, the operand has rank {x.rank}")
    axis %= x.rank
    require_fits("top_k", "k", k, x.shape[axis])
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return TensorType(shape, x.dtype), TensorType(shape, i32)


def _top_k(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    (x,) = arrays
    axis = attrs["dimension"]
    order = np.argsort(_key(x, attrs["largest"]), axis, kind="stable")
    order = np.take(order, np.arange(attrs["k"]), axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int32)


def _top_k_samples(rng: np.random.Generator) -> Iterator[Sample]:
    def sample(x: np.ndarray, k: int, axis: int, largest: bool) -> Sample:
        return Sample((x,), {"k": k, "dimension": axis, "largest": largest})

    def rows(d: DType) -> np.ndarray:
        return np.stack([rng.permutation(sampling.edges(d)) for _ in range(3)])

    for largest in (True, False):
        for d in ORDERED:
            yield sample(rows(d), 2, -1, largest)
            yield sample(sampling.random(rng, (3, 19), d, 0, 5), 7, -1, largest)
        for shape, k, axis in (
            ((7,), 7, 0),
            ((1,), 1, 0),
            ((5, 3), 2, 0),
            ((0, 3), 2, 1),
            ((2, 131), 5, -1),
            ((4,), 0, 0),
        ):
            yield sample(sampling.random(rng, shape, f32), k, axis, largest)


define(
    Op(
        "top_k",
        "The k largest (smallest) along `dimension`, sorted, and their positions as i32; of equals the first first.",
        _top_k_infer,
        attrs={"k": REQUIRED, "dimension": -1, "largest": True},
        evaluate=_top_k,
        samples=_top_k_samples,
    )
)
