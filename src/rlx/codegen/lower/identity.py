"""Identities of the associative ops, and in which dtype they accumulate."""

from __future__ import annotations

import math

from rlx.codegen.kernel import Const
from rlx.ir.dtypes import DType, f32

#: Reductions of the IR and the associative op that combines their terms.
COMBINERS = {
    "reduce_sum": "add",
    "reduce_prod": "mul",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_and": "and",
    "reduce_or": "or",
}


def accumulator_dtype(combine: str, dtype: DType) -> DType:
    """f32 for sums and products of narrower floats, else the dtype itself."""
    return f32 if combine in ("add", "mul") and dtype.is_float and dtype.bits < 32 else dtype


def identity(combine: str, dtype: DType) -> Const:
    """The constant that leaves every value as it is under `combine`; -0 for sums would be exacter still, 0 is the
    convention of the reference meaning.
    """
    if combine == "add":
        return Const(0 if dtype.is_integer else 0.0, dtype)
    if combine == "mul":
        return Const(1 if dtype.is_integer else 1.0, dtype)
    if combine == "max":
        return lowest(dtype)
    if combine == "min":
        return highest(dtype)
    if dtype.kind == "bool":
        return Const(combine == "and", dtype)
    ones = (1 << dtype.bits) - 1 if dtype.kind == "uint" else -1
    return Const(ones if combine == "and" else 0, dtype)


def lowest(dtype: DType) -> Const:
    """What max starts from: -inf, the least number where there is no infinity, or False."""
    if dtype.kind == "bool":
        return Const(False, dtype)
    if dtype.is_integer:
        return Const(-(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0, dtype)
    return Const(-448.0 if dtype.name == "f8e4m3" else -math.inf, dtype)


def highest(dtype: DType) -> Const:
    """What min starts from: +inf, the greatest number where there is no infinity, or True."""
    if dtype.kind == "bool":
        return Const(True, dtype)
    if dtype.is_integer:
        return Const((1 << (dtype.bits - 1)) - 1 if dtype.kind == "int" else (1 << dtype.bits) - 1, dtype)
    return Const(448.0 if dtype.name == "f8e4m3" else math.inf, dtype)
