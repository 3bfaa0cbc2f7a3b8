"""f16, bf16 and the two f8 formats: widening to f32 is exact, narrowing rounds once, to nearest even.

Where the target has an instruction that does exactly this (f16), it is used; everything else is integer arithmetic, so
that no target needs a run-time library. f8e4m3 has no infinity: what overflows becomes NaN, as in ml_dtypes.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from rlx.codegen.llvm.types import BFLOAT, F32, F64, I1, I8, I16, I32, bits_of, constant, lanes_of, like
from rlx.codegen.llvm.values import ValueEmitter
from rlx.ir import dtypes
from rlx.ir.dtypes import DType

#: The class of vfpclassps that denormals are in.
_IS_DENORMAL = 0x20


@dataclass(frozen=True)
class _Format:
    """Bits of one format: mantissa width, exponent bias, largest finite, what overflow gives, NaN."""

    mantissa: int
    bias: int
    largest: int
    overflow: int
    nan: int


_FORMATS = {
    dtypes.f16: _Format(10, 15, 0x7BFF, 0x7C00, 0x7E00),
    dtypes.f8e5m2: _Format(2, 15, 0x7B, 0x7C, 0x7E),
    dtypes.f8e4m3: _Format(3, 7, 0x7E, 0x7F, 0x7F),
}


def widen(f: ValueEmitter, raw: ir.Value, dtype: DType) -> ir.Value:
    """Bits of `dtype` as f32 of equal value."""
    b = f.builder
    if dtype is dtypes.bf16:
        wide = b.zext(raw, like(I32, raw.type))
        return f.as_float(b.shl(wide, constant(wide.type, 16)))
    if dtype is dtypes.f8e5m2:
        half = b.zext(raw, like(I16, raw.type))
        return widen(f, b.shl(half, constant(half.type, 8)), dtypes.f16)
    if dtype is dtypes.f16 and _converts_f16(f):
        return b.fpext(b.bitcast(raw, like(ir.HalfType(), raw.type)), like(F32, raw.type))
    form = _FORMATS[dtype]
    sign_bit = dtype.bits - 1
    wide = b.zext(raw, like(I32, raw.type))
    size = b.and_(wide, constant(wide.type, (1 << sign_bit) - 1))
    sign = b.shl(b.lshr(wide, constant(wide.type, sign_bit)), constant(wide.type, 31))
    # The bits under f32's exponent bias are off by a power of two, denormals included.
    scaled = f.as_float(b.shl(size, constant(wide.type, 23 - form.mantissa)))
    value = f.as_int(f.times(scaled, 2.0 ** (127 - form.bias)))
    special = b.icmp_unsigned(">", size, constant(wide.type, form.largest))
    exponent = constant(wide.type, 0x7F800000 if dtype is dtypes.f16 else 0x7FC00000)
    value = b.select(special, b.or_(value, exponent), value)
    return f.as_float(b.or_(value, sign))


def narrow(f: ValueEmitter, value: ir.Value, dtype: DType) -> ir.Value:
    """f32 or f64, rounded once to the nearest value of `dtype`, as its bits."""
    if bits_of(value.type) == 64:
        value = round_to_odd(f, value)
    if dtype is dtypes.bf16:
        return _narrow_bf16(f, value)
    b = f.builder
    if dtype is dtypes.f16 and _converts_f16(f):
        return b.bitcast(b.fptrunc(value, like(ir.HalfType(), value.type)), like(I16, value.type))
    form = _FORMATS[dtype]
    bits = f.as_int(value)
    type_ = bits.type
    size = b.and_(bits, constant(type_, 0x7FFFFFFF))
    # Normal results: round in the integer domain, then trade biases.
    shift = 23 - form.mantissa
    odd = b.and_(b.lshr(size, constant(type_, shift)), constant(type_, 1))
    rounded = b.lshr(b.add(b.add(size, constant(type_, (1 << (shift - 1)) - 1)), odd), constant(type_, shift))
    normal = b.sub(rounded, constant(type_, (127 - form.bias) << form.mantissa))
    normal = b.select(b.icmp_signed(">", normal, constant(type_, form.largest)), constant(type_, form.overflow), normal)
    # Denormal results: adding a power of two whose last place is the format's smallest step rounds as wanted.
    step = 2.0 ** (1 - form.bias - form.mantissa)
    magic = constant(value.type, step * 2.0**23)
    tiny = b.sub(f.as_int(b.fadd(f.as_float(size), magic)), f.as_int(magic))
    least_normal = (128 - form.bias) << 23
    result = b.select(b.icmp_signed("<", size, constant(type_, least_normal)), tiny, normal)
    result = b.select(f.is_nan(value), constant(type_, form.nan), result)
    sign = b.shl(b.lshr(bits, constant(type_, 31)), constant(type_, dtype.bits - 1))
    return b.trunc(b.or_(result, sign), like(I16 if dtype.bits == 16 else I8, type_))


def _narrow_bf16(f: ValueEmitter, value: ir.Value) -> ir.Value:
    if not f.target.has("avx512bf16") or lanes_of(value.type) != 16:
        return _narrow_bf16_by_bits(f, value)
    # The instruction takes denormals for zeros: vectors that hold any, which are few, go the other way.
    b = f.builder
    raw = f.call("llvm.x86.avx512bf16.cvtneps2bf16.512", ir.VectorType(BFLOAT, 16), [value])
    quick = b.bitcast(raw, like(I16, value.type))
    denormal = f.call("llvm.x86.avx512.fpclass.ps.512", like(I1, value.type), [value, I32(_IS_DENORMAL)])
    before = b.block
    with b.if_then(b.icmp_unsigned("!=", b.bitcast(denormal, I16), I16(0)), likely=False):
        exact = _narrow_bf16_by_bits(f, value)
        within = b.block
    result = b.phi(quick.type)
    result.add_incoming(quick, before)
    result.add_incoming(exact, within)
    return result


def _narrow_bf16_by_bits(f: ValueEmitter, value: ir.Value) -> ir.Value:
    b = f.builder
    bits = f.as_int(value)
    type_ = bits.type
    high = b.lshr(bits, constant(type_, 16))
    odd = b.and_(high, constant(type_, 1))
    rounded = b.lshr(b.add(b.add(bits, constant(type_, 0x7FFF)), odd), constant(type_, 16))
    quiet = b.or_(high, constant(type_, 0x40))
    return b.trunc(b.select(f.is_nan(value), quiet, rounded), like(I16, type_))


def round_to_odd(f: ValueEmitter, value: ir.Value) -> ir.Value:
    """f64 to f32 such that rounding the result again, to a narrower format, equals rounding once.

    Boldo & Melquiond 2008: an inexact result takes the neighbour whose last bit is one.
    """
    b = f.builder
    near = b.fptrunc(value, like(F32, value.type))
    back = b.fpext(near, value.type)
    bits = f.as_int(near)
    beyond = b.fcmp_ordered(">", f.fabs(back), f.fabs(value))
    inexact = b.fcmp_ordered("!=", back, value)
    toward_zero = b.sub(bits, b.zext(beyond, bits.type))
    odd = b.or_(toward_zero, b.zext(inexact, bits.type))
    return f.as_float(odd)


def wide_integer_to_f64(f: ValueEmitter, value: ir.Value, signed: bool) -> ir.Value:
    """An i64 or u64 as an f64 such that rounding it again to a format narrower than 50 bits equals rounding once."""
    b = f.builder
    type_ = like(F64, value.type)
    low = constant(value.type, (1 << 12) - 1)
    sticky = b.icmp_unsigned("!=", b.and_(value, low), constant(value.type, 0))
    cut = b.or_(
        b.and_(value, constant(value.type, -(1 << 12))), b.shl(b.zext(sticky, value.type), constant(value.type, 11))
    )
    if signed:
        size = b.select(b.icmp_signed("<", value, constant(value.type, 0)), b.neg(value), value)
    else:
        size = value
    large = b.icmp_unsigned(">=", size, constant(value.type, 1 << 53))
    chosen = b.select(large, cut, value)
    return b.sitofp(chosen, type_) if signed else b.uitofp(chosen, type_)


def _converts_f16(f: ValueEmitter) -> bool:
    return not f.target.is_x86 or f.target.has("f16c")
