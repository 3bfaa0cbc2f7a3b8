"""How each dtype lies in memory and in registers.

In registers a bool is an i1, i4 and u4 are an i8 that holds the value itself (sign or zero extended), f8, f16 and
bf16 are their bits as an integer (arithmetic widens them to f32 and rounds once), and a complex number is a pair
`Complex` of floats. Everything else is what LLVM calls it. In memory a bool is a byte, a complex number is (re, im).
A vector of lanes is an LLVM vector of the register type, for complex numbers a pair of vectors.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from rlx.ir import dtypes
from rlx.ir.dtypes import DType

I1 = ir.IntType(1)
I8 = ir.IntType(8)
I16 = ir.IntType(16)
I32 = ir.IntType(32)
I64 = ir.IntType(64)


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


#: What instructions for bf16 take; elsewhere it is an I16.
BFLOAT = _BFloat()
F32 = ir.FloatType()
F64 = ir.DoubleType()
PTR = ir.PointerType()
VOID = ir.VoidType()

_INTS = {1: I1, 8: I8, 16: I16, 32: I32, 64: I64}


class Complex(NamedTuple):
    """A complex value in registers: two floats, or two vectors of floats."""

    re: Any
    im: Any

    @property
    def type(self) -> ir.Type:
        return self.re.type


Value = ir.Value | Complex


def real(value: Value) -> ir.Value:
    """A value that the caller knows is not complex."""
    assert not isinstance(value, Complex)
    return value


def is_small_float(dtype: DType) -> bool:
    """f8, f16, bf16: computed in f32."""
    return dtype.kind == "float" and dtype.bits < 32


def component(dtype: DType) -> DType:
    """The dtype of a complex dtype's parts; any other dtype itself."""
    if dtype is dtypes.c64:
        return dtypes.f32
    if dtype is dtypes.c128:
        return dtypes.f64
    return dtype


def register_type(dtype: DType) -> ir.Type:
    """The LLVM type of one lane; of one component for complex dtypes."""
    if dtype.kind == "bool":
        return I1
    if dtype.kind in ("int", "uint"):
        return _INTS[max(8, dtype.bits)]
    if dtype.kind == "float":
        return F64 if dtype.bits == 64 else F32 if dtype.bits == 32 else _INTS[dtype.bits]
    return register_type(component(dtype))


def memory_type(dtype: DType) -> ir.Type:
    """The LLVM type of one element in memory; of one component for complex dtypes."""
    return I8 if dtype.kind == "bool" else register_type(dtype)


def int_type(bits: int) -> ir.IntType:
    return _INTS[bits]


def vector(element: ir.Type, lanes: int) -> ir.Type:
    """`element` itself for one lane."""
    return element if lanes == 1 else ir.VectorType(element, lanes)


def lanes_of(type_: ir.Type) -> int:
    return type_.count if isinstance(type_, ir.VectorType) else 1


def element_of(type_: ir.Type) -> ir.Type:
    return type_.element if isinstance(type_, ir.VectorType) else type_


def like(element: ir.Type, type_: ir.Type) -> ir.Type:
    """`element` in as many lanes as `type_`."""
    return vector(element, lanes_of(type_))


def bits_of(type_: ir.Type) -> int:
    """Width of one lane."""
    element = element_of(type_)
    if isinstance(element, ir.IntType):
        return element.width
    return 64 if element == F64 else 32


def suffix(type_: ir.Type) -> str:
    """A type in the name of an intrinsic: f32, v16i8, p0, ..."""
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{suffix(type_.element)}"
    if isinstance(type_, ir.PointerType):
        return "p0"
    if isinstance(type_, ir.IntType):
        return f"i{type_.width}"
    return "f64" if type_ == F64 else "f32"


class Literal(ir.Constant):
    """A constant written as LLVM spells it."""

    def __init__(self, type_: ir.Type, text: str) -> None:
        self.type = type_
        self.constant = text

    def _get_reference(self) -> str:
        return self.constant


def undefined(type_: ir.Type) -> ir.Constant:
    """Any value, for lanes that are not read."""
    return Literal(type_, "poison")


def splat_constant(scalar: ir.Constant, lanes: int) -> ir.Constant:
    """A scalar constant in every lane."""
    return Literal(ir.VectorType(scalar.type, lanes), f"splat ({scalar.type} {scalar.get_reference()})")


def constant(type_: ir.Type, value: int | float) -> ir.Constant:
    """A constant of a scalar or vector type, the same in each lane."""
    element = element_of(type_)
    if isinstance(element, ir.IntType):
        value = int(value)
        if element.width == 1:
            value &= 1
    else:
        value = float(value)
    scalar = ir.Constant(element, value)
    return splat_constant(scalar, type_.count) if isinstance(type_, ir.VectorType) else scalar


def lane_constants(element: ir.Type, values: list[int] | range) -> ir.Constant:
    """A vector constant, lane by lane."""
    return ir.Constant(ir.VectorType(element, len(values)), [ir.Constant(element, v) for v in values])


def dtype_constant(dtype: DType, value: int | float | bool | complex) -> Value:
    """`value` as the dtype holds it, in its register type."""
    if dtype.is_complex:
        part = register_type(dtype)
        value = complex(value)
        return Complex(ir.Constant(part, value.real), ir.Constant(part, value.imag))
    type_ = register_type(dtype)
    if dtype.kind == "bool":
        return ir.Constant(I1, int(bool(value)))
    assert not isinstance(value, complex)
    if dtype.is_integer:
        return ir.Constant(type_, int(value))
    if is_small_float(dtype):
        with np.errstate(all="ignore"):
            raw = np.asarray(value, np.float64).astype(dtype.numpy).tobytes()
        return ir.Constant(type_, int.from_bytes(raw, "little"))
    if dtype is dtypes.f32:
        with np.errstate(all="ignore"):
            value = struct.unpack("<f", np.float32(value).tobytes())[0]
    return ir.Constant(type_, float(value))
