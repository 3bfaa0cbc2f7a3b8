"""Resize: nearest, linear and cubic, one axis at a time.

Scales and sizes are known at import, so every output position is a short weighted sum of input positions that are
known too: `_taps` computes them with ONNX's coordinate rules, in f64. An axis that repeats each element a whole number
of times becomes a broadcast, other axes gathers with weights, or one matrix product where there are many taps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlx.frontends.onnx.indexing import take
from rlx.frontends.onnx.shape import reshaped
from rlx.frontends.onnx.site import Site, handles
from rlx.ir import dtypes
from rlx.ir.graph import Value

_COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
)  # fmt: skip
_ROUNDING = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
#: Taps up to which an axis is a sum of gathers.
_FEW_TAPS = 4


@dataclass(frozen=True)
class _Axis:
    """How one axis changes: `length` input elements, `out` output elements, `scale` output per input, a region."""

    length: int
    out: int
    scale: float
    start: float
    end: float


@handles("Resize")
def resize(site: Site) -> Value:
    x = site[0]
    mode = site.choice("mode", "nearest", ("nearest", "linear", "cubic"))
    axes = _axes(site, x)
    extrapolated = np.zeros((), dtype=bool)
    for axis, how in axes.items():
        places = _places(site, how)
        if site.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
            outside = (places < 0) | (places > how.length - 1)
            shape = [1] * x.type.rank
            shape[axis] = how.out
            extrapolated = extrapolated | outside.reshape(shape)
        if how.out == how.length and how.scale == 1.0 and np.array_equal(places, np.arange(how.out)):
            continue
        if mode == "nearest":
            x = _nearest(site, x, axis, how, places)
        else:
            x = _weighted(site, x, axis, *_taps(site, mode, how, places))
    if extrapolated.any():
        mask = np.ascontiguousarray(np.broadcast_to(extrapolated, np.broadcast_shapes(extrapolated.shape)))
        mask = site.b.broadcast(site.b.literal(mask), x.type.shape)
        fill = site.b.full(x.type.shape, site.attr("extrapolation_value", 0.0), x.type.dtype)
        x = site.b.emit("select", mask, fill, x)
    return x


def _axes(site: Site, x: Value) -> dict[int, _Axis]:
    rank = x.type.rank
    given = site.attr("axes", None)
    picked = [site.normalize(a, rank) for a in given] if given is not None else list(range(rank))
    region = _numbers(site, 1, "region of interest")
    region = region if len(region) == 2 * len(picked) else (0.0,) * len(picked) + (1.0,) * len(picked)
    scales, sizes = _numbers(site, 2, "scales"), site.maybe_ints(3, "sizes") or ()
    lengths = [x.type.sizes[a] for a in picked]
    crop = site.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if scales:
        spans = [region[i + len(picked)] - region[i] if crop else 1.0 for i in range(len(picked))]
        sizes = [math.floor(n * span * s) for n, s, span in zip(lengths, scales, spans, strict=True)]
    elif sizes:
        scales = [n / m for n, m in zip(sizes, lengths, strict=True)]
        policy = site.choice("keep_aspect_ratio_policy", "stretch", ("stretch", "not_larger", "not_smaller"))
        if policy != "stretch":
            scale = min(scales) if policy == "not_larger" else max(scales)
            scales = [scale] * len(scales)
            sizes = [math.floor(n * scale + 0.5) for n in lengths]
    else:
        raise site.misfit("neither scales nor sizes are given")
    return {
        axis: _Axis(lengths[i], sizes[i], float(scales[i]), region[i], region[i + len(picked)])
        for i, axis in enumerate(picked)
    }


def _numbers(site: Site, index: int, what: str) -> tuple[float, ...]:
    array = site.maybe_array(index, what)
    return () if array is None else tuple(float(v) for v in array.reshape(-1))


def _places(site: Site, how: _Axis) -> np.ndarray:
    """The input coordinate of each output position."""
    mode = site.choice("coordinate_transformation_mode", "half_pixel", _COORDINATES)
    out = np.arange(how.out, dtype=np.float64)
    if mode == "asymmetric":
        return out / how.scale
    if mode == "align_corners":
        wide = how.scale * how.length
        return out * (how.length - 1) / (wide - 1) if wide != 1 else np.zeros_like(out)
    if mode == "tf_crop_and_resize":
        wide = how.length - 1
        if how.out <= 1:
            return np.full_like(out, 0.5 * (how.start + how.end) * wide)
        return how.start * wide + out * (how.end - how.start) * wide / (how.out - 1)
    if mode == "pytorch_half_pixel" and how.out <= 1:
        return np.full_like(out, -0.5)
    places = (out + 0.5) / how.scale - 0.5
    if mode == "half_pixel_symmetric":
        # A size cut down to whole pixels moves the centre back to where it was.
        exact = how.scale * how.length
        places += how.length / 2 * (1 - how.out / exact)
    return places


def _nearest(site: Site, x: Value, axis: int, how: _Axis, places: np.ndarray) -> Value:
    rounding = site.choice("nearest_mode", "round_prefer_floor", tuple(_ROUNDING))
    picked = _ROUNDING[rounding](places).clip(0, how.length - 1).astype(np.int64)
    times = how.out // how.length
    if times * how.length == how.out and np.array_equal(picked, np.repeat(np.arange(how.length), times)):
        sizes = x.type.sizes
        shape = (*sizes[: axis + 1], times, *sizes[axis + 1 :])
        dims = tuple(d for d in range(len(shape)) if d != axis + 1)
        spread = site.b.emit("broadcast_in_dim", x, shape=shape, broadcast_dims=dims)
        return reshaped(site, spread, (*sizes[:axis], how.out, *sizes[axis + 1 :]))
    return take(site, x, site.b.literal(picked), axis)


def _taps(site: Site, mode: str, how: _Axis, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights [out, taps]: output i is the sum of weights[i, t] * input[indices[i, t]]."""
    shrink = min(how.scale, 1.0) if site.attr("antialias", 0) else 1.0
    reach = (2 if mode == "cubic" else 1) / shrink
    if shrink == 1.0:
        first = np.floor(places) - (1 if mode == "cubic" else 0)
        count = 4 if mode == "cubic" else 2
    else:
        first = np.floor(places - reach) + 1
        count = 2 * math.ceil(reach)
    indices = first[:, None] + np.arange(count)[None, :]
    distance = (places[:, None] - indices) * shrink
    weights = _cubic(distance, site.attr("cubic_coeff_a", -0.75)) if mode == "cubic" else _triangle(distance)
    if site.attr("exclude_outside", 0):
        weights = np.where((indices >= 0) & (indices < how.length), weights, 0.0)
    if shrink != 1.0 or site.attr("exclude_outside", 0):
        weights = weights / weights.sum(axis=1, keepdims=True)
    return indices.clip(0, how.length - 1).astype(np.int64), weights


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(distance), 0.0)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (Keys 1981)."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _weighted(site: Site, x: Value, axis: int, indices: np.ndarray, weights: np.ndarray) -> Value:
    b, dtype = site.b, x.type.dtype
    if not dtype.is_float:
        return b.convert(_weighted(site, b.convert(x, dtypes.f32), axis, indices, weights), dtype)
    used = (weights != 0).any(axis=0)
    indices, weights = indices[:, used], weights[:, used]
    if indices.shape[1] > _FEW_TAPS:
        return _product(site, x, axis, indices, weights)
    total = None
    for t in range(indices.shape[1]):
        part = take(site, x, b.literal(np.ascontiguousarray(indices[:, t])), axis)
        weight = b.literal(weights[:, t].astype(dtype.numpy))
        spread = b.emit("broadcast_in_dim", weight, shape=part.type.shape, broadcast_dims=(axis,))
        term = b.emit("mul", part, spread)
        total = term if total is None else b.emit("add", total, term)
    if total is None:
        raise site.misfit(f"axis {axis} of {x.type} has no element to resize from")
    return total


def _product(site: Site, x: Value, axis: int, indices: np.ndarray, weights: np.ndarray) -> Value:
    b, length = site.b, x.type.sizes[axis]
    matrix = np.zeros((len(indices), length))
    np.add.at(matrix, (np.arange(len(indices))[:, None], indices), weights)
    dense = b.literal(matrix.astype(x.type.dtype.numpy))
    result = b.emit("dot_general", x, dense, lhs_contract=(axis,), rhs_contract=(1,))
    order = (*range(axis), x.type.rank - 1, *range(axis, x.type.rank - 1))
    return result if axis == x.type.rank - 1 else b.emit("transpose", result, permutation=order)
