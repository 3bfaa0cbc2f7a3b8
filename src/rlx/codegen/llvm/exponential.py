"""exp, expm1, tanh and logistic on f32 lanes.

x = n ln 2 + r with n whole and |r| <= ln 2 / 2 (Cody & Waite 1980, ln 2 in two parts so that n times the first is
exact); a polynomial in r; then the power 2**n. Polynomials are minimax fits of our own, in relative error (Lawson's
iteration), with coefficients rounded to f32 one after the other, each fit making up for the last.

With AVX-512, exp takes n in sixteenths: 2**(j / 16) comes from a register that holds all sixteen, three coefficients
are enough for e**r, and one instruction scales by 2**floor(n).

Bounds over all f32, measured (tests/codegen/test_vector_math.py): exp 1.2 ulp, expm1 1.5 ulp, tanh and logistic 2.5
ulp, denormal results included. NaN gives NaN, infinities their limits; expm1 and tanh keep the sign of zero.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from llvmlite import ir

from rlx.codegen.llvm.types import F32, I16, I32, bits_of, constant, lanes_of
from rlx.codegen.llvm.values import ValueEmitter

_LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440054690583e-4
#: 1.5 * 2**23: added to a small number, it leaves the nearest whole number in the low bits.
_MAGIC = 12582912.0

_EXP = (0.0013941877987235785, 0.008368679322302341, 0.041666388511657715, 0.1666652113199234, 0.5, 1.0, 1.0)
_EXPM1 = (
    0.00019945099485174444, 0.00139326648786664, 0.008333207108080387, 0.04166648909449577, 0.1666666716337204, 0.5,
)  # fmt: skip


#: 1.5 * 2**19, likewise for sixteenths; 2**(j / 16), and what rounding that takes away, relatively; and
#: (e**r - 1 - r) / r**2 for |r| <= ln 2 / 32.
_MAGIC_16 = 786432.0
_ROOTS = tuple(float(np.float32(2 ** (j / 16))) for j in range(16))
_LOST = tuple(2 ** (j / 16) / root - 1 for j, root in enumerate(_ROOTS))
_BEHIND_R = (0.1666666716337204, 0.5000162124633789)


def exp(f: ValueEmitter, x: ir.Value, *, brief: bool = False) -> ir.Value:
    """e**x. brief: with AVX-512 by two instructions fewer, and 1.0 ulp off instead of 0.8."""
    if f.target.has("avx512dq"):
        return f.in_lanes(16, partial(_by_sixteenths, brief=brief), x)
    x = f.at_most(f.at_least(x, -104.0), 89.0)
    n, whole, r = reduce_by_ln2(f, x)
    return scale(f, f.polynomial(r, _EXP), n, whole)


def _by_sixteenths(f: ValueEmitter, x: ir.Value, *, brief: bool) -> ir.Value:
    b = f.builder
    shifted = f.fma(x, constant(x.type, _LOG2_E), constant(x.type, _MAGIC_16))
    n = b.fsub(shifted, constant(x.type, _MAGIC_16))
    minus = b.fneg(n)
    r = f.fma(minus, constant(x.type, _LN2_HIGH), x)
    r = f.fma(minus, constant(x.type, _LN2_LOW), r)
    # Where x is so large that r means nothing, or NaN, some small number serves: n makes the result 0, inf or NaN.
    every, least_magnitude, nearest = I16(-1), I32(2), I32(4)
    small = [r, constant(x.type, 0.03), least_magnitude, r, every, nearest]
    r = f.call("llvm.x86.avx512.mask.range.ps.512", x.type, small)
    sixteenth = f.as_int(shifted)  # its low four bits
    root = f.look_up(_ROOTS, sixteenth)
    if not brief:
        r = b.fadd(r, f.look_up(_LOST, sixteenth))
    beyond = f.fma(f.polynomial(r, _BEHIND_R), b.fmul(r, r), r)
    return f.call("llvm.x86.avx512.mask.scalef.ps.512", x.type, [f.fma(root, beyond, root), n, x, every, nearest])


def expm1(f: ValueEmitter, x: ir.Value) -> ir.Value:
    """e**x - 1."""
    limited = f.at_most(f.at_least(x, -18.0), 89.0)
    n, whole, r = reduce_by_ln2(f, limited)
    b = f.builder
    near = b.fcmp_ordered("==", n, constant(n.type, 0.0))
    p = _expm1_reduced(f, r)
    # 2**n (1 + p) - 1 through half of it, as 2**128 is no f32.
    half = f.power_of_two(b.sub(whole, constant(whole.type, 1)), F32)
    result = f.times(f.fma(half, p, f.plus(half, -0.5)), 2.0)
    return f.copysign(b.select(near, p, result), x)


def tanh(f: ValueEmitter, x: ir.Value) -> ir.Value:
    """(e**2x - 1) / (e**2x + 1)."""
    limited = f.at_most(f.fabs(x), 9.5)
    _, whole, r = reduce_by_ln2(f, f.times(limited, 2.0))
    p = _expm1_reduced(f, r)
    power = f.power_of_two(whole, F32)
    e = f.fma(power, p, f.plus(power, -1.0))
    return f.copysign(f.builder.fdiv(e, f.plus(e, 2.0)), x)


def logistic(f: ValueEmitter, x: ir.Value) -> ir.Value:
    """1 / (1 + e**-x), from e**-|x|, which cannot overflow."""
    b = f.builder
    e = exp(f, b.fneg(f.fabs(x)))
    top = b.select(f.less(x, 0.0), e, constant(x.type, 1.0))
    return b.fdiv(top, f.plus(e, 1.0))


def reduce_by_ln2(f: ValueEmitter, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """(n as f32, n as i32, r) with x = n ln 2 + r; |n| below 2**22."""
    b = f.builder
    magic = constant(x.type, _MAGIC)
    shifted = f.fma(x, constant(x.type, _LOG2_E), magic)
    n = b.fsub(shifted, magic)
    bits = f.as_int(shifted)
    whole = b.sub(bits, constant(bits.type, 0x4B400000))
    minus = b.fneg(n)
    r = f.fma(minus, constant(x.type, _LN2_HIGH), x)
    r = f.fma(minus, constant(x.type, _LN2_LOW), r)
    return n, whole, r


def scale(f: ValueEmitter, value: ir.Value, n: ir.Value, whole: ir.Value) -> ir.Value:
    """value * 2**n, n from -150 to 129, rounded once where the result is denormal."""
    if f.target.has("avx512f") and bits_of(value.type) == 32 and lanes_of(value.type) == 16:
        every, nearest = I16(-1), I32(4)
        return f.call("llvm.x86.avx512.mask.scalef.ps.512", value.type, [value, n, value, every, nearest])
    b = f.builder
    first = b.ashr(whole, constant(whole.type, 1))
    half = f.power_of_two(first, F32)
    return b.fmul(b.fmul(value, half), f.power_of_two(b.sub(whole, first), F32))


def _expm1_reduced(f: ValueEmitter, r: ir.Value) -> ir.Value:
    """e**r - 1 for |r| <= ln 2 / 2."""
    square = f.builder.fmul(r, r)
    return f.fma(square, f.polynomial(r, _EXPM1), r)
