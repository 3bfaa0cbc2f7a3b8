"""Which code computes each elementary function on f32 and f64 lanes.

f32 functions that models live on have vector code of our own; the rest, and all of f64, call the C library's double
functions lane by lane, so that their f32 results are rounded once from a result good to an f64 ulp.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from rlx.codegen.llvm.library import libm
from rlx.codegen.llvm.values import ValueEmitter

_LIBRARY_UNARY = (
    "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh",
    "atanh", "erf", "cbrt",
)  # fmt: skip


def _from_library(name: str) -> Callable[..., ir.Value]:
    return lambda f, *values: libm(f, name, values)


UNARY: dict[str, Callable[[ValueEmitter, ir.Value], ir.Value]] = {n: _from_library(n) for n in _LIBRARY_UNARY}
BINARY: dict[str, Callable[[ValueEmitter, ir.Value, ir.Value], ir.Value]] = {n: _from_library(n) for n in ("pow", "atan2")}
