"""Elementwise ops: arithmetic, comparison, logic, activations, casts."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from rlx.frontends.onnx.site import Site, handles
from rlx.frontends.onnx.tensors import dtype_of
from rlx.ir import dtypes
from rlx.ir.dtypes import DType
from rlx.ir.graph import Value

_UNARY = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh", "Atan": "atan", "Atanh": "atanh",
    "BitwiseNot": "not", "Ceil": "ceil", "Cos": "cos", "Cosh": "cosh", "Erf": "erf", "Exp": "exp", "Floor": "floor",
    "Log": "log", "Mish": "mish", "Neg": "neg", "Not": "not", "Relu": "relu", "Round": "round", "Sigmoid": "logistic",
    "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Softplus": "softplus", "Softsign": "softsign", "Sqrt": "sqrt",
    "Tan": "tan", "Tanh": "tanh", "HardSwish": "hard_swish",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "And": "and", "Or": "or", "Xor": "xor",
    "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor", "Equal": "eq", "Less": "lt", "Greater": "gt",
    "LessOrEqual": "le", "GreaterOrEqual": "ge",
}  # fmt: skip
#: ONNX op -> composite and its attributes with ONNX's defaults.
_ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "Celu": ("celu", {"alpha": 1.0}),
    "Elu": ("elu", {"alpha": 1.0}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "Selu": ("selu", {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
}


@handles(*_UNARY)
def unary(site: Site) -> Value:
    return site.b.emit(_UNARY[site.node.op], site[0])


@handles(*_ACTIVATIONS)
def activation(site: Site) -> Value:
    name, defaults = _ACTIVATIONS[site.node.op]
    attrs: dict[str, Any] = {k: float(site.attr(k, default)) for k, default in defaults.items()}
    return site.b.emit(name, site[0], **attrs)


@handles("Gelu")
def gelu(site: Site) -> Value:
    return site.b.emit("gelu", site[0], approximate=site.choice("approximate", "none", ("none", "tanh")))


@handles("Swish")
def swish(site: Site) -> Value:
    x, alpha = site[0], site.attr("alpha", 1.0)
    if alpha == 1.0:
        return site.b.emit("silu", x)
    return site.b.emit("mul", x, site.b.emit("logistic", site.b.binary("mul", x, alpha)))


@handles("SwiGLU")
def swiglu(site: Site) -> Value:
    return site.b.emit("mul", swish(site), site[1])


@handles("Reciprocal")
def reciprocal(site: Site) -> Value:
    x = site[0]
    return site.b.emit("div", site.b.full(x.type.shape, 1.0, x.type.dtype), x)


@handles("Shrink")
def shrink(site: Site) -> Value:
    b, x = site.b, site[0]
    bias, bound = site.attr("bias", 0.0), site.attr("lambd", 0.5)
    dtype = x.type.dtype
    inner = b.full(x.type.shape, 0, dtype)
    below = b.emit("select", b.binary("lt", x, _as(dtype, -bound)), b.binary("add", x, _as(dtype, bias)), inner)
    return b.emit("select", b.binary("gt", x, _as(dtype, bound)), b.binary("sub", x, _as(dtype, bias)), below)


def _as(dtype: DType, number: float) -> np.generic:
    return dtype.numpy.type(number)


@handles("PRelu")
def prelu(site: Site) -> Value:
    """A slope broadcasts as usual; before opset 7 a vector had one for each channel (`by_channel`)."""
    x, slope = site[0], site[1]
    if site.attr("by_channel", False) and slope.type.rank == 1 and slope.type.elements > 1:
        slope = site.b.emit("broadcast_in_dim", slope, shape=x.type.shape, broadcast_dims=(1,))
    return site.b.emit("prelu", x, site.b.broadcast(slope, x.type.shape))


@handles(*_BINARY)
def binary(site: Site) -> Value:
    x, y = site[0], _aligned(site)
    return site.b.binary(_BINARY[site.node.op], x, y)


def _aligned(site: Site) -> Value:
    """The second operand; before opset 7 `axis` said where its dimensions stand in the first's."""
    x, y = site[0], site[1]
    axis = site.attr("axis", None)
    if not site.attr("legacy_broadcast", False) or axis is None:
        return y
    trailing = x.type.rank - site.normalize(axis, x.type.rank) - y.type.rank
    return site.b.emit("reshape", y, shape=(*y.type.shape, *(1,) * max(trailing, 0)))


@handles("Pow")
def power(site: Site) -> Value:
    """x ** y in x's dtype; small whole exponents are products, which is exact for them and faster."""
    b, x, y = site.b, site[0], _aligned(site)
    known = b.known(y)
    if known is not None and known.size == 1 and y.type.rank <= x.type.rank and x.type.dtype.is_float:
        exponent = float(known.reshape(-1)[0])
        if exponent == 1.0:
            return x
        if exponent == 2.0:
            return b.emit("mul", x, x)
        if exponent == 0.5:
            return b.emit("sqrt", x)
    dtype = x.type.dtype
    if dtype.is_integer and y.type.dtype.is_float:
        wide = b.binary("pow", b.convert(x, dtypes.f64), b.convert(y, dtypes.f64))
        return b.convert(wide, dtype)
    return b.binary("pow", x, b.convert(y, dtype))


@handles("Mod")
def mod(site: Site) -> Value:
    """fmod=1 has the dividend's sign (rem), else the divisor's."""
    b = site.b
    x, y = b.lift(site[0], site[1])
    rest = b.emit("rem", x, y)
    if site.attr("fmod", 0) or x.type.dtype.kind == "uint":
        return rest
    zero = b.full(x.type.shape, 0, x.type.dtype)
    signs_differ = b.emit("ne", b.emit("lt", rest, zero), b.emit("lt", y, zero))
    adjust = b.emit("and", signs_differ, b.emit("ne", rest, zero))
    return b.emit("select", adjust, b.emit("add", rest, y), rest)


@handles("BitShift")
def bit_shift(site: Site) -> Value:
    """Right shifts of signed integers keep the sign; a negative count shifts everything out."""
    b = site.b
    direction = site.choice("direction", "", ("LEFT", "RIGHT"))
    x, count = b.lift(site[0], site[1])
    signed = x.type.dtype.kind == "int"
    if signed:
        out = b.full(x.type.shape, x.type.dtype.bits, x.type.dtype)
        count = b.emit("select", b.binary("lt", count, 0), out, count)
    right = "shift_right_arithmetic" if signed else "shift_right_logical"
    return b.emit("shift_left" if direction == "LEFT" else right, x, count)


@handles("Max", "Min", "Sum")
def variadic(site: Site) -> Value:
    op = {"Max": "max", "Min": "min", "Sum": "add"}[site.node.op]
    return reduce(lambda x, y: site.b.binary(op, x, y), site.operands())


@handles("Mean")
def mean(site: Site) -> Value:
    operands = site.operands()
    total = reduce(lambda x, y: site.b.binary("add", x, y), operands)
    return site.b.binary("div", total, len(operands))


@handles("Where")
def where(site: Site) -> Value:
    return site.b.emit("select", *site.b.lift(site[0], site[1], site[2]))


@handles("Clip")
def clip(site: Site) -> Value:
    b, x = site.b, site[0]
    dtype, shape = x.type.dtype, x.type.shape
    low, high = (None if v is None else b.convert(v, dtype) for v in (site.get(1), site.get(2)))
    if low is not None and high is not None:
        return b.emit("clamp", b.broadcast(low, shape), x, b.broadcast(high, shape))
    if low is not None:
        return b.emit("max", x, b.broadcast(low, shape))
    return x if high is None else b.emit("min", x, b.broadcast(high, shape))


@handles("IsNaN")
def is_nan(site: Site) -> Value:
    return site.b.emit("ne", site[0], site[0])


@handles("IsInf")
def is_inf(site: Site) -> Value:
    b, x = site.b, site[0]
    found = b.full(x.type.shape, False, dtypes.bool_)
    if site.attr("detect_positive", 1):
        found = b.emit("or", found, b.binary("eq", x, np.inf))
    if site.attr("detect_negative", 1):
        found = b.emit("or", found, b.binary("eq", x, -np.inf))
    return found


@handles("Identity")
def identity(site: Site) -> Value:
    return site[0]


@handles("Dropout")
def dropout(site: Site) -> list[Value]:
    """The identity at inference; the mask keeps everything."""
    x, training = site[0], site.maybe_array(2, "training mode")
    ratio = site.maybe_array(1, "ratio")
    if training is not None and bool(training) and (ratio is None or float(ratio) != 0.0):
        raise site.unsupported("training_mode=true", "RLX imports models for inference")
    return [x, site.b.full(x.type.shape, True, dtypes.bool_)]


@handles("Cast", "CastLike")
def cast(site: Site) -> Value:
    if site.node.op == "CastLike":
        return site.b.convert(site[0], site[1].type.dtype)
    return site.b.convert(site[0], dtype_of(site.attr("to"), what="Cast"))


@handles("BitCast")
def bit_cast(site: Site) -> Value:
    """Equal widths; a bool is the byte 0 or 1."""
    x, dtype = site[0], dtype_of(site.attr("to"), what="BitCast")
    if dtypes.bool_ in (x.type.dtype, dtype):
        return site.b.convert(x, dtype)
    return site.b.emit("bitcast_convert", x, dtype=dtype)
