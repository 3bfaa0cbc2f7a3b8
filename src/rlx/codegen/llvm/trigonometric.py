"""sin, cos and tan on f32 lanes.

The argument is reduced in double precision: x = n pi/2 + r, with pi/2 in three parts of which n times the first two is
exact while |n| < 2**20. Polynomials in r**2 (minimax fits of our own) give sine and cosine of |r| <= pi/4. Lanes beyond
10**6, which models do not have, take their result from the C library's double function.

Bounds over all f32, measured: sin and cos 1.5 ulp, tan 3.5 ulp. Infinities and NaN give NaN; zeros keep their sign.
"""

from __future__ import annotations

from llvmlite import ir

from rlx.codegen.llvm.library import libm
from rlx.codegen.llvm.types import F32, F64, I32, constant, like
from rlx.codegen.llvm.values import ValueEmitter

_LARGE = 1.0e6
_TWO_OVER_PI = 0.6366197723675814
#: 1.5 * 2**52
_MAGIC = 6755399441055744.0
#: pi/2 = 33 bits + 33 bits + the rest (fdlibm's split).
_PI_2 = (1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21)
_SIN = (2.8372471660986776e-06, -0.0001985349808819592, 0.008333380334079266, -0.1666666716337204)
_COS = (2.443066841806285e-05, -0.00138873013202101, 0.04166664555668831, -0.5, 1.0)


def sin(f: ValueEmitter, x: ir.Value) -> ir.Value:
    b = f.builder
    quadrant, r = _reduce(f, x)
    one = constant(quadrant.type, 1)
    odd = b.icmp_unsigned("!=", b.and_(quadrant, one), constant(quadrant.type, 0))
    value = b.select(odd, _cos_reduced(f, r), _sin_reduced(f, r))
    value = _flip_sign(f, value, quadrant)
    zero = b.fcmp_ordered("==", x, constant(x.type, 0.0))
    return _beyond(f, "sin", x, b.select(zero, x, value))


def cos(f: ValueEmitter, x: ir.Value) -> ir.Value:
    b = f.builder
    quadrant, r = _reduce(f, x)
    one = constant(quadrant.type, 1)
    odd = b.icmp_unsigned("!=", b.and_(quadrant, one), constant(quadrant.type, 0))
    value = b.select(odd, _sin_reduced(f, r), _cos_reduced(f, r))
    value = _flip_sign(f, value, b.add(quadrant, one))
    return _beyond(f, "cos", x, value)


def tan(f: ValueEmitter, x: ir.Value) -> ir.Value:
    b = f.builder
    quadrant, r = _reduce(f, x)
    odd = b.icmp_unsigned("!=", b.and_(quadrant, constant(quadrant.type, 1)), constant(quadrant.type, 0))
    s, c = _sin_reduced(f, r), _cos_reduced(f, r)
    value = b.fdiv(b.select(odd, b.fneg(c), s), b.select(odd, s, c))
    zero = b.fcmp_ordered("==", x, constant(x.type, 0.0))
    return _beyond(f, "tan", x, b.select(zero, x, value))


def _reduce(f: ValueEmitter, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(n modulo 2**32 as i32, r as f32) with x = n pi/2 + r."""
    b = f.builder
    wide = f.convert_float(x, F64)
    magic = constant(wide.type, _MAGIC)
    shifted = f.fma(wide, constant(wide.type, _TWO_OVER_PI), magic)
    n = b.fsub(shifted, magic)
    for part in _PI_2:
        wide = b.fsub(wide, f.times(n, part))
    quadrant = b.trunc(f.as_int(shifted), like(I32, x.type))
    return quadrant, f.convert_float(wide, F32)


def _sin_reduced(f: ValueEmitter, r: ir.Value) -> ir.Value:
    square = f.builder.fmul(r, r)
    return f.fma(f.builder.fmul(square, r), f.polynomial(square, _SIN), r)


def _cos_reduced(f: ValueEmitter, r: ir.Value) -> ir.Value:
    return f.polynomial(f.builder.fmul(r, r), _COS)


def _flip_sign(f: ValueEmitter, value: ir.Value, quadrant: ir.Value) -> ir.Value:
    """-value where bit 1 of the quadrant is set."""
    b = f.builder
    bit = b.and_(quadrant, constant(quadrant.type, 2))
    return f.as_float(b.xor(f.as_int(value), b.shl(bit, constant(bit.type, 30))))


def _beyond(f: ValueEmitter, name: str, x: ir.Value, usual: ir.Value) -> ir.Value:
    """The C library's result in lanes whose argument is large; the branch is never taken otherwise."""
    b = f.builder
    large = f.greater(f.fabs(x), _LARGE)
    before, slow, after = b.block, b.append_basic_block("large"), b.append_basic_block("done")
    b.cbranch(f.any(large), slow, after)
    b.position_at_end(slow)
    exact = b.select(large, libm(f, name, [x]), usual)
    b.branch(after)
    b.position_at_end(after)
    result = b.phi(x.type)
    result.add_incoming(usual, before)
    result.add_incoming(exact, slow)
    return result
