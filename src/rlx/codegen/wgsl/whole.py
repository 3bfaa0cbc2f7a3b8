"""Integers in WGSL: division as RLX means it (x / 0 is all ones, x rem 0 is x, the least over -1 is the least), powers,
64-bit bit counts, and 64-bit integers to f32.
"""

WHOLE = """
fn rlx_div_i32(a: i32, b: i32) -> i32 {
  if (b == 0i) { return -1i; }
  if (b == -1i) { return 0i - a; }
  return a / b;
}
fn rlx_rem_i32(a: i32, b: i32) -> i32 {
  if (b == 0i) { return a; }
  if (b == -1i) { return 0i; }
  return a - (a / b) * b;
}
fn rlx_div_u32(a: u32, b: u32) -> u32 {
  if (b == 0u) { return 0xffffffffu; }
  return a / b;
}
fn rlx_rem_u32(a: u32, b: u32) -> u32 {
  if (b == 0u) { return a; }
  return a % b;
}
fn rlx_div_i64(a: i64, b: i64) -> i64 {
  if (b == 0li) { return -1li; }
  if (b == -1li) { return 0li - a; }
  return a / b;
}
fn rlx_rem_i64(a: i64, b: i64) -> i64 {
  if (b == 0li) { return a; }
  if (b == -1li) { return 0li; }
  return a - (a / b) * b;
}
fn rlx_div_u64(a: u64, b: u64) -> u64 {
  if (b == 0lu) { return ~0lu; }
  return a / b;
}
fn rlx_rem_u64(a: u64, b: u64) -> u64 {
  if (b == 0lu) { return a; }
  return a % b;
}
fn rlx_pow_u32(base: u32, exponent: u32) -> u32 {
  var result = 1u;
  var square = base;
  var left = exponent;
  while (left != 0u) {
    if ((left & 1u) == 1u) { result = result * square; }
    square = square * square;
    left = left >> 1u;
  }
  return result;
}
fn rlx_pow_i32(base: i32, exponent: i32) -> i32 {
  if (exponent < 0i) {
    if (base == 1i) { return 1i; }
    if (base == -1i) { return select(1i, -1i, (exponent & 1i) == 1i); }
    return 0i;
  }
  return i32(rlx_pow_u32(u32(base), u32(exponent)));
}
fn rlx_pow_u64(base: u64, exponent: u64) -> u64 {
  var result = 1lu;
  var square = base;
  var left = exponent;
  while (left != 0lu) {
    if ((u32(left) & 1u) == 1u) { result = result * square; }
    square = square * square;
    left = left >> 1u;
  }
  return result;
}
fn rlx_pow_i64(base: i64, exponent: i64) -> i64 {
  if (exponent < 0li) {
    if (base == 1li) { return 1li; }
    if (base == -1li) { return select(1li, -1li, (u32(exponent) & 1u) == 1u); }
    return 0li;
  }
  return i64(rlx_pow_u64(u64(base), u64(exponent)));
}
fn rlx_popcnt_u64(x: u64) -> u32 { return countOneBits(u32(x)) + countOneBits(u32(x >> 32u)); }
fn rlx_clz_u64(x: u64) -> u32 {
  let high = u32(x >> 32u);
  return select(countLeadingZeros(high), 32u + countLeadingZeros(u32(x)), high == 0u);
}
fn rlx_odd_u64(x: u64) -> f32 {
  // Rounded to odd, so that rounding again, to a narrower float, is rounding once (Boldo & Melquiond 2008).
  let zeros = rlx_clz_u64(x);
  if (zeros > 40u) { return f32(u32(x)); }
  let down = 40u - zeros;
  let kept = u32(x >> down);
  let lost = (x & ((1lu << down) - 1lu)) != 0lu;
  return f32(kept | select(0u, 1u, lost)) * rlx_power_of_two(i32(down));
}
fn rlx_odd_i64(x: i64) -> f32 {
  if (x < 0li) { return -rlx_odd_u64(u64(0li - x)); }
  return rlx_odd_u64(u64(x));
}
fn rlx_odd_u32(x: u32) -> f32 {
  let zeros = countLeadingZeros(x);
  if (zeros >= 8u) { return f32(x); }
  let down = 8u - zeros;
  let lost = (x & ((1u << down) - 1u)) != 0u;
  return f32((x >> down) | select(0u, 1u, lost)) * rlx_power_of_two(i32(down));
}
fn rlx_odd_i32(x: i32) -> f32 {
  if (x < 0i) { return -rlx_odd_u32(u32(0i - x)); }
  return rlx_odd_u32(u32(x));
}
fn rlx_f32_u64(x: u64) -> f32 {
  let zeros = rlx_clz_u64(x);
  if (zeros >= 40u) { return f32(u32(x)); }
  let down = 40u - zeros;
  let kept = u32(x >> down);
  let half = 1lu << (down - 1u);
  let lost = x & ((1lu << down) - 1lu);
  let up = (lost > half) | ((lost == half) & ((kept & 1u) == 1u));
  return f32(kept + select(0u, 1u, up)) * rlx_power_of_two(i32(down));
}
fn rlx_f32_i64(x: i64) -> f32 {
  if (x < 0li) { return -rlx_f32_u64(u64(0li - x)); }
  return rlx_f32_u64(u64(x));
}
fn rlx_u64_f32(x: f32) -> u64 {
  if (!(x >= 1.0f)) { return 0lu; }
  if (x >= 18446744073709551616.0f) { return ~0lu; }
  let bits = bitcast<u32>(x);
  let exponent = i32(bits >> 23u) - 150i;
  let mantissa = u64((bits & 0x7fffffu) | 0x800000u);
  if (exponent >= 0i) { return mantissa << u32(exponent); }
  return mantissa >> u32(0i - exponent);
}
fn rlx_i64_f32(x: f32) -> i64 {
  if (rlx_is_nan(x)) { return 0li; }
  if (x >= 9223372036854775808.0f) { return 9223372036854775807li; }
  if (x <= -9223372036854775808.0f) { return -9223372036854775807li - 1li; }
  let size = i64(rlx_u64_f32(rlx_abs(x)));
  return select(size, 0li - size, x < 0.0f);
}
"""
