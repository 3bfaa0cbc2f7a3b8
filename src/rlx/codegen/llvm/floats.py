"""Float arithmetic, comparisons and rounding, on f32 and f64 lanes; narrower floats have been widened to f32.

Exact operations and those rounded once by the instruction are here; elementary functions are in `elementary`.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from rlx.codegen.llvm.elementary import elementary
from rlx.codegen.llvm.library import libm
from rlx.codegen.llvm.types import constant, int_type, like
from rlx.codegen.llvm.values import ValueEmitter

_PLAIN = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_COMPARE = {"eq": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def compare(f: ValueEmitter, op: str, a: ir.Value, b: ir.Value) -> ir.Value:
    """i1 lanes; only `ne` holds for NaN."""
    if op == "ne":
        return f.builder.fcmp_unordered("!=", a, b)
    return f.builder.fcmp_ordered(_COMPARE[op], a, b)


def floating(f: ValueEmitter, op: str, values: Sequence[ir.Value]) -> ir.Value | None:
    """An operation on f32 or f64; None where there is none of this name."""
    b = f.builder
    if op in _PLAIN:
        return getattr(b, _PLAIN[op])(*values)
    x = values[0]
    match op:
        case "neg":
            return b.fneg(x)
        case "abs":
            return f.fabs(x)
        case "max":
            return f.maximum(*values)
        case "min":
            return f.minimum(*values)
        case "clamp":
            return f.minimum(f.maximum(values[1], values[0]), values[2])
        case "sqrt":
            return f.intrinsic("sqrt", x)
        case "rsqrt":
            return b.fdiv(constant(x.type, 1.0), f.intrinsic("sqrt", x))
        case "floor":
            return f.floor(x)
        case "ceil":
            return f.ceil(x)
        case "round":
            return f.round_even(x)
        case "rem":
            return libm(f, "fmod", values)
        case "sign":
            unit = f.copysign(constant(x.type, 1.0), x)
            return b.select(b.fcmp_unordered("==", x, constant(x.type, 0.0)), x, unit)
        case "is_finite":
            return b.fcmp_ordered("<", f.fabs(x), constant(x.type, float("inf")))
    return elementary(f, op, list(values))


def next_after(f: ValueEmitter, x: ir.Value, y: ir.Value, bits: int, infinity: int) -> ir.Value:
    """The neighbour of x towards y; operands and result are the bits of floats of any format with a sign bit on top.

    infinity: the bits of the largest magnitude that is a number; larger ones are NaN.
    """
    b, type_ = f.builder, like(int_type(bits), x.type)
    zero, one = constant(type_, 0), constant(type_, 1)
    low = constant(type_, (1 << (bits - 1)) - 1)
    sign = constant(type_, -(1 << (bits - 1)))
    size_x, size_y = b.and_(x, low), b.and_(y, low)
    # Keys order as the numbers do; both zeros have key 0.
    key_x = b.select(b.icmp_signed("<", x, zero), b.neg(size_x), size_x)
    key_y = b.select(b.icmp_signed("<", y, zero), b.neg(size_y), size_y)
    outward = b.xor(b.icmp_signed(">", key_y, key_x), b.icmp_signed("<", x, zero))
    stepped = b.select(outward, b.add(x, one), b.sub(x, one))
    least = b.or_(b.and_(y, sign), one)
    moved = b.select(b.icmp_unsigned("==", size_x, zero), least, stepped)
    result = b.select(b.icmp_unsigned("==", key_x, key_y), y, moved)
    limit = constant(type_, infinity)
    nan = b.or_(b.icmp_unsigned(">", size_x, limit), b.icmp_unsigned(">", size_y, limit))
    return b.select(nan, low, result)
