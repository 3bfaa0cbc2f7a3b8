"""Sampling images at computed places: GridSample, AffineGrid, RoiAlign, DeformConv.

An image [N, C, *S] is read at places [N, *P] of each axis; each read is a gather with clamped indices, and what lies
outside is weighted away, clamped or reflected.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from rlx.frontends.onnx.linear import add_channels, spatial, window_padding
from rlx.frontends.onnx.reduce import total
from rlx.frontends.onnx.shape import reshaped, sliced
from rlx.frontends.onnx.site import Site, handles
from rlx.ir import dtypes
from rlx.ir.graph import Value


def pixels(site: Site, x: Value, places: Sequence[Value]) -> Value:
    """`x` [N, C, *S] at whole-numbered float `places`, one [N, *P] for each axis of S, clamped: [N, C, *P]."""
    b, rank = site.b, x.type.rank
    shape = places[0].type.shape
    columns = []
    for place, length in zip(places, x.type.sizes[2:], strict=True):
        low, high = (b.full(shape, bound, place.type.dtype) for bound in (0, length - 1))
        index = b.convert(b.emit("clamp", low, place, high), dtypes.i64)
        columns.append(reshaped(site, index, (*place.type.sizes, 1)))
    indices = b.emit("concatenate", *columns, dimension=len(shape))
    axes = tuple(range(2, rank))
    return b.emit(
        "gather",
        x,
        indices,
        offset_dims=(1,),
        collapsed_slice_dims=axes,
        start_index_map=axes,
        operand_batching_dims=(0,),
        start_indices_batching_dims=(0,),
        slice_sizes=(1, x.type.sizes[1], *(1,) * len(axes)),
        mode="clip",
    )


def _inside(site: Site, places: Sequence[Value], lengths: Sequence[int]) -> Value:
    b = site.b
    checks = [
        b.emit("and", b.binary("ge", place, 0), b.binary("le", place, length - 1))
        for place, length in zip(places, lengths, strict=True)
    ]
    result = checks[0]
    for check in checks[1:]:
        result = b.emit("and", result, check)
    return result


def _channels(site: Site, x: Value, like: Value) -> Value:
    """[N, *P] spread over the channels of `like` [N, C, *P]."""
    dims = (0, *range(2, like.type.rank))
    return site.b.emit("broadcast_in_dim", x, shape=like.type.shape, broadcast_dims=dims)


def _reflected(site: Site, place: Value, low: float, high: float) -> Value:
    """`place` folded back at both borders until it lies between them."""
    b = site.b
    span = high - low
    if span <= 0:
        return b.full(place.type.shape, low, place.type.dtype)
    turned = b.binary("rem", b.emit("abs", b.binary("sub", place, low)), 2 * span)
    back = b.emit("sub", b.full(place.type.shape, 2 * span, place.type.dtype), turned)
    return b.binary("add", b.emit("min", turned, back), low)


def _read(site: Site, x: Value, places: Sequence[Value], padding: str, align: bool) -> Value:
    """Pixels at whole-numbered places, by the padding rule."""
    lengths = x.type.sizes[2:]
    if padding == "reflection":
        places = [_reflected(site, p, *_borders(n, align)) for p, n in zip(places, lengths, strict=True)]
        return pixels(site, x, [site.b.emit("round", p) for p in places])
    values = pixels(site, x, places)
    if padding == "border":
        return values
    inside = _channels(site, _inside(site, places, lengths), values)
    return site.b.emit("select", inside, values, site.b.full(values.type.shape, 0, values.type.dtype))


def _borders(length: int, align: bool) -> tuple[float, float]:
    return (0.0, length - 1.0) if align else (-0.5, length - 0.5)


def _taps(site: Site, place: Value, cubic: bool) -> list[tuple[Value, Value]]:
    """(whole place, weight) of each neighbour along one axis."""
    b = site.b
    base = b.emit("floor", place)
    t = b.emit("sub", place, base)
    if not cubic:
        rest = b.binary("add", b.emit("neg", t), 1.0)
        return [(base, rest), (b.binary("add", base, 1.0), t)]
    return [(b.binary("add", base, float(k)), _keys(site, t, k)) for k in (-1, 0, 1, 2)]


def _keys(site: Site, t: Value, k: int) -> Value:
    """Weight of the neighbour k, with the cubic convolution kernel (Keys 1981) and a = -0.75."""
    b, a = site.b, -0.75
    d = b.emit("abs", b.binary("sub", t, float(k)))
    if k in (0, 1):
        inner = b.binary("sub", b.binary("mul", d, a + 2), a + 3)
        return b.binary("add", b.emit("mul", b.emit("mul", inner, d), d), 1.0)
    inner = b.binary("add", b.emit("mul", b.binary("sub", b.binary("mul", d, a), 5 * a), d), 8 * a)
    return b.binary("sub", b.emit("mul", inner, d), 4 * a)


def interpolate(
    site: Site,
    x: Value,
    places: Sequence[Value],
    padding: str,
    align: bool,
    *,
    cubic: bool = False,
    combine: str = "add",
) -> Value:
    """`x` [N, C, *S] at real `places`, linearly or cubically: [N, C, *P]; `combine` joins the weighted neighbours."""
    b, dtype = site.b, x.type.dtype
    result = None
    for combination in itertools.product(*(_taps(site, place, cubic) for place in places)):
        values = _read(site, x, [place for place, _ in combination], padding, align)
        weight = combination[0][1]
        for _, other in combination[1:]:
            weight = b.emit("mul", weight, other)
        term = b.emit("mul", values, _channels(site, b.convert(weight, dtype), values))
        result = term if result is None else b.emit(combine, result, term)
    assert result is not None  # an image has at least one axis
    return result


@handles("GridSample")
def grid_sample(site: Site) -> Value:
    b, x, grid = site.b, site[0], site[1]
    mode = site.choice("mode", "linear", ("linear", "nearest", "cubic"))
    padding = site.choice("padding_mode", "zeros", ("zeros", "border", "reflection"))
    align = bool(site.attr("align_corners", 0))
    last, lengths = grid.type.rank - 1, x.type.sizes[2:]
    places = []
    for axis, n in enumerate(lengths):
        # The grid names axes from the last to the first, in [-1, 1].
        column = len(lengths) - 1 - axis
        at = reshaped(site, sliced(site, grid, last, column, column + 1), grid.type.sizes[:-1])
        scaled = b.binary("mul", b.binary("add", at, 1.0), (n - 1) / 2 if align else n / 2)
        place = scaled if align else b.binary("sub", scaled, 0.5)
        if mode == "nearest":
            place = b.emit("round", place)
        if padding == "border":
            place = b.binary("max", b.binary("min", place, float(n - 1)), 0.0)
        elif padding == "reflection":
            place = _reflected(site, place, *_borders(n, align))
        places.append(place)
    if mode == "nearest":
        return _read(site, x, places, padding, align)
    return interpolate(site, x, places, padding, align, cubic=mode == "cubic")


@handles("AffineGrid")
def affine_grid(site: Site) -> Value:
    """theta [N, k, k + 1] applied to the regular grid of an image of the given size: [N, *S, k]."""
    b, theta = site.b, site[0]
    size = site.ints(1, "size")[2:]
    align = bool(site.attr("align_corners", 0))
    lines = [np.linspace(-1, 1, n) if align else (np.arange(n) * 2 + 1) / n - 1 for n in size]
    grids = np.meshgrid(*lines, indexing="ij")
    points = np.stack([*reversed(grids), np.ones(size)], axis=-1).astype(theta.type.dtype.numpy)
    flat = b.literal(points.reshape(-1, len(size) + 1))
    moved = b.emit("dot_general", theta, flat, lhs_contract=(2,), rhs_contract=(1,))
    turned = b.emit("transpose", moved, permutation=(0, 2, 1))
    return reshaped(site, turned, (theta.type.sizes[0], *size, len(size)))


@handles("RoiAlign")
def roi_align(site: Site) -> Value:
    """The average, or the largest, of evenly spaced samples inside each bin of each region."""
    b, x, rois = site.b, site[0], site[1]
    height, width = site.attr("output_height", 1), site.attr("output_width", 1)
    ratio, scale = site.attr("sampling_ratio", 0), site.attr("spatial_scale", 1.0)
    if ratio <= 0:
        raise site.unsupported(f"sampling_ratio={ratio}", "give a number of samples above 0")
    half = site.choice("coordinate_transformation_mode", "half_pixel", ("half_pixel", "output_half_pixel"))
    shift = 0.5 if half == "half_pixel" else 0.0
    count = rois.type.sizes[0]
    edges = [
        b.binary("sub", b.binary("mul", reshaped(site, sliced(site, rois, 1, i, i + 1), (count,)), scale), shift)
        for i in range(4)
    ]
    places = []
    for low, high, bins, axis in ((edges[1], edges[3], height, 0), (edges[0], edges[2], width, 1)):
        extent = b.emit("sub", high, low)
        if not shift:
            extent = b.binary("max", extent, 1.0)
        samples = bins * ratio
        fractions = ((np.arange(samples) + 0.5) / samples).astype(x.type.dtype.numpy)
        shape = (count, height * ratio, width * ratio)
        along = b.emit("broadcast_in_dim", b.literal(fractions), shape=shape, broadcast_dims=(axis + 1,))
        start, span = (b.emit("broadcast_in_dim", v, shape=shape, broadcast_dims=(0,)) for v in (low, extent))
        places.append(b.emit("add", start, b.emit("mul", span, along)))
    largest = site.choice("mode", "avg", ("avg", "max")) == "max"
    sampled = _sample_regions(site, _images(site, x, site[2]), places, "max" if largest else "add")
    grouped = reshaped(site, sampled, (count, x.type.sizes[1], height, ratio, width, ratio))
    if largest:
        return b.emit("reduce_max", grouped, dimensions=(3, 5))
    return b.binary("div", total(site, grouped, (3, 5)), float(ratio * ratio))


def _images(site: Site, x: Value, batch: Value) -> Value:
    """The image of each region: [R, C, H, W]."""
    vectors = reshaped(site, batch, (*batch.type.sizes, 1))
    return site.b.emit(
        "gather",
        x,
        vectors,
        offset_dims=(1, 2, 3),
        collapsed_slice_dims=(0,),
        start_index_map=(0,),
        slice_sizes=(1, *x.type.sizes[1:]),
        mode="clip",
    )


def _sample_regions(site: Site, images: Value, places: Sequence[Value], combine: str) -> Value:
    """Linear samples; more than one element outside is zero, less is the border's.

    In mode "max" ONNX means the largest weighted neighbour, before any sum.
    """
    b, lengths = site.b, images.type.sizes[2:]
    clamped, near = [], []
    for place, n in zip(places, lengths, strict=True):
        near.append(b.emit("and", b.binary("ge", place, -1.0), b.binary("le", place, float(n))))
        clamped.append(b.binary("min", b.binary("max", place, 0.0), float(n - 1)))
    sampled = interpolate(site, images, clamped, "border", align=True, combine=combine)
    keep = _channels(site, b.emit("and", *near), sampled)
    return b.emit("select", keep, sampled, b.full(sampled.type.shape, 0, sampled.type.dtype))


@handles("DeformConv")
def deform_conv(site: Site) -> Value:
    """A convolution whose taps are moved by `offset` and weighted by `mask`: sampled columns, then a product."""
    b, x, w, offset, mask = site.b, site[0], site[1], site[2], site.get(4)
    sizes, window = x.type.sizes[2:], w.type.sizes[2:]
    rank, groups, parts = len(sizes), site.attr("group", 1), site.attr("offset_group", 1)
    strides, dilations = spatial(site, "strides", rank), spatial(site, "dilations", rank)
    padding = window_padding(site, sizes, window, strides, dilations)
    batch, channels = x.type.sizes[:2]
    out, taps = offset.type.sizes[2:], math.prod(window)
    # Each offset group reads its own channels: groups join the batch.
    images = reshaped(site, x, (batch * parts, channels // parts, *sizes))
    shape = (batch * parts, taps, *out)
    moved = reshaped(site, offset, (batch * parts, taps, rank, *out))
    places = []
    for axis in range(rank):
        start = np.arange(out[axis]) * strides[axis] - padding[axis][0]
        reach = np.array(list(np.ndindex(*window)))[:, axis] * dilations[axis]
        grid = np.zeros((taps, *out), dtype=x.type.dtype.numpy)
        grid += reach.reshape(-1, *(1,) * rank).astype(grid.dtype)
        grid += start.reshape(*(-1 if a == axis else 1 for a in range(rank))).astype(grid.dtype)
        own = reshaped(site, sliced(site, moved, 2, axis, axis + 1), shape)
        places.append(b.emit("add", own, b.broadcast(b.literal(grid), shape)))
    sampled = interpolate(site, images, places, "zeros", align=True)
    if mask is not None:
        sampled = b.emit("mul", sampled, _channels(site, reshaped(site, mask, shape), sampled))
    # [N, g, C / g, taps, *P] with [g, O / g, C / g, taps] -> [g, N, *P, O / g]
    each, points = channels // groups, math.prod(out)
    columns = reshaped(site, sampled, (batch, groups, each * taps, points))
    kernel = reshaped(site, w, (groups, w.type.sizes[0] // groups, each * taps))
    result = b.emit(
        "dot_general", kernel, columns, lhs_contract=(2,), rhs_contract=(2,), lhs_batch=(0,), rhs_batch=(1,)
    )
    result = b.emit("transpose", result, permutation=(2, 0, 1, 3))
    return add_channels(site, reshaped(site, result, (batch, w.type.sizes[0], *out)), site.get(3))
