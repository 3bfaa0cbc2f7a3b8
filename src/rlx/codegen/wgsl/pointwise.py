"""What each pointwise primitive is in WGSL: the one place where an op's name meets the dtypes.

Operands and results are WGSL expressions, in registers as `types` describes them. Functions named rlx_* come from
`library`. NaN and infinity are kept: comparisons of f32 test bits, since shader compilers assume that numbers are
numbers (`x != x` folds to false).
"""

from __future__ import annotations

from collections.abc import Sequence

from rlx.codegen.wgsl.types import WgslTarget, decode, encode, is_packed, register_type, wrapped
from rlx.codegen.wgsl.wide_integers import apply_wide, is_wide
from rlx.errors import UnsupportedKernel
from rlx.ir import dtypes
from rlx.ir.dtypes import DType

_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*"}
_LOGIC = {"and": "&", "or": "|", "xor": "^"}
#: Functions of one or two f32, all in `library` under the same name.
_ELEMENTARY = frozenset(
    "exp expm1 log log1p rsqrt sqrt cbrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh logistic erf pow "
    "atan2 rem div max min sign".split()
)

#: Bits of the largest magnitude that is a number.
_LARGEST = {dtypes.f16: 0x7C00, dtypes.bf16: 0x7F80, dtypes.f8e4m3: 0x7E, dtypes.f8e5m2: 0x7C}


def apply_pointwise(op: str, args: Sequence[str], sources: Sequence[DType], to: DType, target: WgslTarget) -> str:
    """The primitive `op` on values of dtypes `sources`, giving dtype `to`. Raises UnsupportedKernel."""
    for dtype in (*sources, to):
        register_type(dtype, target)
    source = sources[0]
    result: str | None
    if op == "select":
        result = f"select({args[2]}, {args[1]}, {args[0]})"
    elif op == "clamp":
        low = apply_pointwise("max", (args[1], args[0]), (source, source), to, target)
        result = apply_pointwise("min", (low, args[2]), (source, source), to, target)
    elif not target.int64 and any(is_wide(d) for d in (*sources, to)):
        result = apply_wide(op, args, sources, to, target)
    elif op == "convert":
        result = _convert(args[0], source, to, target)
    elif op == "bitcast_convert":
        result = _bitcast(args[0], source, to, target)
    elif source.is_float:
        result = _float(op, args, source)
    elif source.kind == "bool":
        result = _bool(op, args)
    else:
        result = _integer(op, args, source, target)
    if result is None:
        raise UnsupportedKernel(f"WGSL has no code for the primitive {op!r} on {source}")
    return result


def _float(op: str, args: Sequence[str], source: DType) -> str | None:
    x = args[0]
    if op in _COMPARE:
        return f"rlx_{op}({args[0]}, {args[1]})"
    match op:
        case "neg":
            return f"bitcast<f32>(bitcast<u32>({x}) ^ 0x80000000u)"
        case "abs":
            return f"bitcast<f32>(bitcast<u32>({x}) & 0x7fffffffu)"
        case "is_finite":
            return f"((bitcast<u32>({x}) & 0x7f800000u) != 0x7f800000u)"
        case "floor" | "ceil" | "round":
            return wrapped(f"{op}({x})", source)
        case "nextafter":
            if source is dtypes.f32:
                return f"rlx_nextafter({args[0]}, {args[1]})"
            bits = [encode(a, source) for a in args]
            moved = f"rlx_next_bits({bits[0]}, {bits[1]}, {source.bits - 1}u, {_LARGEST[source]}u)"
            return decode(moved, source)
    if op in _ARITHMETIC:
        return wrapped(f"({args[0]} {_ARITHMETIC[op]} {args[1]})", source)
    if op in _ELEMENTARY:
        return wrapped(f"rlx_{op}({', '.join(args)})", source)
    return None


def _bool(op: str, args: Sequence[str]) -> str | None:
    match op:
        case "not":
            return f"(!{args[0]})"
        case "and" | "min":
            return f"({args[0]} & {args[1]})"
        case "or" | "max":
            return f"({args[0]} | {args[1]})"
        case "xor" | "ne":
            return f"({args[0]} != {args[1]})"
        case "eq":
            return f"({args[0]} == {args[1]})"
        case "lt":
            return f"((!{args[0]}) & {args[1]})"
        case "gt":
            return f"({args[0]} & (!{args[1]}))"
        case "le":
            return f"((!{args[0]}) | {args[1]})"
        case "ge":
            return f"({args[0]} | (!{args[1]}))"
    return None


def _integer(op: str, args: Sequence[str], source: DType, target: WgslTarget) -> str | None:
    kind = register_type(source, target)
    x = args[0]
    signed, bits = source.kind == "int", source.bits
    if op in _COMPARE:
        return f"({x} {_COMPARE[op]} {args[1]})"
    if op in _ARITHMETIC:
        return wrapped(f"({x} {_ARITHMETIC[op]} {args[1]})", source)
    if op in _LOGIC:
        return f"({x} {_LOGIC[op]} {args[1]})"
    match op:
        case "not":
            return wrapped(f"(~{x})", source)
        case "neg":
            return wrapped(f"({kind}(0) - {x})", source)
        case "max" | "min":
            return f"{op}({x}, {args[1]})"
        case "abs":
            return wrapped(f"select({x}, {kind}(0) - {x}, {x} < {kind}(0))", source) if signed else x
        case "sign":
            below = f"select({kind}(0), {kind}(-1), {x} < {kind}(0))" if signed else f"{kind}(0)"
            return f"select({below}, {kind}(1), {x} > {kind}(0))"
        case "div" | "rem":
            return wrapped(f"rlx_{op}_{kind}({x}, {args[1]})", source)
        case "popcnt" | "clz":
            word = f"bitcast<u{max(32, bits)}>({x})" if signed else x
            if bits == 64:
                return f"{kind}(rlx_{op}_u64({word}))"
            if op == "popcnt":
                mask = "" if bits == 32 else f" & {(1 << bits) - 1}u"
                return f"{kind}(countOneBits({word}{mask}))"
            mask = word if bits == 32 else f"({word} & {(1 << bits) - 1}u)"
            return (
                f"({kind}(countLeadingZeros({mask})) - {kind}({32 - bits}))"
                if bits < 32
                else f"{kind}(countLeadingZeros({mask}))"
            )
        case "shift_left" | "shift_right_logical" | "shift_right_arithmetic":
            return _shift(op, x, args[1], source, kind)
        case "pow":
            return wrapped(f"rlx_pow_{kind}({x}, {args[1]})", source)
    return None


def _shift(op: str, x: str, by: str, source: DType, kind: str) -> str:
    """Shifts by the width or more, or by a negative count, leave zeros, or the sign."""
    bits = source.bits
    unsigned = f"u{max(32, bits)}"
    count = f"bitcast<{unsigned}>({by})" if source.kind == "int" else by
    limit = f"{bits}lu" if bits == 64 else f"{bits}u"
    inside = f"({count} < {limit})"
    amount = f"u32({count})" if bits == 64 else count
    if op == "shift_left":
        return wrapped(f"select({kind}(0), {x} << ({amount} & {max(31, bits - 1)}u), {inside})", source)
    if op == "shift_right_arithmetic" and source.kind == "int":
        return f"({x} >> select({bits - 1}u, {amount}, {inside}))"
    value = f"bitcast<{unsigned}>({x})" if source.kind == "int" else x
    if bits < 32:
        value = f"({value} & {(1 << bits) - 1}u)"
    zero = "0lu" if bits == 64 else "0u"
    shifted = f"select({zero}, {value} >> ({amount} & {max(31, bits - 1)}u), {inside})"
    return wrapped(f"bitcast<{kind}>({shifted})" if source.kind == "int" else shifted, source)


def _convert(x: str, source: DType, to: DType, target: WgslTarget) -> str:
    if source is to:
        return x
    have, want = register_type(source, target), register_type(to, target)
    if want == "bool":
        return f"((bitcast<u32>({x}) & 0x7fffffffu) != 0u)" if have == "f32" else f"({x} != {have}(0))"
    if have == "bool":
        ones = {
            "i32": ("0i", "1i"),
            "u32": ("0u", "1u"),
            "f32": ("0.0f", "1.0f"),
            "i64": ("0li", "1li"),
            "u64": ("0lu", "1lu"),
        }
        zero, one = ones[want]
        return f"select({zero}, {one}, {x})"
    if have == "f32" and want == "f32":
        return wrapped(x, to)
    if have == "f32":
        return _float_to_integer(x, to, want)
    if want == "f32":
        if to is not dtypes.f32 and source.bits > 24:
            return f"rlx_round_{to}(rlx_odd_{have}({x}))"
        return wrapped(f"rlx_f32_{have}({x})" if source.bits == 64 else f"f32({x})", to)
    if (have, want) == ("i32", "u64"):
        return f"u64(i64({x}))"  # the extension of the sign, or of zeros, is the source's
    if (have, want) == ("u32", "i64"):
        return f"i64(u64({x}))"
    return wrapped(x if have == want else f"{want}({x})", to)


def _float_to_integer(x: str, to: DType, want: str) -> str:
    if to.bits >= 32:
        return f"rlx_{want}_f32({x})"
    least, most = (-(1 << (to.bits - 1)), (1 << (to.bits - 1)) - 1) if to.kind == "int" else (0, (1 << to.bits) - 1)
    return f"{want}(clamp(rlx_i32_f32({x}), i32({least}), i32({most})))"


def _bitcast(x: str, source: DType, to: DType, target: WgslTarget) -> str | None:
    have, want = register_type(source, target), register_type(to, target)
    if have == want and (not is_packed(source) or source is to):
        return x
    if not is_packed(source):
        return f"bitcast<{want}>({x})"
    if "bool" in (have, want):
        return None
    if source.is_float:
        bits = f"(bitcast<u32>({x}) >> 16u)" if source is dtypes.bf16 else f"rlx_narrow_{source}({x})"
    else:
        bits = f"bitcast<u32>({x})" if have == "i32" else x
    mask = f"({bits} & {(1 << to.bits) - 1}u)"
    return decode(mask, to)
