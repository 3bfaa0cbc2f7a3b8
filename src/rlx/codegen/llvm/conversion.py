"""Conversions between dtypes, by value and by bits.

Floats to integers truncate, saturate, and turn NaN into 0; integers wrap; anything to bool asks whether it is not zero;
complex to real keeps the real part. Results in a float dtype are rounded once, to nearest even.
"""

from __future__ import annotations

from llvmlite import ir

from rlx.codegen.llvm.memory import MemoryEmitter
from rlx.codegen.llvm.small_floats import narrow, wide_integer_to_f64, widen
from rlx.codegen.llvm.types import (
    F32,
    F64,
    Complex,
    Value,
    bits_of,
    component,
    constant,
    int_type,
    is_small_float,
    like,
    register_type,
    suffix,
)
from rlx.ir.dtypes import DType


def convert(f: MemoryEmitter, value: Value, source: DType, to: DType) -> Value:
    """`value` of dtype `source` as dtype `to`."""
    if source is to:
        return value
    if to.kind == "bool":
        return _to_bool(f, value, source)
    if isinstance(value, Complex):
        if to.is_complex:
            element = register_type(to)
            return Complex(f.convert_float(value.re, element), f.convert_float(value.im, element))
        return convert(f, value.re, component(source), to)
    if to.is_complex:
        re = convert(f, value, source, component(to))
        return Complex(re, constant(re.type, 0.0))
    if source.is_float:
        wide = widen(f, value, source) if is_small_float(source) else value
        if to.is_integer:
            return _float_to_integer(f, wide, to)
        return narrow(f, wide, to) if is_small_float(to) else f.convert_float(wide, register_type(to))
    if to.is_integer:
        return _integer_to_integer(f, value, source, to)
    return _integer_to_float(f, value, source, to)


def bitcast(f: MemoryEmitter, value: ir.Value, source: DType, to: DType) -> ir.Value:
    """The bits of `value` read as `to`, of equal width."""
    if to.bits == 4:
        return f.wrap_nibble(value, to)
    type_ = like(register_type(to), value.type)
    return value if suffix(type_) == suffix(value.type) else f.builder.bitcast(value, type_)


def _to_bool(f: MemoryEmitter, value: Value, source: DType) -> ir.Value:
    b = f.builder
    if isinstance(value, Complex):
        return b.or_(_to_bool(f, value.re, component(source)), _to_bool(f, value.im, component(source)))
    if not source.is_float:
        return b.icmp_unsigned("!=", value, constant(value.type, 0))
    if is_small_float(source):
        size = b.and_(value, constant(value.type, (1 << (source.bits - 1)) - 1))
        return b.icmp_unsigned("!=", size, constant(value.type, 0))
    return b.fcmp_unordered("!=", value, constant(value.type, 0.0))


def _float_to_integer(f: MemoryEmitter, value: ir.Value, to: DType) -> ir.Value:
    b = f.builder
    result = like(register_type(to), value.type)
    name = "fptosi" if to.kind == "int" else "fptoui"
    if to.bits >= 32:
        return f.call(f"llvm.{name}.sat.{suffix(result)}.{suffix(value.type)}", result, [value])
    # Narrow integers' limits are exact in any float: clamp first, then one instruction converts many lanes; the
    # saturating intrinsic takes lanes one by one.
    least, most = (-(1 << (to.bits - 1)), (1 << (to.bits - 1)) - 1) if to.kind == "int" else (0, (1 << to.bits) - 1)
    value = b.select(f.is_nan(value), constant(value.type, 0.0), value)
    for limit, beyond in ((least, "<"), (most, ">")):
        value = b.select(b.fcmp_ordered(beyond, value, constant(value.type, limit)), constant(value.type, limit), value)
    return b.trunc(b.fptosi(value, like(int_type(32), value.type)), result)


def _integer_to_integer(f: MemoryEmitter, value: ir.Value, source: DType, to: DType) -> ir.Value:
    b = f.builder
    result = like(register_type(to), value.type)
    have, want = bits_of(value.type), bits_of(result)
    if want > have:
        value = b.sext(value, result) if source.kind == "int" else b.zext(value, result)
    elif want < have:
        value = b.trunc(value, result)
    return f.wrap_nibble(value, to) if to.bits == 4 else value


def _integer_to_float(f: MemoryEmitter, value: ir.Value, source: DType, to: DType) -> ir.Value:
    b = f.builder
    signed = source.kind == "int"
    if not is_small_float(to):
        result = like(register_type(to), value.type)
        return b.sitofp(value, result) if signed else b.uitofp(value, result)
    if source.bits == 64:
        return narrow(f, wide_integer_to_f64(f, value, signed), to)
    wide = like(F64 if source.bits == 32 else F32, value.type)
    return narrow(f, b.sitofp(value, wide) if signed else b.uitofp(value, wide), to)
