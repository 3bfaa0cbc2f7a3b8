"""Complex arithmetic on pairs of floats.

Products are the textbook four; quotients follow Smith (1962), which scales by the larger part of the divisor. Functions
call the C library's complex ones in each lane, in double precision, so that c64 results are rounded once at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from rlx.codegen.llvm.library import libm
from rlx.codegen.llvm.types import F64, I32, Complex, Value, constant, element_of, lanes_of, suffix, undefined
from rlx.codegen.llvm.values import ValueEmitter, declare, function_attributes
from rlx.ir.dtypes import DType

#: Primitives that the C library has for complex doubles, by its name.
_LIBRARY = {name: "c" + name for name in ("exp", "log", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "pow")} | {
    f"a{name}": f"ca{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")
}


def apply(f: ValueEmitter, op: str, values: Sequence[Complex], dtype: DType) -> Value | None:
    """An operation on complex numbers; None where there is none of this name."""
    if op in _LIBRARY:
        return _library(f, _LIBRARY[op], values)
    b, x = f.builder, values[0]
    match op:
        case "add":
            return Complex(b.fadd(x.re, values[1].re), b.fadd(x.im, values[1].im))
        case "sub":
            return Complex(b.fsub(x.re, values[1].re), b.fsub(x.im, values[1].im))
        case "mul":
            return multiply(f, x, values[1])
        case "div":
            return divide(f, x, values[1])
        case "neg":
            return Complex(b.fneg(x.re), b.fneg(x.im))
        case "conj":
            return Complex(x.re, b.fneg(x.im))
        case "real":
            return x.re
        case "imag":
            return x.im
        case "abs":
            return libm(f, "hypot", [x.re, x.im])
        case "eq":
            return b.and_(b.fcmp_ordered("==", x.re, values[1].re), b.fcmp_ordered("==", x.im, values[1].im))
        case "ne":
            return b.or_(b.fcmp_unordered("!=", x.re, values[1].re), b.fcmp_unordered("!=", x.im, values[1].im))
        case "sign":
            return _sign(f, x)
        case "rsqrt":
            return _in_double(f, x, lambda wide: divide(f, _one(wide), _library(f, "csqrt", [wide])))
        case "logistic":
            return _in_double(f, x, lambda wide: _logistic(f, wide))
        case "expm1":
            return _in_double(f, x, lambda wide: _expm1(f, wide))
        case "log1p":
            return _in_double(f, x, lambda wide: _log1p(f, wide))
    return None


def multiply(f: ValueEmitter, x: Complex, y: Complex) -> Complex:
    b = f.builder
    re = b.fsub(b.fmul(x.re, y.re), b.fmul(x.im, y.im))
    return Complex(re, b.fadd(b.fmul(x.re, y.im), b.fmul(x.im, y.re)))


def divide(f: ValueEmitter, x: Complex, y: Complex) -> Complex:
    """x / y by Smith's method; by zero, both parts of x are divided by the zero."""
    b = f.builder
    size_re, size_im = f.fabs(y.re), f.fabs(y.im)
    real_leads = b.fcmp_ordered(">=", size_re, size_im)
    large, small = b.select(real_leads, y.re, y.im), b.select(real_leads, y.im, y.re)
    zero = constant(size_re.type, 0.0)
    by_zero = b.and_(b.fcmp_ordered("==", size_re, zero), b.fcmp_ordered("==", size_im, zero))
    ratio = b.fdiv(small, large)
    scale = b.fdiv(constant(zero.type, 1.0), b.fadd(large, b.fmul(small, ratio)))
    re = b.select(real_leads, b.fadd(x.re, b.fmul(x.im, ratio)), b.fadd(b.fmul(x.re, ratio), x.im))
    im = b.select(real_leads, b.fsub(x.im, b.fmul(x.re, ratio)), b.fsub(b.fmul(x.im, ratio), x.re))
    re = b.select(by_zero, b.fdiv(x.re, size_re), b.fmul(re, scale))
    im = b.select(by_zero, b.fdiv(x.im, size_re), b.fmul(im, scale))
    return Complex(re, im)


def _sign(f: ValueEmitter, x: Complex) -> Complex:
    b = f.builder
    size = libm(f, "hypot", [x.re, x.im])
    is_zero = b.fcmp_ordered("==", size, constant(size.type, 0.0))
    quotient = divide(f, x, Complex(size, constant(size.type, 0.0)))
    return Complex(b.select(is_zero, x.re, quotient.re), b.select(is_zero, x.im, quotient.im))


def _one(like_value: Complex) -> Complex:
    return Complex(constant(like_value.type, 1.0), constant(like_value.type, 0.0))


def _logistic(f: ValueEmitter, x: Complex) -> Complex:
    b = f.builder
    power = _library(f, "cexp", [Complex(b.fneg(x.re), b.fneg(x.im))])
    return divide(f, _one(x), Complex(f.plus(power.re, 1.0), power.im))


def _expm1(f: ValueEmitter, x: Complex) -> Complex:
    """exp(re) cos(im) - 1 without cancellation: expm1(re) cos(im) - 2 sin(im / 2)**2."""
    b = f.builder
    half = libm(f, "sin", [f.times(x.im, 0.5)])
    correction = b.fmul(f.times(half, 2.0), half)
    re = b.fsub(b.fmul(libm(f, "expm1", [x.re]), libm(f, "cos", [x.im])), correction)
    return Complex(re, b.fmul(libm(f, "exp", [x.re]), libm(f, "sin", [x.im])))


def _log1p(f: ValueEmitter, x: Complex) -> Complex:
    shifted = f.plus(x.re, 1.0)
    size = libm(f, "hypot", [shifted, x.im])
    return Complex(libm(f, "log", [size]), libm(f, "atan2", [x.im, shifted]))


def _in_double(f: ValueEmitter, x: Complex, compute) -> Complex:  # noqa: ANN001  # Complex -> Complex
    wide = compute(Complex(f.convert_float(x.re, F64), f.convert_float(x.im, F64)))
    element = element_of(x.type)
    return Complex(f.convert_float(wide.re, element), f.convert_float(wide.im, element))


def _library(f: ValueEmitter, name: str, values: Sequence[Complex]) -> Complex:
    """The C library's `name` in each lane. Its complex double travels as two doubles, in and out."""
    type_ = values[0].type
    full = f"rlx.libm.{name}.{suffix(type_)}"
    function = f.module.globals.get(full)
    if function is None:
        parts = [type_] * (2 * len(values))
        function = ir.Function(f.module, ir.FunctionType(ir.LiteralStructType([type_, type_]), parts), full)
        function.linkage = "internal"
        function.attributes = function_attributes(f.target, "noinline")
        inner = ValueEmitter(f.module, ir.IRBuilder(function.append_basic_block("entry")), f.target)
        _define(inner, name, function)
    both = f.builder.call(function, [part for value in values for part in value])
    return Complex(f.builder.extract_value(both, 0), f.builder.extract_value(both, 1))


def _define(f: ValueEmitter, name: str, function: ir.Function) -> None:
    b = f.builder
    wide = [f.convert_float(a, F64) for a in function.args]
    pair = ir.LiteralStructType([F64, F64])
    callee = declare(f.module, name, pair, [F64] * len(wide))
    lanes = lanes_of(wide[0].type)
    if lanes == 1:
        both = b.call(callee, wide)
        parts = [b.extract_value(both, 0), b.extract_value(both, 1)]
    else:
        parts = [undefined(wide[0].type)] * 2
        for lane in range(lanes):
            index = I32(lane)
            both = b.call(callee, [b.extract_element(w, index) for w in wide])
            parts = [b.insert_element(p, b.extract_value(both, i), index) for i, p in enumerate(parts)]
    element = element_of(function.args[0].type)
    result: ir.Value = undefined(function.ftype.return_type)
    for i, part in enumerate(parts):
        result = b.insert_value(result, f.convert_float(part, element), i)
    b.ret(result)
