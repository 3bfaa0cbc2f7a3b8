"""Normalisations and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

from rlx.frontends.onnx.reduce import average, kept, total
from rlx.frontends.onnx.shape import reshaped
from rlx.frontends.onnx.site import Site, handles
from rlx.frontends.onnx.tensors import dtype_of
from rlx.ir import dtypes
from rlx.ir.graph import Value


def along(site: Site, rule: Callable[[Value, int], Value]) -> Value:
    """Apply `rule` along the node's axis; before opset 13 (`flatten`) along all axes from it on, as one."""
    x = site[0]
    axis = site.axis("axis", -1, x.type.rank)
    if not site.attr("flatten", False) or axis == x.type.rank - 1:
        return rule(x, axis)
    sizes = x.type.sizes
    flat = reshaped(site, x, (math.prod(sizes[:axis]), math.prod(sizes[axis:])))
    return reshaped(site, rule(flat, 1), sizes)


@handles("Softmax")
def softmax(site: Site) -> Value:
    return along(site, lambda x, axis: site.b.emit("softmax", x, axis=axis))


@handles("LogSoftmax")
def log_softmax(site: Site) -> Value:
    return along(site, lambda x, axis: site.b.emit("log_softmax", x, axis=axis))


@handles("Hardmax")
def hardmax(site: Site) -> Value:
    def rule(x: Value, axis: int) -> Value:
        b = site.b
        first = b.emit("argmax", x, dimension=axis, dtype=dtypes.i32)
        dims = tuple(a for a in range(x.type.rank) if a != axis)
        spread = b.emit("broadcast_in_dim", first, shape=x.type.shape, broadcast_dims=dims)
        return b.convert(b.emit("eq", b.iota(x.type.shape, axis, dtypes.i32), spread), x.type.dtype)

    return along(site, rule)


@handles("BatchNormalization")
def batch_norm(site: Site) -> list[Value]:
    b, x, epsilon = site.b, site[0], site.attr("epsilon", 1e-5)
    if not site.attr("training_mode", 0):
        operands = (x, *(b.convert(site[i], x.type.dtype) for i in range(1, 5)))
        return [b.emit("batch_norm", *operands, epsilon=epsilon, axis=1)]
    axes = tuple(a for a in range(x.type.rank) if a != 1)
    mean = average(site, x, axes)
    centred = b.emit("sub", x, b.emit("broadcast_in_dim", mean, shape=x.type.shape, broadcast_dims=(1,)))
    variance = average(site, b.emit("mul", centred, centred), axes)
    stats = [b.convert(v, x.type.dtype) for v in (site[1], site[2], mean, variance)]
    results = [b.emit("batch_norm", x, *stats, epsilon=epsilon, axis=1)]
    momentum = site.attr("momentum", 0.9)
    for index, now in ((3, mean), (4, variance)):
        old = site[index]
        now = b.convert(now, old.type.dtype)
        results.append(b.emit("add", b.binary("mul", old, momentum), b.binary("mul", now, 1 - momentum)))
    return results


@handles("InstanceNormalization")
def instance_norm(site: Site) -> Value:
    return site.b.emit("instance_norm", site[0], site[1], site[2], epsilon=site.attr("epsilon", 1e-5))


@handles("GroupNormalization")
def group_norm(site: Site) -> Value:
    b, x = site.b, site[0]
    groups, channels = site.attr("num_groups"), x.type.sizes[1]
    scale, bias = site[1], site[2]
    if site.attr("per_group", False):
        spread = [b.emit("broadcast_in_dim", v, shape=(groups, channels // groups), broadcast_dims=(0,))
                  for v in (scale, bias)]  # fmt: skip
        scale, bias = (reshaped(site, v, (channels,)) for v in spread)
    return b.emit("group_norm", x, scale, bias, groups=groups, epsilon=site.attr("epsilon", 1e-5))


@handles("LayerNormalization")
def layer_norm(site: Site) -> list[Value]:
    b, x, scale = site.b, site[0], site[1]
    axis = site.axis("axis", -1, x.type.rank)
    epsilon = site.attr("epsilon", 1e-5)
    bias = site.get(2)
    tail = x.type.sizes[axis:]
    scale = b.broadcast(scale, tail)
    bias = b.full(tail, 0, x.type.dtype) if bias is None else b.broadcast(bias, tail)
    results = [b.emit("layer_norm", x, scale, bias, axis=axis, epsilon=epsilon)]
    if site.wants(1) or site.wants(2):
        axes = tuple(range(axis, x.type.rank))
        wide = b.convert(x, dtype_of(site.attr("stash_type", 1), what="stash_type"))
        mean = kept(site, average(site, wide, axes), x, axes)
        centred = b.binary("sub", wide, mean)
        variance = kept(site, average(site, b.emit("mul", centred, centred), axes), x, axes)
        results += [mean, b.emit("rsqrt", b.binary("add", variance, epsilon))]
    return results


@handles("RMSNormalization")
def rms_norm(site: Site) -> Value:
    b, x = site.b, site[0]
    axis = site.axis("axis", -1, x.type.rank)
    scale = b.convert(b.broadcast(site[1], x.type.sizes[axis:]), x.type.dtype)
    return b.emit("rms_norm", x, scale, axis=axis, epsilon=site.attr("epsilon", 1e-5))


@handles("MeanVarianceNormalization")
def mean_variance_norm(site: Site) -> Value:
    b, x = site.b, site[0]
    axes = tuple(sorted(site.normalize(a, x.type.rank) for a in site.attr("axes", (0, 2, 3))))
    mean = kept(site, average(site, x, axes), x, axes)
    square = kept(site, average(site, b.emit("mul", x, x), axes), x, axes)
    deviation = b.emit("sqrt", b.emit("sub", square, b.emit("mul", mean, mean)))
    return b.binary("div", b.binary("sub", x, mean), b.binary("add", deviation, 1e-9))


@handles("LpNormalization")
def lp_norm(site: Site) -> Value:
    b, x = site.b, site[0]
    axis = site.axis("axis", -1, x.type.rank)
    order = site.attr("p", 2)
    if order not in (1, 2):
        raise site.unsupported(f"p={order}", "supported: 1, 2")
    if order == 1:
        norm = total(site, b.emit("abs", x), (axis,))
    else:
        norm = b.emit("sqrt", total(site, b.emit("mul", x, x), (axis,)))
    norm = b.broadcast(kept(site, norm, x, (axis,)), x.type.shape)
    # A zero row stays zero.
    zero = b.full(x.type.shape, 0, x.type.dtype)
    return b.emit("select", b.emit("eq", norm, zero), zero, b.emit("div", x, norm))


@handles("LRN")
def lrn(site: Site) -> Value:
    """x / (bias + alpha / size * sum of squares over `size` channels) ** beta."""
    b, x = site.b, site[0]
    size = site.attr("size")
    alpha, beta, bias = site.attr("alpha", 1e-4), site.attr("beta", 0.75), site.attr("bias", 1.0)
    ones = (1,) * x.type.rank
    padding = [(0, 0)] * x.type.rank
    padding[1] = ((size - 1) // 2, size // 2)
    sums = b.emit(
        "reduce_window_sum",
        b.emit("mul", x, x),
        window=(1, size, *ones[2:]),
        strides=ones,
        padding=tuple(padding),
        base_dilation=ones,
        window_dilation=ones,
    )
    scale = b.binary("add", b.binary("mul", sums, alpha / size), bias)
    return b.emit("div", x, b.binary("pow", scale, beta))
