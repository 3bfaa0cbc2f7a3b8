"""Reductions, arg-reductions and cumulative ops."""

from __future__ import annotations

import math

from rlx.frontends.onnx.shape import reshaped
from rlx.frontends.onnx.site import Site, handles
from rlx.ir import dtypes
from rlx.ir.graph import Value

_REDUCTIONS = ("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceL1", "ReduceL2",
               "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")  # fmt: skip


@handles(*_REDUCTIONS)
def reduction(site: Site) -> Value:
    x = site[0]
    given = site.maybe_ints(1, "axes") or ()
    if given:
        axes = tuple(sorted({site.normalize(a, x.type.rank) for a in given}))
    elif site.attr("noop_with_empty_axes", 0):
        axes = ()
    else:
        axes = tuple(range(x.type.rank))
    result = _RULES[site.node.op](site, x, axes)
    return kept(site, result, x, axes) if site.attr("keepdims", 1) else result


def kept(site: Site, reduced: Value, x: Value, axes: tuple[int, ...]) -> Value:
    """A reduction of `x` over `axes`, with those axes back as size 1."""
    return reshaped(site, reduced, tuple(1 if a in axes else n for a, n in enumerate(x.type.sizes)))


def total(site: Site, x: Value, axes: tuple[int, ...]) -> Value:
    """The sum over `axes`."""
    return site.b.emit("reduce_sum", x, dimensions=axes) if axes else x


def average(site: Site, x: Value, axes: tuple[int, ...]) -> Value:
    """The mean over `axes`; of integers it truncates."""
    if not axes:
        return x
    if x.type.dtype.is_float:
        return site.b.emit("reduce_mean", x, dimensions=axes)
    count = math.prod(x.type.sizes[a] for a in axes)
    return site.b.binary("div", total(site, x, axes), count)


def _extreme(op: str, flag: str):
    def rule(site: Site, x: Value, axes: tuple[int, ...]) -> Value:
        if not axes:
            return x
        return site.b.emit(flag if x.type.dtype is dtypes.bool_ else op, x, dimensions=axes)

    return rule


def _log(site: Site, x: Value) -> Value:
    dtype = x.type.dtype
    if dtype.is_float:
        return site.b.emit("log", x)
    return site.b.convert(site.b.emit("log", site.b.convert(x, dtypes.f64)), dtype)


def _sqrt(site: Site, x: Value) -> Value:
    dtype = x.type.dtype
    if dtype.is_float:
        return site.b.emit("sqrt", x)
    return site.b.convert(site.b.emit("sqrt", site.b.convert(x, dtypes.f64)), dtype)


def _log_sum_exp(site: Site, x: Value, axes: tuple[int, ...]) -> Value:
    if x.type.dtype.is_float:
        return site.b.emit("logsumexp", x, axes=axes, keepdims=False) if axes else x
    wide = site.b.convert(x, dtypes.f64)
    return site.b.convert(site.b.emit("logsumexp", wide, axes=axes, keepdims=False), x.type.dtype)


def _squares(site: Site, x: Value, axes: tuple[int, ...]) -> Value:
    return total(site, site.b.emit("mul", x, x), axes)


_RULES = {
    "ReduceSum": total,
    "ReduceProd": lambda site, x, axes: site.b.emit("reduce_prod", x, dimensions=axes) if axes else x,
    "ReduceMax": _extreme("reduce_max", "reduce_or"),
    "ReduceMin": _extreme("reduce_min", "reduce_and"),
    "ReduceMean": average,
    "ReduceL1": lambda site, x, axes: total(site, site.b.emit("abs", x), axes),
    "ReduceL2": lambda site, x, axes: _sqrt(site, _squares(site, x, axes)),
    "ReduceLogSum": lambda site, x, axes: _log(site, total(site, x, axes)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceSumSquare": _squares,
}


@handles("ArgMax", "ArgMin")
def arg_reduction(site: Site) -> Value:
    b, x = site.b, site[0]
    axis = site.axis("axis", 0, x.type.rank)
    op = "argmax" if site.node.op == "ArgMax" else "argmin"
    if site.attr("select_last_index", 0):
        backwards = b.emit(op, b.emit("rev", x, dimensions=(axis,)), dimension=axis, dtype=dtypes.i64)
        last = b.full(backwards.type.shape, x.type.sizes[axis] - 1, dtypes.i64)
        found = b.emit("sub", last, backwards)
    else:
        found = b.emit(op, x, dimension=axis, dtype=dtypes.i64)
    return kept(site, found, x, (axis,)) if site.attr("keepdims", 1) else found


@handles("CumSum", "CumProd")
def cumulative(site: Site) -> Value:
    b, x = site.b, site[0]
    axis = site.normalize(int(site.array(1, "axis").reshape(-1)[0]), x.type.rank)
    backwards = bool(site.attr("reverse", 0))
    product = site.node.op == "CumProd"
    if site.attr("exclusive", 0):
        low, high = [0] * x.type.rank, [0] * x.type.rank
        low[axis], high[axis] = (-1, 1) if backwards else (1, -1)
        neutral = b.constant(1 if product else 0, x.type.dtype)
        x = b.emit("pad", x, neutral, low=tuple(low), high=tuple(high), interior=(0,) * x.type.rank)
    return b.emit("cumprod" if product else "cumsum", x, dimension=axis, reverse=backwards)
