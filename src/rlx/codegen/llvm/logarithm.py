"""log and log1p on f32 lanes.

The argument is 2**k (1 + g) with 1 + g between sqrt(1/2) and sqrt(2); log(1 + g) = g - g**2 / 2 + g**3 P(g), the form
of Cephes' logf, with a P of our own (minimax in relative error); k ln 2 is added in two parts. log1p finds k from 1 +
x but g from x itself, so that nothing of a small x is lost.

Bounds over all f32, measured: log 1 ulp, log1p 1.5 ulp. log(0) is -inf, of negative numbers NaN; denormals count.
"""

from __future__ import annotations

from llvmlite import ir

from rlx.codegen.llvm.types import constant
from rlx.codegen.llvm.values import ValueEmitter

_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440054690583e-4
#: Bits of sqrt(1/2).
_ROOT_HALF = 0x3F3504F3
_LEAST_NORMAL = 2.0**-126
_P = (
    0.06750459223985672, -0.11671272665262222, 0.1188366711139679, -0.12406066060066223, 0.142203226685524,
    -0.16667994856834412, 0.20002073049545288, -0.25000008940696716, 0.3333331346511841,
)  # fmt: skip


def log(f: ValueEmitter, x: ir.Value) -> ir.Value:
    """The natural logarithm."""
    b = f.builder
    denormal = f.less(x, _LEAST_NORMAL)
    normal = b.select(denormal, f.times(x, 2.0**23), x)
    bits = f.as_int(normal)
    type_ = bits.type
    offset = b.sub(bits, constant(type_, _ROOT_HALF))
    k = b.ashr(offset, constant(type_, 23))
    k = b.add(k, b.select(denormal, constant(type_, -23), constant(type_, 0)))
    mantissa = b.add(b.and_(offset, constant(type_, 0x7FFFFF)), constant(type_, _ROOT_HALF))
    g = f.plus(f.as_float(mantissa), -1.0)
    result = _assemble(f, g, b.sitofp(k, x.type))
    return _limits(f, result, x, x)


def log1p(f: ValueEmitter, x: ir.Value) -> ir.Value:
    """log(1 + x)."""
    b = f.builder
    u = f.plus(x, 1.0)
    bits = f.as_int(u)
    type_ = bits.type
    k = b.ashr(b.sub(bits, constant(type_, _ROOT_HALF)), constant(type_, 23))
    # x 2**-k is exact; for k = 127, 2**-k is so small that any tiny number does for it.
    power = b.sub(constant(type_, 127), k)
    power = f.intrinsic("smax", power, constant(type_, 1))
    inverse = f.as_float(b.shl(power, constant(type_, 23)))
    scaled = f.as_float(b.sub(f.as_int(x), b.shl(k, constant(type_, 23))))
    moved = b.icmp_signed("!=", k, constant(type_, 0))
    scaled = b.select(moved, scaled, x)
    g = b.fadd(scaled, f.plus(inverse, -1.0))
    result = _assemble(f, g, b.sitofp(k, x.type))
    return f.copysign(_limits(f, result, u, x), x)


def _assemble(f: ValueEmitter, g: ir.Value, k: ir.Value) -> ir.Value:
    """k ln 2 + log(1 + g)."""
    b = f.builder
    square = b.fmul(g, g)
    tail = b.fmul(b.fmul(square, g), f.polynomial(g, _P))
    tail = f.fma(k, constant(k.type, _LN2_LOW), tail)
    tail = f.fma(square, constant(g.type, -0.5), tail)
    return f.fma(k, constant(k.type, _LN2_HIGH), b.fadd(g, tail))


def _limits(f: ValueEmitter, result: ir.Value, argument: ir.Value, x: ir.Value) -> ir.Value:
    """result where 0 < argument < inf; x itself (inf, NaN) above, -inf at 0, NaN below."""
    b = f.builder
    inf = float("inf")
    usual = b.and_(f.greater(argument, 0.0), f.less(x, inf))
    zero = b.fcmp_ordered("==", argument, constant(argument.type, 0.0))
    below = b.select(f.less(argument, 0.0), constant(x.type, float("nan")), x)
    return b.select(usual, result, b.select(zero, constant(x.type, -inf), below))
