"""Inverse functions and roots of f32, in WGSL: atan, atan2, asin, acos, asinh, acosh, atanh, cbrt.

atan is reduced to |z| <= tan(pi / 8) by one of three angles, each in two parts. asin and acos of large arguments go
through the half angle. cbrt takes two Newton steps (Halley's form) from a guess by the exponent.
"""

INVERSE = """
fn rlx_atan(x: f32) -> f32 {
  if (rlx_is_nan(x) || x == 0.0f) { return x; }
  let size = rlx_abs(x);
  var z = size;
  var high = 0.0f;
  var low = 0.0f;
  if (size > 2.41421366f) {
    z = -1.0f / size;
    high = 1.57079637f;
    low = -4.37113883e-8f;
  } else if (size > 0.414213568f) {
    z = (size - 1.0f) / (size + 1.0f);
    high = 0.785398185f;
    low = -2.18556941e-8f;
  }
  let s = z * z;
  let p = (((((0.05054182931780815f * s - 0.08627283573150635f) * s + 0.11071759462356567f) * s
    - 0.14284175634384155f) * s + 0.19999977946281433f) * s - 0.3333333432674408f) * s * z;
  return rlx_copysign(high + (z + (p + low)), x);
}
fn rlx_atan2(y: f32, x: f32) -> f32 {
  if (rlx_is_nan(x) || rlx_is_nan(y)) { return rlx_nan(); }
  let ax = rlx_abs(x);
  let ay = rlx_abs(y);
  let left = bitcast<u32>(x) > 0x7fffffffu;
  var angle = 0.0f;
  let infinite = rlx_no_angle(x) & rlx_no_angle(y);
  if (infinite) {
    angle = select(0.785398185f, 2.35619450f, left);
  } else if (ay == 0.0f) {
    angle = select(0.0f, 3.14159274f, left);
  } else if (ax == 0.0f || rlx_no_angle(y)) {
    angle = 1.57079637f;
  } else {
    let scale = select(1.0f, 0.25f, max(ax, ay) > 1.0e37f);
    let quotient = (ay * scale) / (ax * scale);
    angle = rlx_atan(quotient);
    if (left) { angle = 3.14159274f - (angle + 8.74227766e-8f); }
  }
  return rlx_copysign(angle, y);
}
fn rlx_asin_series(s: f32) -> f32 {
  return (((((0.0338057205080986f * s + 0.01707787811756134f) * s + 0.031116152182221413f) * s
    + 0.04459803178906441f) * s + 0.07500098645687103f) * s + 0.1666666567325592f) * s;
}
fn rlx_asin(x: f32) -> f32 {
  if (rlx_is_nan(x) || x == 0.0f) { return x; }
  let size = rlx_abs(x);
  if (size > 1.0f) { return rlx_nan(); }
  if (size <= 0.5f) { return x + x * rlx_asin_series(x * x); }
  let s = 0.5f * (1.0f - size);
  let root = sqrt(s);
  return rlx_copysign(1.57079637f - (2.0f * (root + root * rlx_asin_series(s)) + 4.37113883e-8f), x);
}
fn rlx_acos(x: f32) -> f32 {
  let size = rlx_abs(x);
  if (rlx_is_nan(x) || size > 1.0f) { return rlx_nan(); }
  if (size <= 0.5f) { return 1.57079637f - (x + (x * rlx_asin_series(x * x) + 4.37113883e-8f)); }
  let s = 0.5f * (1.0f - size);
  let root = sqrt(s);
  let angle = 2.0f * (root + root * rlx_asin_series(s));
  return select(angle, 3.14159274f - (angle + 8.74227766e-8f), x < 0.0f);
}
fn rlx_asinh(x: f32) -> f32 {
  if (rlx_is_nan(x) || x == 0.0f || rlx_no_angle(x)) { return x; }
  let size = rlx_abs(x);
  if (size > 1.0e9f) { return rlx_copysign(rlx_log(size) + 0.693147182f, x); }
  let square = size * size;
  let grown = size + square / (1.0f + sqrt(square + 1.0f));
  return rlx_copysign(rlx_log1p(grown), x);
}
fn rlx_acosh(x: f32) -> f32 {
  if (rlx_is_nan(x) || x < 1.0f) { return rlx_nan(); }
  if (x > 1.0e9f) { return rlx_log(x) + 0.693147182f; }
  let t = x - 1.0f;
  return rlx_log1p(t + sqrt(t * (t + 2.0f)));
}
fn rlx_atanh(x: f32) -> f32 {
  if (rlx_is_nan(x) || x == 0.0f) { return x; }
  let size = rlx_abs(x);
  if (size > 1.0f) { return rlx_nan(); }
  if (size == 1.0f) { return rlx_copysign(rlx_inf(), x); }
  return rlx_copysign(0.5f * rlx_log1p(2.0f * size / (1.0f - size)), x);
}
fn rlx_cbrt(x: f32) -> f32 {
  var bits = bitcast<u32>(x) & 0x7fffffffu;
  if (bits == 0u || bits >= 0x7f800000u) { return x; }
  var scale = 1.0f;
  if (bits < 0x800000u) {
    let up = countLeadingZeros(bits) - 8u;
    bits = (bits << up) & 0x7fffffu | 0x800000u;
    bits = bits + ((120u - up) << 23u);
    scale = 9.09494702e-13f;
  }
  if (bits >= 0x800000u && bits < 0xc800000u && scale == 1.0f) {
    bits = bits + (60u << 23u);
    scale = 9.53674316e-7f;
  }
  if (bits >= 0x7e000000u) {
    bits = bits - (60u << 23u);
    scale = 1048576.0f;
  }
  let a = bitcast<f32>(bits);
  var t = bitcast<f32>(bits / 3u + 709958130u);
  for (var i = 0i; i < 3i; i = i + 1i) {
    let cube = t * t * t;
    t = t * ((cube + 2.0f * a) / (2.0f * cube + a));
  }
  return rlx_copysign(t * scale, x);
}
"""
