"""softmax, log_softmax and logsumexp, each with the largest element subtracted first.

A softmax over -inf alone is NaN, as in PyTorch; a logsumexp over -inf alone is -inf.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlx.ir.builder import GraphBuilder
from rlx.ir.composites.numerics import kept, normal_axis, reduce, require_float, spread, widen
from rlx.ir.dtypes import bf16, f16, f32, f64
from rlx.ir.graph import Value
from rlx.ir.op import REQUIRED, Attrs, Call, Op, Sample, Tolerance, define
from rlx.ir.ops.signature import flag, operands, require
from rlx.ir.types import TensorType


def _infer(name: str, call: Call) -> tuple[TensorType, ...]:
    (x,) = operands(name, call, 1)
    require_float(name, x, "x")
    normal_axis(name, call.attrs, x.rank)
    return (x,)


def _expand_softmax(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    x = widen(b, values[0])
    axes = (attrs["axis"] % x.type.rank,)
    weights = b.emit("exp", b.emit("sub", x, reduce(b, "reduce_max", x, axes)))
    return (b.convert(b.emit("div", weights, reduce(b, "reduce_sum", weights, axes)), values[0].type.dtype),)


def _expand_log_softmax(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    x = widen(b, values[0])
    axes = (attrs["axis"] % x.type.rank,)
    shifted = b.emit("sub", x, reduce(b, "reduce_max", x, axes))
    total = b.emit("reduce_sum", b.emit("exp", shifted), dimensions=axes)
    log = spread(b, b.emit("log", total), axes, x.type.shape)
    return (b.convert(b.emit("sub", shifted, log), values[0].type.dtype),)


def _axes(call: Call, rank: int) -> tuple[int, ...]:
    given = call.attrs["axes"]
    if given is None:
        return tuple(range(rank))
    good = isinstance(given, tuple) and all(isinstance(a, int) and -rank <= a < rank for a in given)
    require(good, f"logsumexp: axes are {given!r}, the operand has rank {rank}")
    axes = tuple(a % rank for a in given)
    require(len(set(axes)) == len(axes), f"logsumexp: axes {given!r} name a dimension twice")
    return axes


def _infer_logsumexp(call: Call) -> tuple[TensorType, ...]:
    (x,) = operands("logsumexp", call, 1)
    require_float("logsumexp", x, "x")
    axes = _axes(call, x.rank)
    if flag("logsumexp", call.attrs, "keepdims"):
        return (TensorType(kept(x.shape, axes), x.dtype),)
    return (TensorType(tuple(d for i, d in enumerate(x.shape) if i not in axes), x.dtype),)


def _expand_logsumexp(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    x = widen(b, values[0])
    axes = _axes(Call((x.type,), attrs), x.type.rank)
    largest = b.emit("reduce_max", x, dimensions=axes)
    # An infinite largest element would make inf - inf; zero in its place leaves exp to give 0 or inf.
    finite = b.emit("is_finite", largest)
    shift = b.emit("select", finite, largest, b.full(largest.type.shape, 0, largest.type.dtype))
    weights = b.emit("exp", b.emit("sub", x, spread(b, shift, axes, x.type.shape)))
    result = b.emit("add", b.emit("log", b.emit("reduce_sum", weights, dimensions=axes)), shift)
    if attrs["keepdims"]:
        result = b.emit("reshape", result, shape=kept(x.type.shape, axes))
    return (b.convert(result, values[0].type.dtype),)


def _sample(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in (f32, f64, f16, bf16):
        for shape, axis in (((4, 33), -1), ((2, 5, 7), 1), ((1,), 0), ((3, 1), 1), ((6, 2), 0)):
            yield Sample(((rng.normal(size=shape) * 5).astype(dtype.numpy),), {"axis": axis})
    edges = np.array([[1e4, -1e4, 0], [-np.inf, 1, 2], [-np.inf, -np.inf, -np.inf], [np.nan, 0, 0]], np.float32)
    yield Sample((edges,), {"axis": 1})
    yield Sample((np.zeros((2, 0), np.float32),), {"axis": 1})


def _sample_logsumexp(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in (f32, f64, f16, bf16):
        for axes, keepdims in (((-1,), False), ((0, 2), True), (None, False), ((), True)):
            x = (rng.normal(size=(3, 4, 9)) * 5).astype(dtype.numpy)
            yield Sample((x,), {"axes": axes, "keepdims": keepdims})
    edges = np.array([[1e4, -1e4], [-np.inf, 1], [-np.inf, -np.inf], [np.inf, 0], [np.nan, 0]], np.float32)
    yield Sample((edges,), {"axes": (1,)})


for _name, _summary, _expand in (
    ("softmax", "exp(x) over its sum along the dimension `axis`.", _expand_softmax),
    ("log_softmax", "The logarithm of softmax along the dimension `axis`.", _expand_log_softmax),
):
    define(
        Op(
            name=_name,
            summary=_summary,
            infer=lambda call, name=_name: _infer(name, call),
            attrs={"axis": -1},
            expand=_expand,
            samples=_sample,
            tolerance=Tolerance(ulps=8, terms=True),
        )
    )

define(
    Op(
        name="logsumexp",
        summary="log(sum(exp(x))) over the dimensions `axes` (None: all), which `keepdims` leaves with size 1.",
        infer=_infer_logsumexp,
        attrs={"axes": REQUIRED, "keepdims": False},
        expand=_expand_logsumexp,
        samples=_sample_logsumexp,
        tolerance=Tolerance(ulps=8, terms=True),
    )
)
