"""Comparisons, which give bools, and the choices made with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import ALL, DType, bool_
from rlx.ir.op import Attrs, Call, Op, RunRegion, Sample, define
from rlx.ir.ops import sampling
from rlx.ir.ops.pointwise import direct, record, to_bool
from rlx.ir.ops.signature import (
    FLOATS,
    INTEGERS,
    ORDERED,
    operands,
    require_dtype,
    require_same_dtype,
    require_same_shape,
)
from rlx.ir.types import TensorType

for _name, _summary, _function, _accepted in (
    ("eq", "Whether x equals y; NaN equals nothing.", np.equal, ALL),
    ("ne", "Whether x differs from y; NaN differs from everything.", np.not_equal, ALL),
    ("lt", "Whether x is below y; False for NaN.", np.less, ORDERED),
    ("le", "Whether x is below or equal to y; False for NaN.", np.less_equal, ORDERED),
    ("gt", "Whether x is above y; False for NaN.", np.greater, ORDERED),
    ("ge", "Whether x is above or equal to y; False for NaN.", np.greater_equal, ORDERED),
):
    record(
        _name,
        _summary,
        direct(_function, to_bool),
        count=2,
        accepted=_accepted,
        result=to_bool,
        commutative=_name in ("eq", "ne"),
    )


def _select_infer(call: Call) -> tuple[TensorType, ...]:
    types = operands("select", call, 3)
    require_dtype("select", 0, types[0], (bool_,))
    require_same_dtype("select", types[1:], first=1)
    require_same_shape("select", types)
    return (types[1],)


def _select(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    predicate, on_true, on_false = arrays
    return (np.where(predicate, on_true, on_false),)


def _select_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in ALL:
        x, y = sampling.combinations(rng, sampling.edges(dtype), 2)
        yield Sample((sampling.random(rng, x.shape, bool_), x, y))
    for shape in sampling.SHAPES:
        x, y = (sampling.random(rng, shape, FLOATS[-2]) for _ in range(2))
        yield Sample((sampling.random(rng, shape, bool_), x, y))


define(
    Op(
        "select",
        "on_true where pred, else on_false; select(pred, on_true, on_false), all of one shape.",
        _select_infer,
        evaluate=_select,
        pointwise=True,
        samples=_select_samples,
    )
)


def _clamp(low: np.ndarray, x: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(x, low), high)


def _clamp_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in INTEGERS + FLOATS:
        yield from _clamp_of(rng, dtype)


def _clamp_of(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    edges = sampling.edges(dtype)
    # Zeros of one sign only: which zero wins is for max and min to say.
    edges = edges[~((edges == 0) & np.signbit(edges.astype(np.float64)))]
    low, x, high = sampling.combinations(rng, edges, 3)
    yield Sample((low, x, high))
    yield Sample(tuple(sampling.random(rng, (3, 37), dtype, *r) for r in ((-3, 0), (-6, 6), (0, 3))))


record(
    "clamp",
    "min(max(x, low), high), given as clamp(low, x, high): high wins over low; NaN if any is NaN.",
    direct(_clamp),
    count=3,
    accepted=INTEGERS + FLOATS,
    samples=_clamp_samples,
)
