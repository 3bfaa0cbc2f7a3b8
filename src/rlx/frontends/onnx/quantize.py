"""Quantisation, and products of quantised operands.

Integer products accumulate in i32; scaling happens in f32, rounding to even, and the cast to the narrow type saturates,
as the `convert` primitive does.
"""

from __future__ import annotations

import math

from rlx.frontends.onnx.linear import add_channels, convolution, product
from rlx.frontends.onnx.shape import reshaped, sliced
from rlx.frontends.onnx.site import Site, handles
from rlx.frontends.onnx.tensors import dtype_of
from rlx.ir import dtypes
from rlx.ir.dtypes import DType
from rlx.ir.graph import Value

_FLOAT8 = (dtypes.f8e4m3, dtypes.f8e5m2)


def _spread(site: Site, parameter: Value, x: Value) -> Value:
    """A scale or zero point in `x`'s shape: one for all, one along `axis`, or one for each block along `axis`."""
    b, sizes = site.b, x.type.sizes
    if parameter.type.elements == 1:
        return b.broadcast(reshaped(site, parameter, ()), sizes)
    axis = site.axis("axis", 1, x.type.rank)
    if parameter.type.rank == 1:
        return b.emit("broadcast_in_dim", parameter, shape=sizes, broadcast_dims=(axis,))
    blocks = parameter.type.sizes[axis]
    size = site.attr("block_size", 0) or math.ceil(sizes[axis] / blocks)
    shape = (*parameter.type.sizes[: axis + 1], size, *parameter.type.sizes[axis + 1 :])
    dims = tuple(d for d in range(len(shape)) if d != axis + 1)
    repeated = b.emit("broadcast_in_dim", parameter, shape=shape, broadcast_dims=dims)
    merged = (*sizes[:axis], blocks * size, *sizes[axis + 1 :])
    return sliced(site, reshaped(site, repeated, merged), axis, 0, sizes[axis])


def _narrow(site: Site, x: Value, zero: Value | None, dtype: DType) -> Value:
    """round(x) + zero, saturated to `dtype`; `zero` has x's shape."""
    b = site.b
    if dtype in _FLOAT8:
        if site.attr("saturate", 1):
            largest = 448.0 if dtype is dtypes.f8e4m3 else 57344.0
            low, high = (b.full(x.type.shape, bound, x.type.dtype) for bound in (-largest, largest))
            x = b.emit("clamp", low, x, high)
        return b.convert(x, dtype)
    rounded = b.emit("round", b.convert(x, dtypes.f32))
    if zero is not None:
        rounded = b.emit("add", rounded, b.convert(zero, dtypes.f32))
    return b.convert(rounded, dtype)


@handles("QuantizeLinear")
def quantize_linear(site: Site) -> Value:
    b, x, scale, zero = site.b, site[0], site[1], site.get(2)
    code = site.attr("output_dtype", 0)
    dtype = zero.type.dtype if zero is not None else dtype_of(code, what="output_dtype") if code else dtypes.u8
    precision = site.attr("precision", 0)
    wide = dtype_of(precision, what="precision") if precision else scale.type.dtype
    if not wide.is_float:
        wide = dtypes.f32
    ratio = b.emit("div", b.convert(x, wide), b.convert(_spread(site, scale, x), wide))
    return _narrow(site, ratio, None if zero is None else _spread(site, zero, x), dtype)


@handles("DequantizeLinear")
def dequantize_linear(site: Site) -> Value:
    b, x, scale, zero = site.b, site[0], site[1], site.get(2)
    code = site.attr("output_dtype", 0)
    dtype = dtype_of(code, what="output_dtype") if code else scale.type.dtype
    if x.type.dtype.is_integer:
        wide = b.convert(x, dtypes.i32)
        if zero is not None:
            wide = b.emit("sub", wide, b.convert(_spread(site, zero, x), dtypes.i32))
    else:
        wide = b.convert(x, dtypes.f32)
    real = b.emit("mul", b.convert(wide, dtypes.f32), b.convert(_spread(site, scale, x), dtypes.f32))
    return b.convert(real, dtype)


@handles("DynamicQuantizeLinear")
def dynamic_quantize_linear(site: Site) -> list[Value]:
    b, x = site.b, site[0]
    axes = tuple(range(x.type.rank))
    high = b.binary("max", b.emit("reduce_max", x, dimensions=axes), 0.0)
    low = b.binary("min", b.emit("reduce_min", x, dimensions=axes), 0.0)
    scale = b.binary("div", b.emit("sub", high, low), 255.0)
    # An operand of zeros has scale 0; any scale serves it.
    usable = b.emit("select", b.binary("eq", scale, 0.0), b.constant(1.0, dtypes.f32), scale)
    zero = b.convert(b.emit("round", b.emit("div", b.emit("neg", low), usable)), dtypes.u8)
    ratio = b.emit("div", x, b.broadcast(usable, x.type.shape))
    return [_narrow(site, ratio, b.broadcast(zero, x.type.shape), dtypes.u8), scale, zero]


# -- products ------------------------------------------------------------------------------------------------------


def _centred(site: Site, x: Value, zero: Value | None, along: int) -> Value:
    """`x` as i32 less its zero point; a zero point that is a vector runs along axis `along`."""
    b = site.b
    wide = b.convert(x, dtypes.i32)
    if zero is None:
        return wide
    return b.emit("sub", wide, _along(site, b.convert(zero, dtypes.i32), x, along))


def _along(site: Site, vector: Value, like: Value, axis: int) -> Value:
    b, shape = site.b, like.type.shape
    if vector.type.elements == 1:
        return b.broadcast(reshaped(site, vector, ()), shape)
    if vector.type.rank == 1:
        return b.emit("broadcast_in_dim", vector, shape=shape, broadcast_dims=(site.normalize(axis, len(shape)),))
    return b.broadcast(vector, shape)


@handles("MatMulInteger")
def matmul_integer(site: Site) -> Value:
    x = _centred(site, site[0], site.get(2), -2)
    y = _centred(site, site[1], site.get(3), -1)
    return product(site, x, y, dtypes.i32)


@handles("QLinearMatMul")
def qlinear_matmul(site: Site) -> Value:
    b = site.b
    x, y = _centred(site, site[0], site[2], -2), _centred(site, site[3], site[5], -1)
    sums = b.convert(product(site, x, y, dtypes.i32), dtypes.f32)
    scale_x, scale_y, scale = (b.convert(site[i], dtypes.f32) for i in (1, 4, 6))
    scaled = b.emit("mul", sums, _along(site, scale_x, sums, -2))
    scaled = b.emit("mul", scaled, _along(site, scale_y, sums, -1))
    scaled = b.emit("div", scaled, _along(site, scale, sums, -2))
    return _narrow(site, scaled, _along(site, site[7], sums, -2), site[7].type.dtype)


@handles("ConvInteger")
def conv_integer(site: Site) -> Value:
    return convolution(site, _centred(site, site[0], site.get(2), 1), _centred(site, site[1], site.get(3), 0))


@handles("QLinearConv")
def qlinear_conv(site: Site) -> Value:
    b = site.b
    x, w = _centred(site, site[0], site[2], 1), _centred(site, site[3], site[5], 0)
    sums = b.convert(add_channels(site, convolution(site, x, w), site.get(8)), dtypes.f32)
    scale_x, scale_w, scale = (b.convert(site[i], dtypes.f32) for i in (1, 4, 6))
    scaled = b.emit("mul", sums, _along(site, scale_x, sums, 1))
    scaled = b.emit("mul", scaled, _along(site, scale_w, sums, 1))
    scaled = b.emit("div", scaled, _along(site, scale, sums, 1))
    return _narrow(site, scaled, _along(site, site[7], sums, 1), site[7].type.dtype)
