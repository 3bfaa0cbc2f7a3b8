"""reduce_mean: the mean over some dimensions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlx.ir.builder import GraphBuilder
from rlx.ir.composites.numerics import mean, widen
from rlx.ir.dtypes import bf16, c64, f16, f32, f64, i32
from rlx.ir.graph import Value
from rlx.ir.op import REQUIRED, Attrs, Call, Op, Sample, Tolerance, define
from rlx.ir.ops.signature import NUMERIC, dimensions, operands, require_dtype, without
from rlx.ir.types import TensorType


def _infer(call: Call) -> tuple[TensorType, ...]:
    (x,) = operands("reduce_mean", call, 1)
    require_dtype("reduce_mean", 0, x, NUMERIC)
    axes = dimensions("reduce_mean", call.attrs, "dimensions", x.rank)
    return (TensorType(without(x.shape, axes), x.dtype),)


def _expand(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    x = widen(b, values[0])
    return (b.convert(mean(b, x, attrs["dimensions"]), values[0].type.dtype),)


def _sample(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in (f32, f64, f16, bf16, c64, i32):
        for axes in ((1,), (0, 2), (2, 1, 0), ()):
            x = np.asarray(rng.normal(size=(3, 5, 7)) * 20).astype(dtype.numpy)
            yield Sample((x,), {"dimensions": axes})


define(
    Op(
        name="reduce_mean",
        summary="The sum over `dimensions`, which go, divided by their number of elements; ints truncate toward zero.",
        infer=_infer,
        attrs={"dimensions": REQUIRED},
        expand=_expand,
        samples=_sample,
        tolerance=Tolerance(ulps=1, terms=True),
    )
)
