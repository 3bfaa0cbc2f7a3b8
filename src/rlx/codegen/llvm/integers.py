"""Integer and bool arithmetic: everything wraps and nothing is undefined.

x / 0 is all ones and x rem 0 is x; the least integer divided by -1 is itself. Shift amounts are read as unsigned, and
shift everything out from the width on. i4 and u4 compute in bytes and are wrapped to four bits after each operation.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from rlx.codegen.llvm.library import shared
from rlx.codegen.llvm.memory import MemoryEmitter
from rlx.codegen.llvm.types import I1, bits_of, constant
from rlx.codegen.llvm.values import ValueEmitter
from rlx.ir.dtypes import DType

_PLAIN = {"add": "add", "sub": "sub", "mul": "mul", "and": "and_", "or": "or_", "xor": "xor"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def compare(f: ValueEmitter, op: str, a: ir.Value, b: ir.Value, dtype: DType) -> ir.Value:
    """i1 lanes of a comparison of integers or bools."""
    if dtype.kind == "int":
        return f.builder.icmp_signed(_COMPARE[op], a, b)
    return f.builder.icmp_unsigned(_COMPARE[op], a, b)


def boolean(f: ValueEmitter, op: str, values: Sequence[ir.Value]) -> ir.Value | None:
    """An operation on bools; None where there is none of this name."""
    if op in ("and", "min"):
        return f.builder.and_(*values)
    if op in ("or", "max"):
        return f.builder.or_(*values)
    if op == "xor":
        return f.builder.xor(*values)
    return f.not_(values[0]) if op == "not" else None


def integer(f: MemoryEmitter, op: str, values: Sequence[ir.Value], dtype: DType) -> ir.Value | None:
    """An operation on integers; None where there is none of this name."""
    result = _integer(f, op, values, dtype)
    if result is not None and dtype.bits == 4 and op not in ("and", "or", "xor", "max", "min", "rem", "clamp"):
        return f.wrap_nibble(result, dtype)
    return result


def _integer(f: MemoryEmitter, op: str, values: Sequence[ir.Value], dtype: DType) -> ir.Value | None:
    b, type_ = f.builder, values[0].type
    signed = dtype.kind == "int"
    if op in _PLAIN:
        return getattr(b, _PLAIN[op])(*values)
    match op:
        case "neg":
            return b.neg(values[0])
        case "not":
            return b.not_(values[0])
        case "abs":
            return maximum(f, values[0], b.neg(values[0]), dtype) if signed else values[0]
        case "sign":
            positive = b.zext(compare(f, "gt", values[0], constant(type_, 0), dtype), type_)
            if not signed:
                return positive
            return b.or_(positive, b.ashr(values[0], constant(type_, bits_of(type_) - 1)))
        case "max":
            return maximum(f, values[0], values[1], dtype)
        case "min":
            return minimum(f, values[0], values[1], dtype)
        case "clamp":
            return minimum(f, maximum(f, values[1], values[0], dtype), values[2], dtype)
        case "div" | "rem":
            return _divide(f, op, values[0], values[1], dtype)
        case "pow":
            return _power(f, values[0], values[1], dtype)
        case "shift_left" | "shift_right_logical" | "shift_right_arithmetic":
            return _shift(f, op, values[0], values[1], dtype)
        case "popcnt":
            return f.intrinsic("ctpop", _as_unsigned(f, values[0], dtype))
        case "clz":
            bits = _as_unsigned(f, values[0], dtype)
            count = f.intrinsic("ctlz", bits, ir.Constant(I1, 0))
            return b.sub(count, constant(type_, 4)) if dtype.bits == 4 else count
    return None


def maximum(f: ValueEmitter, a: ir.Value, b: ir.Value, dtype: DType) -> ir.Value:
    return f.intrinsic("smax" if dtype.kind == "int" else "umax", a, b)


def minimum(f: ValueEmitter, a: ir.Value, b: ir.Value, dtype: DType) -> ir.Value:
    return f.intrinsic("smin" if dtype.kind == "int" else "umin", a, b)


def _as_unsigned(f: ValueEmitter, value: ir.Value, dtype: DType) -> ir.Value:
    return f.builder.and_(value, constant(value.type, 15)) if dtype.bits == 4 else value


def _divide(f: ValueEmitter, op: str, x: ir.Value, y: ir.Value, dtype: DType) -> ir.Value:
    b, type_ = f.builder, x.type
    zero, one = constant(type_, 0), constant(type_, 1)
    if type(y) is ir.Constant and not isinstance(type_, ir.VectorType) and y.constant not in (0, -1):
        if dtype.kind == "uint":
            return b.udiv(x, y) if op == "div" else b.urem(x, y)
        return b.sdiv(x, y) if op == "div" else b.srem(x, y)
    by_zero = b.icmp_unsigned("==", y, zero)
    if dtype.kind == "uint":
        safe = b.select(by_zero, one, y)
        if op == "rem":
            return b.select(by_zero, x, b.urem(x, safe))
        return b.select(by_zero, constant(type_, -1), b.udiv(x, safe))
    by_minus_one = b.icmp_unsigned("==", y, constant(type_, -1))
    safe = b.select(b.or_(by_zero, by_minus_one), one, y)
    if op == "rem":
        return b.select(by_zero, x, b.select(by_minus_one, zero, b.srem(x, safe)))
    return b.select(by_zero, constant(type_, -1), b.select(by_minus_one, b.neg(x), b.sdiv(x, safe)))


def _shift(f: ValueEmitter, op: str, x: ir.Value, amount: ir.Value, dtype: DType) -> ir.Value:
    b, type_ = f.builder, x.type
    bits = dtype.bits
    by = _as_unsigned(f, amount, dtype)
    outside = b.icmp_unsigned(">=", by, constant(type_, bits))
    if op == "shift_right_arithmetic" and dtype.kind == "int":
        return b.ashr(x, b.select(outside, constant(type_, bits - 1), by))
    safe = b.select(outside, constant(type_, 0), by)
    if op == "shift_left":
        shifted = b.shl(x, safe)
    else:
        shifted = b.lshr(_as_unsigned(f, x, dtype), safe)
    return b.select(outside, constant(type_, 0), shifted)


def _power(f: ValueEmitter, x: ir.Value, y: ir.Value, dtype: DType) -> ir.Value:
    """Square and multiply over the exponent's bits; a negative exponent leaves something only for 1 and -1."""
    steps = dtype.bits - (dtype.kind == "int")

    def body(inner: ValueEmitter, base: ir.Value, exponent: ir.Value) -> ir.Value:
        b, type_ = inner.builder, base.type
        zero, one, minus = constant(type_, 0), constant(type_, 1), constant(type_, -1)
        odd = b.icmp_unsigned("!=", b.and_(exponent, one), zero)
        entry, again, done = b.block, b.append_basic_block("again"), b.append_basic_block("done")
        b.branch(again)
        b.position_at_end(again)
        step, result = b.phi(ir.IntType(32)), b.phi(type_)
        square, left = b.phi(type_), b.phi(type_)
        used = b.icmp_unsigned("!=", b.and_(left, one), zero)
        next_result = b.select(used, b.mul(result, square), result)
        next_step = b.add(step, ir.IntType(32)(1))
        for phi, first, later in (
            (step, ir.IntType(32)(0), next_step),
            (result, one, next_result),
            (square, base, b.mul(square, square)),
            (left, exponent, b.lshr(left, one)),
        ):
            phi.add_incoming(first, entry)
            phi.add_incoming(later, again)
        b.cbranch(b.icmp_unsigned("<", next_step, ir.IntType(32)(steps)), again, done)
        b.position_at_end(done)
        if dtype.kind == "uint":
            return next_result
        alternating = b.select(odd, minus, one)
        inverse = b.select(
            b.icmp_signed("==", base, one),
            one,
            b.select(b.icmp_signed("==", base, minus), alternating, zero),
        )
        return b.select(b.icmp_signed("<", exponent, zero), inverse, next_result)

    return shared(f, f"pow.{dtype.name}", [x, y], body, inline=False)
