"""i64 and u64 where shaders have none: pairs of u32, the low word first, which is how storage holds them anyway.

Exact in every op: sums carry, products are built of halves, division goes bit by bit (at most 32 turns). Browsers and
Metal need this; where the adapter has 64-bit integers, `pointwise` uses those.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlx.codegen.wgsl.types import PAIR, WgslTarget, register_type, wrapped
from rlx.errors import UnsupportedKernel
from rlx.ir import dtypes
from rlx.ir.dtypes import DType

_NOT = {"ne": "eq", "ge": "lt", "le": "gt"}


def is_wide(dtype: DType) -> bool:
    """Whether a value of the dtype is a pair, on targets without 64-bit integers."""
    return dtype.is_integer and dtype.bits == 64


def apply_wide(op: str, args: Sequence[str], sources: Sequence[DType], to: DType, target: WgslTarget) -> str:
    """The primitive `op` where an operand or the result is a pair. Raises UnsupportedKernel."""
    if op == "convert":
        return _convert(args[0], sources[0], to, target)
    result = _integer(op, args, "i64" if sources[0].kind == "int" else "u64")
    if result is None or not all(is_wide(d) for d in sources):
        raise UnsupportedKernel(f"WGSL has no code for the primitive {op!r} on {sources[0]}")
    return result


def _integer(op: str, args: Sequence[str], kind: str) -> str | None:
    x, y = args[0], args[-1]
    match op:
        case "add" | "sub" | "mul" | "eq" | "neg" | "popcnt" | "clz":
            return f"rlx_wide_{op}({', '.join(args)})"
        case "and" | "or" | "xor":
            return f"({x} {({'and': '&', 'or': '|', 'xor': '^'})[op]} {y})"
        case "not":
            return f"(~{x})"
        case "lt":
            return f"rlx_wide_lt_{kind}({x}, {y})"
        case "gt":
            return f"rlx_wide_lt_{kind}({y}, {x})"
        case "ne" | "ge" | "le":
            return f"(!{_integer(_NOT[op], args, kind)})"
        case "min":
            return f"select({x}, {y}, rlx_wide_lt_{kind}({y}, {x}))"
        case "max":
            return f"select({x}, {y}, rlx_wide_lt_{kind}({x}, {y}))"
        case "div" | "rem" | "pow" | "sign":
            return f"rlx_wide_{op}_{kind}({', '.join(args)})"
        case "abs":
            return f"rlx_wide_abs({x})" if kind == "i64" else x
        case "shift_left" | "shift_right_logical":
            return f"select({PAIR}(0u), rlx_wide_{op}({x}, {y}.x & 63u), {_inside(y)})"
        case "shift_right_arithmetic":
            if kind == "u64":
                return _integer("shift_right_logical", args, kind)
            return f"rlx_wide_{op}({x}, select(63u, {y}.x & 63u, {_inside(y)}))"
        case "bitcast_convert":
            return x
    return None


def _inside(count: str) -> str:
    """Whether a shift's count is below the width: a negative one, as bits, is not."""
    return f"(({count}.y == 0u) & ({count}.x < 64u))"


def _convert(x: str, source: DType, to: DType, target: WgslTarget) -> str:
    if is_wide(source) and is_wide(to):
        return x
    have, want = register_type(source, target), register_type(to, target)
    if is_wide(to):
        match have:
            case "bool":
                return f"{PAIR}(select(0u, 1u, {x}), 0u)"
            case "i32":
                return f"rlx_wide_i32({x})"
            case "u32":
                return f"{PAIR}({x}, 0u)"
        return f"rlx_wide_{to}_f32({x})"
    match want:
        case "bool":
            return f"any({x} != {PAIR}(0u))"
        case "i32":
            return wrapped(f"bitcast<i32>({x}.x)", to)
        case "u32":
            return wrapped(f"{x}.x", to)
    if to is dtypes.f32:
        return f"rlx_wide_f32_{source}({x})"
    return f"rlx_round_{to}(rlx_wide_odd_{source}({x}))"


#: Functions of `library`.
WIDE_INTEGERS = """
fn rlx_wide_i32(x: i32) -> vec2<u32> { return vec2<u32>(bitcast<u32>(x), bitcast<u32>(x >> 31u)); }
fn rlx_wide_add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let low = a.x + b.x;
  return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}
fn rlx_wide_sub(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}
fn rlx_wide_neg(a: vec2<u32>) -> vec2<u32> { return rlx_wide_sub(vec2<u32>(0u), a); }
fn rlx_wide_product(a: u32, b: u32) -> vec2<u32> {
  // All of a * b: four products of halves, the middle ones' sum carrying into the upper word.
  let low = (a & 0xffffu) * (b & 0xffffu);
  let first = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
  let second = (a & 0xffffu) * (b >> 16u) + (first & 0xffffu);
  return vec2<u32>((low & 0xffffu) | (second << 16u), (a >> 16u) * (b >> 16u) + (first >> 16u) + (second >> 16u));
}
fn rlx_wide_mul(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let low = rlx_wide_product(a.x, b.x);
  return vec2<u32>(low.x, low.y + a.x * b.y + a.y * b.x);
}
fn rlx_wide_eq(a: vec2<u32>, b: vec2<u32>) -> bool { return (a.x == b.x) & (a.y == b.y); }
fn rlx_wide_lt_u64(a: vec2<u32>, b: vec2<u32>) -> bool { return (a.y < b.y) | ((a.y == b.y) & (a.x < b.x)); }
fn rlx_wide_lt_i64(a: vec2<u32>, b: vec2<u32>) -> bool {
  return (bitcast<i32>(a.y) < bitcast<i32>(b.y)) | ((a.y == b.y) & (a.x < b.x));
}
fn rlx_wide_is_negative(a: vec2<u32>) -> bool { return (a.y >> 31u) == 1u; }
fn rlx_wide_abs(a: vec2<u32>) -> vec2<u32> { return select(a, rlx_wide_neg(a), rlx_wide_is_negative(a)); }
fn rlx_wide_sign_u64(a: vec2<u32>) -> vec2<u32> { return vec2<u32>(select(0u, 1u, (a.x | a.y) != 0u), 0u); }
fn rlx_wide_sign_i64(a: vec2<u32>) -> vec2<u32> {
  return select(rlx_wide_sign_u64(a), vec2<u32>(0xffffffffu), rlx_wide_is_negative(a));
}
fn rlx_wide_popcnt(a: vec2<u32>) -> vec2<u32> { return vec2<u32>(countOneBits(a.x) + countOneBits(a.y), 0u); }
fn rlx_wide_zeros(a: vec2<u32>) -> u32 {
  return select(countLeadingZeros(a.y), 32u + countLeadingZeros(a.x), a.y == 0u);
}
fn rlx_wide_clz(a: vec2<u32>) -> vec2<u32> { return vec2<u32>(rlx_wide_zeros(a), 0u); }
fn rlx_wide_shift_left(a: vec2<u32>, by: u32) -> vec2<u32> {
  if (by == 0u) { return a; }
  if (by >= 32u) { return vec2<u32>(0u, a.x << (by & 31u)); }
  return vec2<u32>(a.x << by, (a.y << by) | (a.x >> (32u - by)));
}
fn rlx_wide_shift_right_logical(a: vec2<u32>, by: u32) -> vec2<u32> {
  if (by == 0u) { return a; }
  if (by >= 32u) { return vec2<u32>(a.y >> (by & 31u), 0u); }
  return vec2<u32>((a.x >> by) | (a.y << (32u - by)), a.y >> by);
}
fn rlx_wide_shift_right_arithmetic(a: vec2<u32>, by: u32) -> vec2<u32> {
  return select(
    rlx_wide_shift_right_logical(a, by), ~rlx_wide_shift_right_logical(~a, by), rlx_wide_is_negative(a));
}
fn rlx_wide_quotient(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  // b is not 0. By a divisor of one word: the upper word's quotient, then a word's worth of bits into the remainder.
  if (b.y == 0u) {
    let high = a.y / b.x;
    var left = a.y % b.x;
    if (left == 0u) { return vec2<u32>(a.x / b.x, high); }
    var low = 0u;
    for (var bit = 0u; bit < 32u; bit = bit + 1u) {
      let over = left >> 31u;
      left = (left << 1u) | ((a.x >> (31u - bit)) & 1u);
      low = low << 1u;
      if ((over == 1u) || (left >= b.x)) {
        left = left - b.x;
        low = low | 1u;
      }
    }
    return vec2<u32>(low, high);
  }
  // By one of two words: the quotient has one, a bit for each place the divisor can be shifted.
  if (rlx_wide_lt_u64(a, b)) { return vec2<u32>(0u); }
  var rest = a;
  var low = 0u;
  for (var by = countLeadingZeros(b.y) - countLeadingZeros(a.y) + 1u; by > 0u; by = by - 1u) {
    let part = rlx_wide_shift_left(b, by - 1u);
    if (!rlx_wide_lt_u64(rest, part)) {
      rest = rlx_wide_sub(rest, part);
      low = low | (1u << (by - 1u));
    }
  }
  return vec2<u32>(low, 0u);
}
fn rlx_wide_div_u64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  if ((b.x | b.y) == 0u) { return vec2<u32>(0xffffffffu); }
  return rlx_wide_quotient(a, b);
}
fn rlx_wide_rem_u64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  if ((b.x | b.y) == 0u) { return a; }
  return rlx_wide_sub(a, rlx_wide_mul(rlx_wide_quotient(a, b), b));
}
fn rlx_wide_div_i64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  if ((b.x | b.y) == 0u) { return vec2<u32>(0xffffffffu); }
  let size = rlx_wide_quotient(rlx_wide_abs(a), rlx_wide_abs(b));
  return select(size, rlx_wide_neg(size), rlx_wide_is_negative(a) != rlx_wide_is_negative(b));
}
fn rlx_wide_rem_i64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  if ((b.x | b.y) == 0u) { return a; }
  return rlx_wide_sub(a, rlx_wide_mul(rlx_wide_div_i64(a, b), b));
}
fn rlx_wide_pow_u64(base: vec2<u32>, exponent: vec2<u32>) -> vec2<u32> {
  var result = vec2<u32>(1u, 0u);
  var square = base;
  var left = exponent;
  while ((left.x | left.y) != 0u) {
    if ((left.x & 1u) == 1u) { result = rlx_wide_mul(result, square); }
    square = rlx_wide_mul(square, square);
    left = rlx_wide_shift_right_logical(left, 1u);
  }
  return result;
}
fn rlx_wide_pow_i64(base: vec2<u32>, exponent: vec2<u32>) -> vec2<u32> {
  if (rlx_wide_is_negative(exponent)) {
    let one = vec2<u32>(1u, 0u);
    if (rlx_wide_eq(base, one)) { return one; }
    if (rlx_wide_eq(base, rlx_wide_neg(one))) { return select(one, base, (exponent.x & 1u) == 1u); }
    return vec2<u32>(0u);
  }
  return rlx_wide_pow_u64(base, exponent);
}
fn rlx_wide_odd_u64(x: vec2<u32>) -> f32 {
  // Rounded to odd, so that rounding again, to a narrower float, is rounding once (Boldo & Melquiond 2008).
  let zeros = rlx_wide_zeros(x);
  if (zeros > 40u) { return f32(x.x); }
  let down = 40u - zeros;
  let kept = rlx_wide_shift_right_logical(x, down);
  let back = rlx_wide_shift_left(kept, down);
  return f32(kept.x | select(1u, 0u, rlx_wide_eq(back, x))) * rlx_power_of_two(i32(down));
}
fn rlx_wide_odd_i64(x: vec2<u32>) -> f32 {
  if (rlx_wide_is_negative(x)) { return -rlx_wide_odd_u64(rlx_wide_neg(x)); }
  return rlx_wide_odd_u64(x);
}
fn rlx_wide_f32_u64(x: vec2<u32>) -> f32 {
  let zeros = rlx_wide_zeros(x);
  if (zeros >= 40u) { return f32(x.x); }
  let down = 40u - zeros;
  let kept = rlx_wide_shift_right_logical(x, down);
  let half = rlx_wide_shift_left(vec2<u32>(1u, 0u), down - 1u);
  let lost = rlx_wide_sub(x, rlx_wide_shift_left(kept, down));
  let up = rlx_wide_lt_u64(half, lost) | (rlx_wide_eq(half, lost) & ((kept.x & 1u) == 1u));
  return f32(kept.x + select(0u, 1u, up)) * rlx_power_of_two(i32(down));
}
fn rlx_wide_f32_i64(x: vec2<u32>) -> f32 {
  if (rlx_wide_is_negative(x)) { return -rlx_wide_f32_u64(rlx_wide_neg(x)); }
  return rlx_wide_f32_u64(x);
}
fn rlx_wide_u64_f32(x: f32) -> vec2<u32> {
  if (!(x >= 1.0f)) { return vec2<u32>(0u); }
  if (x >= 18446744073709551616.0f) { return vec2<u32>(0xffffffffu); }
  let bits = bitcast<u32>(x);
  let exponent = i32(bits >> 23u) - 150i;
  let mantissa = vec2<u32>((bits & 0x7fffffu) | 0x800000u, 0u);
  if (exponent >= 0i) { return rlx_wide_shift_left(mantissa, u32(exponent)); }
  return rlx_wide_shift_right_logical(mantissa, u32(0i - exponent));
}
fn rlx_wide_i64_f32(x: f32) -> vec2<u32> {
  if (rlx_is_nan(x)) { return vec2<u32>(0u); }
  if (x >= 9223372036854775808.0f) { return vec2<u32>(0xffffffffu, 0x7fffffffu); }
  if (x <= -9223372036854775808.0f) { return vec2<u32>(0u, 0x80000000u); }
  let size = rlx_wide_u64_f32(rlx_abs(x));
  return select(size, rlx_wide_neg(size), x < 0.0f);
}
"""
