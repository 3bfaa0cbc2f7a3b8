"""Which code computes each elementary function on f32 and f64 lanes.

The f32 functions that models live on have vector code of our own; the rest, and all of f64, call the C library's double
functions lane by lane, so that their f32 results are rounded once from a result good to an f64 ulp.
"""

from __future__ import annotations

from llvmlite import ir

from rlx.codegen.llvm import error_function, exponential, logarithm, power, trigonometric
from rlx.codegen.llvm.library import Body, libm, shared
from rlx.codegen.llvm.types import bits_of, constant
from rlx.codegen.llvm.values import ValueEmitter

#: Our own f32 functions, and whether their code is short enough to stand wherever they are called.
_OWN: dict[str, tuple[Body, bool]] = {
    "exp": (exponential.exp, True),
    "expm1": (exponential.expm1, True),
    "tanh": (exponential.tanh, True),
    "logistic": (exponential.logistic, True),
    "log": (logarithm.log, True),
    "log1p": (logarithm.log1p, True),
    "erf": (error_function.erf, True),
    "sin": (trigonometric.sin, False),
    "cos": (trigonometric.cos, False),
    "tan": (trigonometric.tan, False),
    "pow": (power.pow_, False),
}
_LIBRARY = (
    "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh",
    "acosh", "atanh", "erf", "cbrt", "pow", "atan2",
)  # fmt: skip


def elementary(f: ValueEmitter, name: str, values: list[ir.Value]) -> ir.Value | None:
    """The function `name` of f32 or f64 lanes; None where there is none of this name."""
    own = _OWN.get(name)
    if own is not None and bits_of(values[0].type) == 32:
        body, inline = own
        return shared(f, name, values, body, inline=inline)
    if name in _LIBRARY:
        return libm(f, name, values)
    return _wide_logistic(f, values[0]) if name == "logistic" else None


def _wide_logistic(f: ValueEmitter, x: ir.Value) -> ir.Value:
    """logistic in f64: from e**-|x|, which cannot overflow."""
    b = f.builder
    e = libm(f, "exp", [b.fneg(f.fabs(x))])
    top = b.select(f.less(x, 0.0), e, constant(x.type, 1.0))
    return b.fdiv(top, f.plus(e, 1.0))
