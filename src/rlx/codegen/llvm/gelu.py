"""gelu on f32 lanes, where AVX-512 makes a shorter way of it than through erf.

x times the normal distribution function of x is max(x, 0) - |x| Q(|x|), where Q(y) = erfc(y / sqrt(2)) / 2 falls from
1/2 to nothing: no sign to handle, and nothing cancels. Q is one of 32 polynomials of degree 4 around multiples of 1/4,
whose coefficients one instruction takes for sixteen lanes from two registers; finding the segment and the place in it
needs sums alone. From 7.625 on Q is 0. The polynomials are minimax fits of our own in relative error, with coefficients
rounded to f32 one after the other, each fit making up for the last.

Measured (docs/numerics.md): 1.02 ulp of the argument; of what is left of a negative argument, which 1 + erf would lose,
three digits are right. NaN gives NaN, minus infinity too (as infinity times zero does), and zeros keep their sign.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir

from rlx.codegen.kernel import Apply, Const, Expr, Var
from rlx.codegen.llvm.types import I16, I32, constant
from rlx.codegen.llvm.values import ValueEmitter
from rlx.ir.dtypes import f32

#: 1.5 * 2**21: added to a number up to 2**20, it leaves the nearest whole number of quarters in the low bits.
_MAGIC = 3145728.0
#: The middle of the last segment, where Q is 0.
_LAST = 7.75
#: How vrangeps chooses: the operand of least magnitude, its sign cleared; a number before NaN.
_LEAST_MAGNITUDE = 0b1010
#: How vfixupimmps makes max(x, 0), in four bits a kind of x. From the lowest: NaN (quiet, then signalling) stays NaN,
#: both zeros, 1 and plus infinity stay, minus infinity gives NaN, less than 0 gives -0, more than 0 stays.
_RELU = 0x17131122
#: Coefficients of Q in |x| minus the segment's middle, the constant ones first; a column a segment.
_SEGMENTS = (
    (
        0.5, 0.401293665, 0.308537543, 0.22662735, 0.158655256, 0.105649777, 0.066807203, 0.0400591604,
        0.0227501336, 0.0122244731, 0.00620966498, 0.00297976239, 0.00134989724, 0.000577024359, 0.000232628619,
        8.84170004e-05, 3.16710866e-05, 1.06884472e-05, 3.39763687e-06, 1.01706792e-06, 2.86645616e-07,
        7.60474634e-08, 1.89888496e-08, 4.46195259e-09, 9.8652464e-10, 2.05209585e-10, 4.01558578e-11,
        7.39130111e-12, 1.27960706e-12, 2.08344653e-13, 3.19012259e-14, 0.0,
    ),
    (
        -0.398942113, -0.386667579, -0.352065057, -0.301137418, -0.241971031, -0.182649523, -0.129518032,
        -0.086277619, -0.053991124, -0.031739682, -0.0175282545, -0.00909348112, -0.00443176832, -0.00202898588,
        -0.000872641103, -0.000352571253, -0.000133817317, -4.77124413e-05, -1.59810224e-05, -5.02841112e-06,
        -1.48631182e-06, -4.12706925e-07, -1.07652951e-07, -2.63792312e-08, -6.07225692e-09, -1.31307498e-09,
        -2.66735106e-10, -5.09004679e-11, -9.12460472e-12, -1.5365864e-12, -2.43080539e-13, 0.0,
    ),
    (
        -1.3116487e-05, 0.0483355895, 0.0880156681, 0.112927042, 0.120984107, 0.114154212, 0.0971371606,
        0.0754914209, 0.0539904386, 0.0357070863, 0.0219106693, 0.0125040933, 0.00664818706, 0.0032975378,
        0.00152742153, 0.000661256025, 0.000267736468, 0.000101440317, 3.59809892e-05, 1.19525012e-05,
        3.71968508e-06, 1.08476229e-06, 2.96514685e-07, 7.59852767e-08, 1.82584063e-08, 4.11446299e-09,
        8.69645467e-10, 1.72426393e-10, 3.20734099e-11, 5.59771196e-12, 9.16722319e-13, 0.0,
    ),
    (
        0.06680803, 0.0602600612, 0.0439247824, 0.0219579507, 7.8669189e-05, -0.0170080811, -0.0268693697,
        -0.0295759346, -0.0269526225, -0.0214817133, -0.0153498296, -0.00996761769, -0.00593037857,
        -0.0032503719, -0.00164736621, -0.000774172251, -0.000338048209, -0.00013737494, -5.20203903e-05,
        -1.83746888e-05, -6.05912919e-06, -1.86656985e-06, -5.37495737e-07, -1.4474972e-07, -3.64715795e-08,
        -8.60094129e-09, -1.89901228e-09, -3.92664318e-10, -7.60559254e-11, -1.38024132e-11, -2.34732177e-12,
        0.0,
    ),
    (
        -0.00302922539, -0.0119061861, -0.0201030057, -0.0229114983, -0.0200530794, -0.0135743329,
        -0.0060106623, 0.000446974824, 0.00451058429, 0.00612276606, 0.0059067281, 0.00472367788, 0.00329868495,
        0.00205924013, 0.00116522214, 0.000602425775, 0.000286251627, 0.000125467719, 5.08836492e-05,
        1.91361833e-05, 6.6854227e-06, 2.17261595e-06, 6.57527096e-07, 1.85499346e-07, 4.88187872e-08,
        1.19943477e-08, 2.75248135e-09, 5.90271665e-10, 1.18346125e-10, 2.21911083e-11, 3.89304864e-12, 0.0,
    ),
)  # fmt: skip


def gelu_argument(expr: Apply) -> Expr | None:
    """x where the expression is (x / 2) (1 + erf(x / sqrt(2))), in f32; None where it is anything else."""
    if expr.op != "mul" or expr.dtype is not f32:
        return None
    for half, share in (expr.args, expr.args[::-1]):
        x = _other_operand(half, "mul", 0.5)
        erf = _other_operand(share, "add", 1.0)
        if x is not None and isinstance(erf, Apply) and erf.op == "erf":
            inner = _other_operand(erf.args[0], "mul", math.sqrt(0.5))
            if inner is not None and _same(inner, x):
                return x
    return None


def gelu(f: ValueEmitter, x: ir.Value) -> ir.Value:
    """x times the normal distribution function of x; AVX-512 only."""
    return f.in_lanes(16, _by_segments, x)


def _by_segments(f: ValueEmitter, x: ir.Value) -> ir.Value:
    b = f.builder
    every, nearest = I16(-1), I32(4)
    size = f.call(
        "llvm.x86.avx512.mask.range.ps.512",
        x.type,
        [x, constant(x.type, _LAST), I32(_LEAST_MAGNITUDE), x, every, nearest],
    )
    magic = constant(x.type, _MAGIC)
    shifted = b.fadd(size, magic)
    t = b.fsub(size, b.fsub(shifted, magic))
    segment = f.as_int(shifted)  # its low five bits
    share, *rest = [f.look_up(table, segment) for table in reversed(_SEGMENTS)]
    for coefficient in rest:
        share = f.fma(share, t, coefficient)
    kinds = constant(segment.type, _RELU)
    relu = f.call("llvm.x86.avx512.mask.fixupimm.ps.512", x.type, [x, x, kinds, I32(0), every, nearest])
    return f.fma(b.fneg(size), share, relu)


def _other_operand(expr: Expr, op: str, value: float) -> Expr | None:
    """x where the expression is op(x, value) or op(value, x)."""
    if not isinstance(expr, Apply) or expr.op != op or expr.dtype is not f32:
        return None
    for x, known in (expr.args, expr.args[::-1]):
        if isinstance(known, Const) and known.value == np.float32(value):
            return x
    return None


def _same(a: Expr, b: Expr) -> bool:
    return a is b or (isinstance(a, Var) and isinstance(b, Var) and a.name == b.name)
