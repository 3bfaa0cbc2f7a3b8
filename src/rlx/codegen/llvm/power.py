"""pow on f32 lanes, in double precision: x**y = 2**(y log2 |x|), with the sign and the special cases of C's pow.

log2 comes from atanh's series in t = (m - 1) / (m + 1), m between sqrt(1/2) and sqrt(2); both polynomials are minimax
fits of our own, good to 2**-43 and 2**-40, so that the one rounding to f32 decides the result.
Bound, measured: 1 ulp.
"""

from __future__ import annotations

from llvmlite import ir

from rlx.codegen.llvm.types import F32, F64, I32, constant, like
from rlx.codegen.llvm.values import ValueEmitter

_MAGIC = 6755399441055744.0
_ROOT_HALF = 0x3FE6A09E667F3BCD
#: log2(m) = t L(t**2)
_LOG2 = (
    0.02391070906547511, 0.2808195985501214, 0.3199735051316477, 0.41220823540437984, 0.5770779492436402,
    0.9617966940963925, 2.8853900817778566,
)  # fmt: skip
_EXP2 = (
    1.3264059064177814e-06, 1.5310080776436434e-05, 0.00015403411682341135, 0.0013333450561989666, 0.009618129228415772,
    0.05550410941213434, 0.24022650695467887, 0.6931471805459306, 1.000000000000027,
)  # fmt: skip


def pow_(f: ValueEmitter, x: ir.Value, y: ir.Value) -> ir.Value:
    """x to the power y."""
    b = f.builder
    zero, one = constant(x.type, 0.0), constant(x.type, 1.0)
    size = f.fabs(x)
    product = b.fmul(_log2(f, size), f.convert_float(y, F64))
    # |x| = 1 to any power is 1, infinite ones included, where the product is not a number.
    unit = b.fcmp_ordered("==", size, one)
    product = b.select(unit, constant(product.type, 0.0), product)
    magnitude = _exp2(f, product)

    whole = b.fcmp_ordered("==", f.round_even(y), y)
    half = f.times(y, 0.5)
    odd = b.and_(whole, b.fcmp_ordered("!=", f.round_even(half), half))
    signed = b.select(odd, f.copysign(magnitude, x), magnitude)
    finite_negative = b.and_(f.less(x, 0.0), f.greater(x, float("-inf")))
    no_root = b.and_(finite_negative, f.not_(whole))
    result = b.select(no_root, constant(x.type, float("nan")), signed)
    result = b.select(b.or_(f.is_nan(x), f.is_nan(y)), constant(x.type, float("nan")), result)
    always_one = b.or_(b.fcmp_ordered("==", x, one), b.fcmp_ordered("==", y, zero))
    return b.select(always_one, one, result)


def _log2(f: ValueEmitter, size: ir.Value) -> ir.Value:
    """log2 of an f32 that is not negative, in f64; -inf for 0, inf for inf."""
    b = f.builder
    wide = f.convert_float(size, F64)
    bits = f.as_int(wide)
    type_ = bits.type
    offset = b.sub(bits, constant(type_, _ROOT_HALF))
    k = b.sitofp(b.trunc(b.ashr(offset, constant(type_, 52)), like(I32, size.type)), wide.type)
    m = f.as_float(b.add(b.and_(offset, constant(type_, (1 << 52) - 1)), constant(type_, _ROOT_HALF)))
    t = b.fdiv(f.plus(m, -1.0), f.plus(m, 1.0))
    result = f.fma(t, f.polynomial(b.fmul(t, t), _LOG2), k)
    infinite = b.fcmp_ordered("==", size, constant(size.type, float("inf")))
    result = b.select(infinite, wide, result)
    zero = b.fcmp_ordered("==", size, constant(size.type, 0.0))
    return b.select(zero, constant(wide.type, float("-inf")), result)


def _exp2(f: ValueEmitter, z: ir.Value) -> ir.Value:
    """2**z of an f64, as f32."""
    b = f.builder
    z = f.at_most(f.at_least(z, -200.0), 200.0)
    magic = constant(z.type, _MAGIC)
    shifted = b.fadd(z, magic)
    r = b.fsub(z, b.fsub(shifted, magic))
    bits = f.as_int(shifted)
    exponent = b.shl(b.add(bits, constant(bits.type, 1023)), constant(bits.type, 52))
    return f.convert_float(b.fmul(f.polynomial(r, _EXP2), f.as_float(exponent)), F32)
