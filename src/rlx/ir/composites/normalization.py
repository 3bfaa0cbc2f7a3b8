"""Normalisations: layer, RMS, group, instance and batch norm.

Means and variances are taken in two passes: the mean first, then the mean of the squared differences, so that a large
mean costs no digits. Narrow floats compute in f32; scale, bias and statistics may be of any float dtype, and are
converted to what x is computed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlx.errors import IRError
from rlx.ir.builder import GraphBuilder, broadcast_shapes
from rlx.ir.composites.numerics import (
    along,
    compute_dtype,
    mean,
    normal_axis,
    require_float,
    spread,
    widen,
)
from rlx.ir.dtypes import DType, bf16, f16, f32, f64
from rlx.ir.graph import Value
from rlx.ir.op import Attrs, Call, Op, Sample, Tolerance, define
from rlx.ir.ops.signature import at_least, operands, require, whole
from rlx.ir.types import Shape, TensorType

_SUMS = Tolerance(ulps=16, terms=True)


def _require_epsilon(op: str, attrs: Attrs) -> None:
    value = attrs["epsilon"]
    good = isinstance(value, float | int) and not isinstance(value, bool) and value >= 0
    require(good, f"{op}: epsilon must be a number that is not negative, got {value!r}")


def _require_suffix(op: str, operand: str, type: TensorType, shape: Shape) -> None:
    """Refuse what does not broadcast to `shape`, the normalised part of x."""
    require_float(op, type, operand)
    try:
        fits = broadcast_shapes(shape, type.shape) == shape
    except IRError:
        fits = False
    require(fits, f"{op}: {operand} is {type}, it must broadcast to {shape}")


def _require_vectors(op: str, types: Sequence[TensorType], names: Sequence[str], size: object) -> None:
    for type, name in zip(types, names, strict=True):
        require_float(op, type, name)
        require(type.shape == (size,), f"{op}: {name} is {type}, it must have shape ({size},)")


def _normalised(b: GraphBuilder, x: Value, axes: Sequence[int], epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over `axes`."""
    shape = x.type.shape
    centred = b.emit("sub", x, spread(b, mean(b, x, axes), axes, shape))
    variance = mean(b, b.emit("mul", centred, centred), axes)
    factor = b.emit("rsqrt", b.binary("add", variance, epsilon))
    return b.emit("mul", centred, spread(b, factor, axes, shape))


# -- over trailing dimensions --------------------------------------------------------------------------------------


def _infer_layer_norm(call: Call) -> tuple[TensorType, ...]:
    x, *others = at_least("layer_norm", call, 2)
    require(len(others) <= 2, f"layer_norm takes 2 or 3 operands, got {len(call.inputs)}")
    require_float("layer_norm", x, "x")
    axis = normal_axis("layer_norm", call.attrs, x.rank)
    _require_epsilon("layer_norm", call.attrs)
    for name, type in zip(("scale", "bias"), others, strict=False):
        _require_suffix("layer_norm", name, type, x.shape[axis:])
    return (x,)


def _expand_layer_norm(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    x = widen(b, values[0])
    axes = range(attrs["axis"] % x.type.rank, x.type.rank)
    y = _normalised(b, x, axes, attrs["epsilon"])
    y = b.binary("mul", y, b.convert(values[1], x.type.dtype))
    if len(values) == 3:
        y = b.binary("add", y, b.convert(values[2], x.type.dtype))
    return (b.convert(y, values[0].type.dtype),)


def _infer_rms_norm(call: Call) -> tuple[TensorType, ...]:
    x, scale = operands("rms_norm", call, 2)
    require_float("rms_norm", x, "x")
    axis = normal_axis("rms_norm", call.attrs, x.rank)
    _require_epsilon("rms_norm", call.attrs)
    _require_suffix("rms_norm", "scale", scale, x.shape[axis:])
    return (x,)


def _expand_rms_norm(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    x = widen(b, values[0])
    axes = range(attrs["axis"] % x.type.rank, x.type.rank)
    square = mean(b, b.emit("mul", x, x), axes)
    factor = b.emit("rsqrt", b.binary("add", square, attrs["epsilon"]))
    y = b.emit("mul", x, spread(b, factor, axes, x.type.shape))
    y = b.binary("mul", y, b.convert(values[1], x.type.dtype))
    return (b.convert(y, values[0].type.dtype),)


def _sample_trailing(rng: np.random.Generator, operand_count: int) -> Iterator[Sample]:
    for dtype, vectors in ((f32, f32), (f64, f64), (f16, f16), (bf16, bf16), (f16, f32)):
        for shape, axis in (((2, 3, 33), -1), ((2, 3, 5), 1), ((7,), 0), ((3, 1), -1)):
            suffix = shape[axis % len(shape) :]
            others = [_draw(rng, suffix, vectors) for _ in range(operand_count - 1)]
            yield Sample((_draw(rng, shape, dtype), *others), {"axis": axis})
    large = (rng.normal(size=(3, 64)) + 1e4).astype(np.float32)
    ones = [np.ones(64, np.float32)] * (operand_count - 1)
    yield Sample((large, *ones), {"axis": -1, "epsilon": 1e-3})
    yield Sample((np.zeros((0, 4), np.float32), *[x[:4] for x in ones]), {"axis": -1})


def _draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    return np.asarray(rng.normal(size=shape)).astype(dtype.numpy)


# -- over a channel's elements -------------------------------------------------------------------------------------


def _infer_group_norm(call: Call) -> tuple[TensorType, ...]:
    x, scale, bias = operands("group_norm", call, 3)
    require_float("group_norm", x, "x")
    _require_epsilon("group_norm", call.attrs)
    require(x.rank >= 2, f"group_norm: x is {x}, it must be [N, C, ...]")
    groups, channels = whole("group_norm", call.attrs, "groups", 1), x.shape[1]
    require(isinstance(channels, int), f"group_norm: the channels of x, which is {x}, must be a known number")
    require(channels % groups == 0, f"group_norm: {channels} channels do not divide into {groups} groups")
    _require_vectors("group_norm", (scale, bias), ("scale", "bias"), channels)
    return (x,)


def _expand_group_norm(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    x = widen(b, values[0])
    shape, groups = x.type.shape, attrs["groups"]
    grouped = b.emit("reshape", x, shape=(shape[0], groups, shape[1] // groups, *shape[2:]))
    y = _normalised(b, grouped, range(2, grouped.type.rank), attrs["epsilon"])
    y = b.emit("reshape", y, shape=shape)
    return (_scaled(b, y, values[1], values[2], 1, values[0].type.dtype),)


def _infer_instance_norm(call: Call) -> tuple[TensorType, ...]:
    x, scale, bias = operands("instance_norm", call, 3)
    require_float("instance_norm", x, "x")
    _require_epsilon("instance_norm", call.attrs)
    require(x.rank >= 3, f"instance_norm: x is {x}, it must be [N, C, spatial...]")
    _require_vectors("instance_norm", (scale, bias), ("scale", "bias"), x.shape[1])
    return (x,)


def _expand_instance_norm(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    x = widen(b, values[0])
    y = _normalised(b, x, range(2, x.type.rank), attrs["epsilon"])
    return (_scaled(b, y, values[1], values[2], 1, values[0].type.dtype),)


def _scaled(b: GraphBuilder, y: Value, scale: Value, bias: Value, axis: int, dtype: DType) -> Value:
    """y * scale + bias, both vectors lying along `axis`, as `dtype`."""
    shape, inner = y.type.shape, y.type.dtype
    y = b.emit("mul", y, along(b, b.convert(scale, inner), axis, shape))
    return b.convert(b.emit("add", y, along(b, b.convert(bias, inner), axis, shape)), dtype)


def _sample_group_norm(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in (f32, f64, f16, bf16):
        for shape, groups in (((2, 6, 5), 3), ((1, 4, 3, 3), 1), ((2, 4, 7), 4), ((3, 6), 2)):
            yield Sample((_draw(rng, shape, dtype), *_vectors(rng, 2, shape[1], dtype)), {"groups": groups})


def _sample_instance_norm(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in (f32, f64, f16, bf16):
        for shape in ((2, 3, 9), (1, 2, 4, 5)):
            yield Sample((_draw(rng, shape, dtype), *_vectors(rng, 2, shape[1], dtype)), {"epsilon": 1e-3})


def _vectors(rng: np.random.Generator, count: int, size: int, dtype: DType) -> list[np.ndarray]:
    return [_draw(rng, (size,), dtype) for _ in range(count)]


# -- with statistics given -----------------------------------------------------------------------------------------

_BATCH_OPERANDS = ("scale", "bias", "mean", "var")


def _infer_batch_norm(call: Call) -> tuple[TensorType, ...]:
    x, *vectors = operands("batch_norm", call, 5)
    require_float("batch_norm", x, "x")
    _require_epsilon("batch_norm", call.attrs)
    axis = normal_axis("batch_norm", call.attrs, x.rank)
    _require_vectors("batch_norm", vectors, _BATCH_OPERANDS, x.shape[axis])
    return (x,)


def _expand_batch_norm(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    x = widen(b, values[0])
    shape, axis = x.type.shape, attrs["axis"] % x.type.rank
    scale, bias, centre, variance = (b.convert(v, compute_dtype(x.type.dtype)) for v in values[1:])
    factor = b.emit("mul", scale, b.emit("rsqrt", b.binary("add", variance, attrs["epsilon"])))
    centred = b.emit("sub", x, along(b, centre, axis, shape))
    return (_scaled(b, centred, factor, bias, axis, values[0].type.dtype),)


def _sample_batch_norm(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype, statistics in ((f32, f32), (f64, f64), (f16, f16), (bf16, f32)):
        for shape, axis in (((2, 3, 5, 5), 1), ((4, 3), -1), ((2, 5, 7), -1)):
            size = shape[axis]
            vectors = _vectors(rng, 3, size, statistics)
            variance = (rng.random(size) + 0.1).astype(statistics.numpy)
            yield Sample((_draw(rng, shape, dtype), *vectors, variance), {"axis": axis})


define(
    Op(
        name="layer_norm",
        summary="x normalised over the dimensions axis..rank, times scale, plus bias (which may be left out).",
        infer=_infer_layer_norm,
        attrs={"axis": -1, "epsilon": 1e-5},
        expand=_expand_layer_norm,
        samples=lambda rng: (s for count in (3, 2) for s in _sample_trailing(rng, count)),
        tolerance=_SUMS,
    )
)
define(
    Op(
        name="rms_norm",
        summary="x over the root of its mean square over the dimensions axis..rank, times scale.",
        infer=_infer_rms_norm,
        attrs={"axis": -1, "epsilon": 1e-5},
        expand=_expand_rms_norm,
        samples=lambda rng: _sample_trailing(rng, 2),
        tolerance=_SUMS,
    )
)
define(
    Op(
        name="group_norm",
        summary="x [N, C, ...] normalised over each group of C / groups channels, times scale [C], plus bias [C].",
        infer=_infer_group_norm,
        attrs={"groups": 1, "epsilon": 1e-5},
        expand=_expand_group_norm,
        samples=_sample_group_norm,
        tolerance=_SUMS,
    )
)
define(
    Op(
        name="instance_norm",
        summary="x [N, C, spatial...] normalised over the spatial dimensions, times scale [C], plus bias [C].",
        infer=_infer_instance_norm,
        attrs={"epsilon": 1e-5},
        expand=_expand_instance_norm,
        samples=_sample_instance_norm,
        tolerance=_SUMS,
    )
)
define(
    Op(
        name="batch_norm",
        summary="(x - mean) / sqrt(var + epsilon) * scale + bias, the four vectors lying along the dimension `axis`.",
        infer=_infer_batch_norm,
        attrs={"axis": 1, "epsilon": 1e-5},
        expand=_expand_batch_norm,
        samples=_sample_batch_norm,
        tolerance=_SUMS,
    )
)
