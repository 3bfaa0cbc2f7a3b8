"""How each dtype lives in WGSL: the type of a value in registers, and its packing in storage.

Values. bool is `bool`; integers up to 32 bits are `i32` or `u32`, kept within their dtype's range; floats up to 32 bits
are `f32`, rounded to their dtype after each operation; i64 and u64 are naga's `i64` and `u64` where the adapter has
them, and pairs of words elsewhere (`wide_integers`). f64 and complex numbers have no code.

Storage is byte for byte what the host has. WGSL addresses words of 32 bits alone, so dtypes of one or two bytes lie
packed in `u32` words; where a kernel writes them the words are atomic, since threads write neighbouring bytes of one
word: each clears its own bits and sets them, which commutes with what the others do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlx.errors import UnsupportedKernel
from rlx.ir import dtypes
from rlx.ir.dtypes import DType

#: A 64-bit integer where shaders have none: the low word, the high word.
PAIR = "vec2<u32>"


@dataclass(frozen=True)
class WgslTarget:
    """What a shader may use.

    int64: the language extension for 64-bit integers. max_bindings: storage buffers a shader may see.
    max_binding_bytes: of one of them. max_buffer_bytes: of one buffer that holds what is bound. Both are multiples of
        256. workgroup_bytes: memory that a workgroup shares. The defaults are what every WebGPU device allows.
    max_turns: turns of loops after which the device leaves a shader's loops, silently, all of them together (Mesa's
        software adapter does); 0: it does not.
    """

    int64: bool = False
    max_bindings: int = 8
    max_binding_bytes: int = 128 << 20
    max_buffer_bytes: int = 256 << 20
    workgroup_bytes: int = 16 << 10
    max_turns: int = 0


def register_type(dtype: DType, target: WgslTarget) -> str:
    """The WGSL type of a value. Raises UnsupportedKernel where WGSL, or this target, has none."""
    if dtype.kind == "bool":
        return "bool"
    if dtype.is_integer and dtype.bits <= 32:
        return "i32" if dtype.kind == "int" else "u32"
    if dtype.is_float and dtype.bits <= 32:
        return "f32"
    if dtype.is_integer:
        return PAIR if not target.int64 else "i64" if dtype.kind == "int" else "u64"
    raise UnsupportedKernel(f"WGSL has no {dtype}", hint="convert the model to f32, or run it on another device")


def storage_type(dtype: DType, target: WgslTarget, *, written: bool) -> str:
    """The element type of a storage array that holds `dtype`."""
    if dtype.itemsize >= 4:
        return register_type(dtype, target)
    register_type(dtype, target)
    return "atomic<u32>" if written else "u32"


def is_packed(dtype: DType) -> bool:
    """Whether several elements share a word in storage."""
    return dtype.itemsize < 4


def literal(value: complex, dtype: DType, target: WgslTarget) -> str:
    """A constant, as WGSL spells it. What is no number lies in private variables, so that no constant is folded."""
    kind = register_type(dtype, target)
    if kind == "bool":
        return "true" if value else "false"
    if kind == "f32":
        with np.errstate(all="ignore"):
            number = float(np.asarray(value).astype(dtype.numpy).astype(np.float32))
        if np.isnan(number):
            return "bitcast<f32>(rlx_nan_bits)"
        if np.isinf(number):
            return "bitcast<f32>(rlx_inf_bits)" if number > 0 else "bitcast<f32>(rlx_inf_bits | 0x80000000u)"
        if number == 0 and np.signbit(number):
            return "bitcast<f32>(rlx_sign_bit)"
        return f"({number!r}f)" if number < 0 else f"{number!r}f"
    assert not isinstance(value, complex)
    number = int(np.array(int(value)).astype(dtype.numpy)) if dtype.bits != 64 else int(value)
    if kind == "u32":
        return f"{number}u"
    if kind == "i32":
        return f"i32({number})"
    if kind == PAIR:
        return f"{PAIR}({number & 0xFFFFFFFF}u, {(number >> 32) & 0xFFFFFFFF}u)"
    if kind == "u64":
        return f"{number & ((1 << 64) - 1)}lu"
    return f"({number}li)" if number > -(1 << 63) else "(-9223372036854775807li - 1li)"


def decode(bits: str, dtype: DType) -> str:
    """A packed element's bits (a u32, upper bits clear) as a value."""
    if dtype.kind == "bool":
        return f"({bits} != 0u)"
    if dtype.kind == "uint":
        return f"({bits} & 15u)" if dtype.bits == 4 else bits
    if dtype.kind == "int":
        shift = 32 - dtype.bits
        return f"(bitcast<i32>({bits} << {shift}u) >> {shift}u)"
    if dtype is dtypes.bf16:
        return f"bitcast<f32>({bits} << 16u)"
    return f"rlx_widen_{dtype}({bits})"


def encode(value: str, dtype: DType) -> str:
    """A value as a packed element's bits; bits above the element are anything."""
    if dtype.kind == "bool":
        return f"select(0u, 1u, {value})"
    if dtype.is_integer:
        return f"bitcast<u32>({value})" if dtype.kind == "int" else value
    return f"rlx_narrow_{dtype}({value})"


def wrapped(value: str, dtype: DType) -> str:
    """The result of arithmetic in the register's type, brought back into the dtype."""
    if dtype.is_integer and dtype.bits < 32:
        shift = 32 - dtype.bits
        return f"((({value}) << {shift}u) >> {shift}u)"
    if dtype.is_float and dtype.bits < 32:
        return f"rlx_round_{dtype}({value})"
    return value
