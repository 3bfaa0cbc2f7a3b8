"""f32 in WGSL: comparisons and arithmetic that keep NaN, infinity and the sign of zero; narrow floats by their bits.

The narrow formats (f16, bf16, f8) are widened exactly and rounded once, to nearest even, in integer arithmetic.
"""

FLOATS = """
fn rlx_is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn rlx_eq(a: f32, b: f32) -> bool { return (a == b) & !rlx_is_nan(a) & !rlx_is_nan(b); }
fn rlx_ne(a: f32, b: f32) -> bool { return !rlx_eq(a, b); }
fn rlx_lt(a: f32, b: f32) -> bool { return (a < b) & !rlx_is_nan(a) & !rlx_is_nan(b); }
fn rlx_gt(a: f32, b: f32) -> bool { return rlx_lt(b, a); }
fn rlx_le(a: f32, b: f32) -> bool { return (a <= b) & !rlx_is_nan(a) & !rlx_is_nan(b); }
fn rlx_ge(a: f32, b: f32) -> bool { return rlx_le(b, a); }
fn rlx_order(x: f32) -> i32 {
  let bits = bitcast<i32>(x);
  return select(bits, bits ^ 0x7fffffff, bits < 0i);
}
fn rlx_max(a: f32, b: f32) -> f32 {
  let larger = select(b, a, rlx_order(a) > rlx_order(b));
  return select(select(larger, b, rlx_is_nan(b)), a, rlx_is_nan(a));
}
fn rlx_min(a: f32, b: f32) -> f32 {
  let smaller = select(b, a, rlx_order(a) < rlx_order(b));
  return select(select(smaller, b, rlx_is_nan(b)), a, rlx_is_nan(a));
}
fn rlx_copysign(size: f32, sign: f32) -> f32 {
  return bitcast<f32>((bitcast<u32>(size) & 0x7fffffffu) | (bitcast<u32>(sign) & 0x80000000u));
}
fn rlx_abs(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) & 0x7fffffffu); }
fn rlx_sign(x: f32) -> f32 {
  let none = rlx_is_nan(x) | ((bitcast<u32>(x) & 0x7fffffffu) == 0u);
  return select(rlx_copysign(1.0f, x), x, none);
}
fn rlx_nan() -> f32 { return bitcast<f32>(rlx_nan_bits); }
fn rlx_inf() -> f32 { return bitcast<f32>(rlx_inf_bits); }
fn rlx_div(a: f32, b: f32) -> f32 {
  // A GPU may divide by way of the reciprocal, which is denormal, and so may be zero, for divisors above 2**126.
  let scale = select(1.0f, 0.25f, (bitcast<u32>(b) & 0x7fffffffu) > 0x7e000000u);
  return (a * scale) / (b * scale);
}
fn rlx_sqrt(x: f32) -> f32 { return sqrt(x); }
fn rlx_rsqrt(x: f32) -> f32 { return 1.0f / sqrt(x); }
fn rlx_power_of_two(n: i32) -> f32 { return bitcast<f32>(bitcast<u32>((n + 127i) << 23u)); }
fn rlx_rem(x: f32, y: f32) -> f32 {
  let ax = bitcast<u32>(x) & 0x7fffffffu;
  let ay = bitcast<u32>(y) & 0x7fffffffu;
  if (ax >= 0x7f800000u || ay > 0x7f800000u || ay == 0u) { return rlx_nan(); }
  if (ax < ay) { return x; }
  var ex = i32(ax >> 23u);
  let ey = max(i32(ay >> 23u), 1i);
  var mx = select(ax, (ax & 0x7fffffu) | 0x800000u, ex > 0i);
  let my = select(ay, (ay & 0x7fffffu) | 0x800000u, (ay >> 23u) > 0u);
  ex = max(ex, 1i);
  mx = mx % my;
  while (ex > ey && mx != 0u) {
    let step = min(ex - ey, 8i);
    mx = (mx << u32(step)) % my;
    ex = ex - step;
  }
  var result = 0u;
  if (mx != 0u) {
    let shift = min(i32(countLeadingZeros(mx)) - 8i, ey - 1i);
    mx = mx << u32(shift);
    let exponent = ey - shift;
    result = select(mx, (mx & 0x7fffffu) | (u32(exponent) << 23u), mx >= 0x800000u);
  }
  return bitcast<f32>(result | (bitcast<u32>(x) & 0x80000000u));
}
fn rlx_nextafter(x: f32, y: f32) -> f32 {
  let bx = bitcast<u32>(x);
  let by = bitcast<u32>(y);
  let sx = bx & 0x7fffffffu;
  let sy = by & 0x7fffffffu;
  if (sx > 0x7f800000u || sy > 0x7f800000u) { return rlx_nan(); }
  let kx = select(i32(sx), -i32(sx), bx > 0x7fffffffu);
  let ky = select(i32(sy), -i32(sy), by > 0x7fffffffu);
  if (kx == ky) { return y; }
  if (sx == 0u) { return bitcast<f32>((by & 0x80000000u) | 1u); }
  let outward = (ky > kx) != (bx > 0x7fffffffu);
  return bitcast<f32>(select(bx - 1u, bx + 1u, outward));
}
fn rlx_next_bits(x: u32, y: u32, sign_bit: u32, largest: u32) -> u32 {
  let low = (1u << sign_bit) - 1u;
  let sx = x & low;
  let sy = y & low;
  if (sx > largest || sy > largest) { return low; }
  let kx = select(i32(sx), -i32(sx), (x >> sign_bit) != 0u);
  let ky = select(i32(sy), -i32(sy), (y >> sign_bit) != 0u);
  if (kx == ky) { return y; }
  if (sx == 0u) { return (y & (1u << sign_bit)) | 1u; }
  return select(x - 1u, x + 1u, (ky > kx) != ((x >> sign_bit) != 0u));
}
fn rlx_i32_f32(x: f32) -> i32 {
  let inside = i32(clamp(x, -2147483648.0f, 2147483520.0f));
  let high = select(inside, 2147483647i, x >= 2147483648.0f);
  let low = select(high, i32(-2147483648), x <= -2147483648.0f);
  return select(low, 0i, rlx_is_nan(x));
}
fn rlx_u32_f32(x: f32) -> u32 {
  let inside = u32(clamp(x, 0.0f, 4294967040.0f));
  let high = select(inside, 4294967295u, x >= 4294967296.0f);
  return select(select(high, 0u, x <= 0.0f), 0u, rlx_is_nan(x));
}
fn rlx_widen_f16(bits: u32) -> f32 { return rlx_widen(bits, 15u, 13u, 112i, 0x7bffu, 0x7f800000u); }
fn rlx_widen_f8e5m2(bits: u32) -> f32 { return rlx_widen_f16(bits << 8u); }
fn rlx_widen_f8e4m3(bits: u32) -> f32 { return rlx_widen(bits, 7u, 20u, 120i, 0x7eu, 0x7fc00000u); }
fn rlx_widen(bits: u32, sign_bit: u32, shift: u32, bias: i32, largest: u32, special: u32) -> f32 {
  let size = bits & ((1u << sign_bit) - 1u);
  let sign = ((bits >> sign_bit) & 1u) << 31u;
  let mantissa_bits = 23u - shift;
  var value = (size << shift) + (u32(bias) << 23u);
  if ((size >> mantissa_bits) == 0u) {
    value = 0u;
    if (size != 0u) {
      let up = countLeadingZeros(size) - (31u - mantissa_bits);
      let exponent = u32(bias + 1i) - up;
      value = (exponent << 23u) | (((size << up) & ((1u << mantissa_bits) - 1u)) << shift);
    }
  }
  if (size > largest) { value = (size << shift) | special; }
  return bitcast<f32>(value | sign);
}
fn rlx_narrow(x: f32, sign_bit: u32, shift: u32, bias: i32, largest: u32, overflow: u32, nan: u32) -> u32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  let sign = (bits >> 31u) << sign_bit;
  if (size > 0x7f800000u) { return nan | sign; }
  let exponent = i32(size >> 23u) - bias;
  var mantissa = size;
  var down = shift;
  if (exponent < 1i) {
    mantissa = (size & 0x7fffffu) | 0x800000u;
    down = min(shift + u32(1i - exponent), 30u);
  } else {
    mantissa = size - (u32(bias) << 23u);
  }
  let odd = (mantissa >> down) & 1u;
  var result = (mantissa + ((1u << (down - 1u)) - 1u) + odd) >> down;
  if (size == 0u) { result = 0u; }
  if (result > largest) { result = overflow; }
  return result | sign;
}
fn rlx_narrow_f16(x: f32) -> u32 { return rlx_narrow(x, 15u, 13u, 112i, 0x7bffu, 0x7c00u, 0x7e00u); }
fn rlx_narrow_f8e5m2(x: f32) -> u32 { return rlx_narrow(x, 7u, 21u, 112i, 0x7bu, 0x7cu, 0x7eu); }
fn rlx_narrow_f8e4m3(x: f32) -> u32 { return rlx_narrow(x, 7u, 20u, 120i, 0x7eu, 0x7fu, 0x7fu); }
fn rlx_narrow_bf16(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
  return select(rounded, (bits >> 16u) | 0x40u, rlx_is_nan(x));
}
fn rlx_round_f16(x: f32) -> f32 { return rlx_widen_f16(rlx_narrow_f16(x)); }
fn rlx_round_f8e5m2(x: f32) -> f32 { return rlx_widen_f8e5m2(rlx_narrow_f8e5m2(x)); }
fn rlx_round_f8e4m3(x: f32) -> f32 { return rlx_widen_f8e4m3(rlx_narrow_f8e4m3(x)); }
fn rlx_round_bf16(x: f32) -> f32 { return bitcast<f32>(rlx_narrow_bf16(x) << 16u); }
"""
