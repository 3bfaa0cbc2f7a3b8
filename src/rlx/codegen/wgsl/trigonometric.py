"""sin, cos and tan of f32, in WGSL.

The argument is reduced in integers, exactly for every f32 (Payne & Hanek 1983): the 24 bits of the mantissa times those
bits of 2 / pi that matter, as a fixed-point number whose top two bits are the quadrant. The rest becomes an f32 by one
rounding. Polynomials in its square (minimax fits of our own) give sine and cosine of up to pi / 4.
"""

TRIGONOMETRIC = """
var<private> rlx_two_over_pi: array<u32, 9> = array<u32, 9>(
  0x00000000u, 0x00000000u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu);
fn rlx_high_word(a: u32, b: u32) -> u32 {
  let a0 = a & 0xffffu;
  let a1 = a >> 16u;
  let b0 = b & 0xffffu;
  let b1 = b >> 16u;
  let low = a0 * b0;
  let middle = a1 * b0 + (low >> 16u);
  let other = a0 * b1 + (middle & 0xffffu);
  return a1 * b1 + (middle >> 16u) + (other >> 16u);
}
fn rlx_quarter(x: f32) -> vec2<u32> {
  // (quadrant, the rest in radians as bits of f32) of a finite x.
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  if (size <= 0x3f490fdau) { return vec2<u32>(0u, bits); }
  // x = m 2**(exponent - 23); the product with 2 / pi, in units of quadrants, modulo 4.
  let exponent = i32(size >> 23u) - 127i;
  let m = ((size & 0x7fffffu) | 0x800000u) << 7u;
  // m is a fraction of 2**31: the bits of 2 / pi from place exponent - 1 on stand for whole quadrants.
  let place = u32(exponent + 32i);
  let word = place >> 5u;
  let shift = place & 31u;
  var w0 = rlx_two_over_pi[word];
  var w1 = rlx_two_over_pi[word + 1u];
  var w2 = rlx_two_over_pi[word + 2u];
  let w3 = rlx_two_over_pi[word + 3u];
  if (shift != 0u) {
    w0 = (w0 << shift) | (w1 >> (32u - shift));
    w1 = (w1 << shift) | (w2 >> (32u - shift));
    w2 = (w2 << shift) | (w3 >> (32u - shift));
  }
  // The product's words: high is w0 m modulo 2**32, with the carries of the words below.
  let low_carry = rlx_high_word(w2, m);
  let low = w1 * m + low_carry;
  let carry = select(0u, 1u, low < low_carry);
  var high = w0 * m + rlx_high_word(w1, m) + carry;
  var rest = low;
  // Two bits of quadrant stand on top.
  var quadrant = high >> 30u;
  high = (high << 2u) | (rest >> 30u);
  rest = rest << 2u;
  var negative = false;
  if (high >= 0x80000000u) {
    quadrant = quadrant + 1u;
    negative = true;
    high = ~high;
    rest = ~rest;
  }
  var up = 0u;
  if (high == 0u) { high = rest; rest = 0u; up = 32u; }
  if (high == 0u) { return vec2<u32>(quadrant & 3u, 0u); }
  let zeros = countLeadingZeros(high);
  if (zeros > 0u) { high = (high << zeros) | (rest >> (32u - zeros)); }
  up = up + zeros;
  // Times pi / 2 (as a fraction of 2): 32 bits, then one rounding.
  let product = rlx_high_word(high, 0xc90fdaa2u);
  let r = f32(product) * rlx_power_of_two(-31i - i32(up));
  var turned = negative;
  if (bits > 0x7fffffffu) { turned = !turned; quadrant = 4u - (quadrant & 3u); }
  return vec2<u32>(quadrant & 3u, bitcast<u32>(r) | select(0u, 0x80000000u, turned));
}
fn rlx_sin_reduced(r: f32) -> f32 {
  let s = r * r;
  return r + (s * r) * (((2.8372471660986776e-06f * s - 0.0001985349808819592f) * s + 0.008333380334079266f) * s
    - 0.1666666716337204f);
}
fn rlx_cos_reduced(r: f32) -> f32 {
  let s = r * r;
  return (((2.443066841806285e-05f * s - 0.00138873013202101f) * s + 0.04166664555668831f) * s - 0.5f) * s + 1.0f;
}
fn rlx_no_angle(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u; }
fn rlx_turn(value: f32, quadrant: u32) -> f32 {
  return bitcast<f32>(bitcast<u32>(value) ^ ((quadrant & 2u) << 30u));
}
fn rlx_sin(x: f32) -> f32 {
  if (rlx_no_angle(x)) { return rlx_nan(); }
  let part = rlx_quarter(x);
  let r = bitcast<f32>(part.y);
  if (x == 0.0f) { return x; }
  return rlx_turn(select(rlx_sin_reduced(r), rlx_cos_reduced(r), (part.x & 1u) == 1u), part.x);
}
fn rlx_cos(x: f32) -> f32 {
  if (rlx_no_angle(x)) { return rlx_nan(); }
  let part = rlx_quarter(x);
  let r = bitcast<f32>(part.y);
  return rlx_turn(select(rlx_cos_reduced(r), rlx_sin_reduced(r), (part.x & 1u) == 1u), part.x + 1u);
}
fn rlx_tan(x: f32) -> f32 {
  if (rlx_no_angle(x)) { return rlx_nan(); }
  if (x == 0.0f) { return x; }
  let part = rlx_quarter(x);
  let r = bitcast<f32>(part.y);
  let s = rlx_sin_reduced(r);
  let c = rlx_cos_reduced(r);
  return select(s / c, -c / s, (part.x & 1u) == 1u);
}
"""
