"""Arithmetic that changes nothing: identities which hold bit for bit, for -0 and NaN too, or sharpen the result.

x + 0.0 is not x (for -0), so only x + -0.0 and x - 0.0 are; x * 1, x / 1 are. Dividing by a power of two is multiplying
by its exact reciprocal. pow(x, 2) is x * x, which rounds once; pow(x, 3) is x * x * x, within pow's own tolerance.
Nothing is reassociated, and no x / x or x - x is ever 1 or 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rlx.ir.dtypes import DType, f32, f64
from rlx.ir.graph import Node, Value
from rlx.passes.fold import splat_of
from rlx.passes.rewrite import Rewriter

#: Smallest and largest exponents of two whose reciprocal is a normal number too.
_EXACT_EXPONENTS = {"f16": 14, "bf16": 126, "f32": 126, "f64": 1022}


def _neutral(value: float, *, right_only: bool = False) -> Callable[[Rewriter, Node], Value | None]:
    def rule(b: Rewriter, node: Node) -> Value | None:
        x, y = node.inputs
        if _is(splat_of(b, y), value):
            return x
        if not right_only and _is(splat_of(b, x), value):
            return y
        return None

    return rule


def _is(scalar: np.ndarray | None, value: float) -> bool:
    """Whether `scalar` is `value`, its sign included where that can be told."""
    if scalar is None or scalar.dtype.kind == "c":
        return False
    number = float(scalar)
    return number == value and math.copysign(1.0, number) == math.copysign(1.0, value)


def _add(b: Rewriter, node: Node) -> Value | None:
    floating = node.output.type.dtype.is_float
    return _neutral(-0.0 if floating else 0.0)(b, node)


def _div(b: Rewriter, node: Node) -> Value | None:
    x, y = node.inputs
    scalar = splat_of(b, y)
    if _is(scalar, 1.0):
        return x
    dtype = node.output.type.dtype
    if scalar is None or dtype.name not in _EXACT_EXPONENTS:
        return None
    number = float(scalar)
    mantissa, exponent = math.frexp(number) if math.isfinite(number) else (0.0, 0)
    if abs(mantissa) != 0.5 or abs(exponent - 1) > _EXACT_EXPONENTS[dtype.name]:
        return None
    return b.emit("mul", x, b.full(x.type.shape, 1.0 / number, dtype))


def _mul(b: Rewriter, node: Node) -> Value | None:
    return _neutral(1.0)(b, node)


def _pow(b: Rewriter, node: Node) -> Value | None:
    x, y = node.inputs
    scalar = splat_of(b, y)
    if _is(scalar, 1.0):
        return x
    if not x.type.dtype.is_float:
        return None
    if _is(scalar, 2.0):
        return b.emit("mul", x, x)
    if _is(scalar, 3.0) and x.type.dtype in (f32, f64):
        return b.emit("mul", b.emit("mul", x, x), x)
    return None


def _idempotent(b: Rewriter, node: Node) -> Value | None:
    x, y = node.inputs
    return x if x is y else None


def _bits(absorbing_ones: bool) -> Callable[[Rewriter, Node], Value | None]:
    """and: ones are neutral; or: zeros are."""

    def rule(b: Rewriter, node: Node) -> Value | None:
        x, y = node.inputs
        if x is y:
            return x
        for one, other in ((x, y), (y, x)):
            scalar = splat_of(b, other)
            if scalar is not None and _all_bits(scalar, one.type.dtype) is absorbing_ones:
                return one
        return None

    return rule


def _all_bits(scalar: np.ndarray, dtype: DType) -> bool | None:
    """True for all ones, False for all zeros, None for anything else."""
    number = int(scalar)
    if number == 0:
        return False
    ones = {"bool": 1, "int": -1, "uint": (1 << dtype.bits) - 1}.get(dtype.kind)
    return True if number == ones else None


def _undone(b: Rewriter, node: Node) -> Value | None:
    """An op that undoes itself."""
    inner = b.producers.get(node.inputs[0])
    return inner.inputs[0] if inner is not None and inner.op == node.op else None


def _select(b: Rewriter, node: Node) -> Value | None:
    predicate, on_true, on_false = node.inputs
    if on_true is on_false:
        return on_true
    scalar = splat_of(b, predicate)
    if scalar is not None:
        return on_true if bool(scalar) else on_false
    inner = b.producers.get(predicate)
    if inner is not None and inner.op == "not":
        return b.emit("select", inner.inputs[0], on_false, on_true)
    return None


def _convert(b: Rewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    to = node.output.type.dtype
    if x.type.dtype is to:
        return x
    inner = b.producers.get(x)
    if inner is not None and inner.op == "convert":
        source = inner.inputs[0]
        if holds_all(x.type.dtype, source.type.dtype):
            return b.convert(source, to)
    return None


_FRACTION = {"f8e4m3": 3, "f8e5m2": 2, "f16": 10, "bf16": 7, "f32": 23, "f64": 52}
_EXPONENT = {"f8e4m3": 4, "f8e5m2": 5, "f16": 5, "bf16": 8, "f32": 8, "f64": 11}
_LARGEST = {"f8e4m3": 8, "f8e5m2": 15, "f16": 15, "bf16": 127, "f32": 127, "f64": 1023}


def holds_all(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is a value of `wide`, so that converting there and on is converting once."""
    if wide is narrow:
        return True
    if narrow.kind == "bool":
        return wide.kind != "bool"
    if narrow.is_integer:
        if wide.is_integer:
            more = 1 if narrow.kind == "uint" and wide.kind == "int" else 0
            return wide.bits >= narrow.bits + more and not (narrow.kind == "int" and wide.kind == "uint")
        if wide.is_float:
            digits = narrow.bits - (narrow.kind == "int")
            return _FRACTION[wide.name] + 1 >= digits and _LARGEST[wide.name] >= digits
        return False
    if narrow.is_float and wide.is_float:
        return _FRACTION[wide.name] >= _FRACTION[narrow.name] and _EXPONENT[wide.name] > _EXPONENT[narrow.name] - (
            wide.name != "f8e4m3"
        )
    return narrow.is_float and wide.is_complex and wide.bits >= 2 * narrow.bits


RULES: dict[str, Callable[[Rewriter, Node], Value | None]] = {
    "add": _add,
    "sub": _neutral(0.0, right_only=True),
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "max": _idempotent,
    "min": _idempotent,
    "and": _bits(True),
    "or": _bits(False),
    "xor": lambda b, node: _neutral(0.0)(b, node) if node.output.type.dtype.kind != "bool" else None,
    "shift_left": _neutral(0.0, right_only=True),
    "shift_right_logical": _neutral(0.0, right_only=True),
    "shift_right_arithmetic": _neutral(0.0, right_only=True),
    "not": _undone,
    "neg": _undone,
    "conj": _undone,
    "select": _select,
    "convert": _convert,
}
