"""Pooling over windows and over whole images."""

from __future__ import annotations

import math

import numpy as np

from rlx.frontends.onnx.linear import spatial, window_padding
from rlx.frontends.onnx.reduce import average, kept, total
from rlx.frontends.onnx.site import Site, handles
from rlx.ir import dtypes
from rlx.ir.graph import Value


class Windows:
    """The windows of a pooling node over the spatial axes of an operand [N, C, ...]."""

    def __init__(self, site: Site, x: Value) -> None:
        self.site = site
        self.sizes = x.type.sizes[2:]
        count = len(self.sizes)
        self.window = tuple(site.attr("kernel_shape"))
        self.strides, self.dilations = spatial(site, "strides", count), spatial(site, "dilations", count)
        self.padding = window_padding(site, self.sizes, self.window, self.strides, self.dilations)
        #: Padding with what `ceil_mode` reads beyond it, so that partial windows at the end count.
        self.reach = self.padding
        if site.attr("ceil_mode", 0) and site.attr("auto_pad", "NOTSET") in ("NOTSET", ""):
            self.reach = tuple(
                self._ceil(*axis)
                for axis in zip(self.sizes, self.window, self.strides, self.dilations, self.padding, strict=True)
            )

    @staticmethod
    def _ceil(size: int, k: int, stride: int, dilation: int, pads: tuple[int, int]) -> tuple[int, int]:
        low, high = pads
        extent = dilation * (k - 1) + 1
        count = -(-(size + low + high - extent) // stride) + 1
        if (count - 1) * stride >= size + low:
            count -= 1  # a window must begin inside the data or its low padding
        needed = (count - 1) * stride + extent - size - low
        return low, max(needed, high if (size + low + high - extent) % stride == 0 else needed)

    def reduce(self, op: str, x: Value, padding: tuple[tuple[int, int], ...] | None = None) -> Value:
        """`op` over every window; padding acts as the op's identity."""
        ones = (1,) * len(self.window)
        return self.site.b.emit(
            op,
            x,
            window=(1, 1, *self.window),
            strides=(1, 1, *self.strides),
            padding=((0, 0), (0, 0), *(self.reach if padding is None else padding)),
            base_dilation=(1, 1, *ones),
            window_dilation=(1, 1, *self.dilations),
        )


@handles("MaxPool")
def max_pool(site: Site) -> list[Value]:
    x = site[0]
    windows = Windows(site, x)
    results = [windows.reduce("reduce_window_max", x)]
    if site.wants(1):
        results.append(_max_indices(site, x, windows, results[0]))
    return results


def _max_indices(site: Site, x: Value, windows: Windows, largest: Value) -> Value:
    """Where in the flattened operand each window's first largest element is.

    Window by window offset: an element of the window that equals the maximum offers its index; the least wins.
    """
    b = site.b
    shape, out = x.type.sizes, largest.type.sizes
    numbers = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    if site.attr("storage_order", 0):
        planes = numbers.reshape(*shape[:2], *reversed(shape[2:]))
        numbers = planes.transpose(0, 1, *reversed(range(2, len(shape))))
    index = b.literal(np.ascontiguousarray(numbers))
    none = b.constant(np.iinfo(np.int64).max, dtypes.i64)
    low_value = -np.inf if x.type.dtype.is_float else np.iinfo(x.type.dtype.numpy).min
    fill = b.constant(low_value, x.type.dtype)
    low, high = zip(*((0, 0), (0, 0), *((lo, max(hi, 0)) for lo, hi in windows.reach)), strict=True)
    rank = len(shape)
    padded = b.emit("pad", x, fill, low=low, high=high, interior=(0,) * rank)
    padded_index = b.emit("pad", index, none, low=low, high=high, interior=(0,) * rank)
    best = b.full(out, np.iinfo(np.int64).max, dtypes.i64)
    strides = (1, 1, *windows.strides)
    for offset in np.ndindex(*windows.window):
        starts = (0, 0, *(o * d for o, d in zip(offset, windows.dilations, strict=True)))
        limits = tuple(s + (n - 1) * t + 1 for s, n, t in zip(starts, out, strides, strict=True))
        part = b.emit("slice", padded, starts=starts, limits=limits, strides=strides)
        place = b.emit("slice", padded_index, starts=starts, limits=limits, strides=strides)
        best = b.emit("select", b.emit("eq", part, largest), b.emit("min", best, place), best)
    return best


@handles("AveragePool")
def average_pool(site: Site) -> Value:
    b, x = site.b, site[0]
    windows = Windows(site, x)
    sums = windows.reduce("reduce_window_sum", x)
    counts = _counts(windows, bool(site.attr("count_include_pad", 0)), sums.type.sizes[2:])
    if (counts == counts.flat[0]).all():
        return b.binary("div", sums, float(counts.flat[0]))
    spread = b.literal(counts.astype(x.type.dtype.numpy))
    dims = tuple(range(2, x.type.rank))
    return b.emit("div", sums, b.emit("broadcast_in_dim", spread, shape=sums.type.shape, broadcast_dims=dims))


def _counts(windows: Windows, include_padding: bool, out: tuple[int, ...]) -> np.ndarray:
    """How many elements each window averages: those of the data, or also those of the declared padding."""
    total = np.ones((), np.float64)
    for axis, count in enumerate(out):
        low, high = windows.padding[axis]
        size, first, last = windows.sizes[axis], 0, windows.sizes[axis]
        if include_padding:
            first, last = -low, size + high
        starts = np.arange(count)[:, None] * windows.strides[axis] - low
        places = starts + np.arange(windows.window[axis])[None, :] * windows.dilations[axis]
        inside = ((places >= first) & (places < last)).sum(axis=1)
        total = np.multiply.outer(total, inside)
    return np.asarray(total)


@handles("LpPool")
def lp_pool(site: Site) -> Value:
    b, x = site.b, site[0]
    order = site.attr("p", 2)
    powers = b.binary("pow", b.emit("abs", x), float(order))
    return b.binary("pow", Windows(site, x).reduce("reduce_window_sum", powers), 1.0 / order)


@handles("GlobalAveragePool")
def global_average_pool(site: Site) -> Value:
    x = site[0]
    axes = tuple(range(2, x.type.rank))
    return kept(site, average(site, x, axes), x, axes)


@handles("GlobalMaxPool")
def global_max_pool(site: Site) -> Value:
    x = site[0]
    axes = tuple(range(2, x.type.rank))
    return kept(site, site.b.emit("reduce_max", x, dimensions=axes), x, axes)


@handles("GlobalLpPool")
def global_lp_pool(site: Site) -> Value:
    b, x = site.b, site[0]
    axes, order = tuple(range(2, x.type.rank)), site.attr("p", 2)
    powers = b.binary("pow", b.emit("abs", x), float(order))
    return kept(site, b.binary("pow", total(site, powers, axes), 1.0 / order), x, axes)


@handles("MaxUnpool")
def max_unpool(site: Site) -> Value:
    """Scatters pooled values back to where MaxPool took them from; everything else is zero."""
    b, x, indices = site.b, site[0], site[1]
    window = tuple(site.attr("kernel_shape"))
    count = len(window)
    strides = spatial(site, "strides", count)
    pads = site.attr("pads", (0,) * (2 * count))
    natural = tuple(
        (n - 1) * s + k - pads[i] - pads[i + count]
        for i, (n, s, k) in enumerate(zip(x.type.sizes[2:], strides, window, strict=True))
    )
    inferred = (*x.type.sizes[:2], *natural)
    given = site.maybe_ints(2, "output shape")
    # Indices are numbered in the inferred shape; a larger output_shape only adds room at the end.
    flat = b.full((math.prod(inferred),), 0, x.type.dtype)
    places = b.emit("reshape", indices, shape=(indices.type.elements, 1))
    updates = b.emit("reshape", x, shape=(x.type.elements,))
    filled = b.emit(
        "scatter",
        flat,
        places,
        updates,
        update_window_dims=(),
        inserted_window_dims=(0,),
        scatter_dims_to_operand_dims=(0,),
        combiner="set",
    )
    result = b.emit("reshape", filled, shape=inferred)
    if given is None or given == inferred:
        return result
    high = tuple(g - n for g, n in zip(given, inferred, strict=True))
    zero = b.constant(0, x.type.dtype)
    return b.emit("pad", result, zero, low=(0,) * len(high), high=high, interior=(0,) * len(high))
