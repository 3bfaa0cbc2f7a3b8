"""What each pointwise primitive is in instructions: the one place where an op's name meets the dtypes.

Operands are in registers as `types` describes them, all scalar or all vectors of equal lanes. Narrow floats are widened
to f32, computed, and rounded once. An op or dtype that no emitter knows raises UnsupportedKernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from rlx.codegen.llvm import complex_numbers, conversion, floats, integers
from rlx.codegen.llvm.memory import MemoryEmitter
from rlx.codegen.llvm.small_floats import narrow, widen
from rlx.codegen.llvm.types import Complex, Value, is_small_float, real
from rlx.errors import UnsupportedKernel
from rlx.ir import dtypes
from rlx.ir.dtypes import DType

_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
#: Bits of the largest magnitude that is not NaN, for each float format.
_LARGEST = {
    dtypes.f8e4m3: 0x7E,
    dtypes.f8e5m2: 0x7C,
    dtypes.f16: 0x7C00,
    dtypes.bf16: 0x7F80,
    dtypes.f32: 0x7F800000,
    dtypes.f64: 0x7FF0000000000000,
}


def apply_pointwise(f: MemoryEmitter, op: str, values: Sequence[Value], sources: Sequence[DType], to: DType) -> Value:
    """The primitive `op` on `values` of dtypes `sources`, giving dtype `to`."""
    source = sources[0]
    match op:
        case "select":
            mask = values[0]
            return f.select(real(mask), values[1], values[2])
        case "convert":
            return conversion.convert(f, values[0], source, to)
        case "bitcast_convert":
            return conversion.bitcast(f, real(values[0]), source, to)
        case "complex":
            return Complex(values[0], values[1])
    result: Value | None
    if source.is_complex:
        result = complex_numbers.apply(f, op, [v for v in values if isinstance(v, Complex)], source)
    else:
        result = _apply_real(f, op, [real(v) for v in values], source, to)
    if result is None:
        raise UnsupportedKernel(
            f"no code for the primitive {op!r} on {source}", hint="the op's type rule refuses this dtype"
        )
    return result


def _apply_real(f: MemoryEmitter, op: str, values: list[ir.Value], source: DType, to: DType) -> ir.Value | None:
    if source.is_float:
        return _apply_float(f, op, values, source, to)
    if op in _COMPARISONS:
        return integers.compare(f, op, values[0], values[1], source)
    if source.kind == "bool":
        return integers.boolean(f, op, values)
    return integers.integer(f, op, values, source)


def _apply_float(f: MemoryEmitter, op: str, values: list[ir.Value], source: DType, to: DType) -> ir.Value | None:
    small = is_small_float(source)
    if op == "nextafter":
        if small:
            return floats.next_after(f, values[0], values[1], source.bits, _LARGEST[source])
        x, y = (f.as_int(v) for v in values)
        return f.as_float(floats.next_after(f, x, y, source.bits, _LARGEST[source]))
    if small:
        values = [widen(f, v, source) for v in values]
    if op in _COMPARISONS:
        return floats.compare(f, op, *values)
    result = floats.floating(f, op, values)
    return narrow(f, result, to) if small and result is not None and to.is_float else result
