"""exp, expm1, log, log1p, tanh, logistic, erf, pow and the hyperbolic functions on f32, in WGSL.

exp: x = n ln 2 + r (Cody & Waite 1980), a polynomial in r, then 2**n in two steps. log: the argument is 2**k (1 + g),
and log(1 + g) = g - g**2 / 2 + g**3 P(g). Polynomials are minimax fits of our own, as in the CPU's code. pow takes log2
in two parts, split by masking bits, so that their product with y keeps its fraction.
"""

EXPONENTIAL = """
fn rlx_exp(x: f32) -> f32 {
  if (rlx_is_nan(x)) { return x; }
  let limited = clamp(x, -104.0f, 89.0f);
  let n = round(limited * 1.44269502f);
  let r = (limited - n * 0.693359375f) - n * -2.12194440054690583e-4f;
  let p = (((((0.0013941877987235785f * r + 0.008368679322302341f) * r + 0.041666388511657715f) * r
    + 0.1666652113199234f) * r + 0.5f) * r + 1.0f) * r + 1.0f;
  let whole = i32(n);
  let first = whole >> 1u;
  let result = (p * rlx_power_of_two(first)) * rlx_power_of_two(whole - first);
  return select(result, rlx_inf(), x > 88.7228394f);
}
fn rlx_expm1_reduced(r: f32) -> f32 {
  let p = ((((0.00019945099485174444f * r + 0.00139326648786664f) * r + 0.008333207108080387f) * r
    + 0.04166648909449577f) * r + 0.1666666716337204f) * r + 0.5f;
  return (r * r) * p + r;
}
fn rlx_expm1(x: f32) -> f32 {
  if (rlx_is_nan(x) || x == 0.0f) { return x; }
  let limited = clamp(x, -18.0f, 89.0f);
  let n = round(limited * 1.44269502f);
  let r = (limited - n * 0.693359375f) - n * -2.12194440054690583e-4f;
  let p = rlx_expm1_reduced(r);
  let half = rlx_power_of_two(i32(n) - 1i);
  let scaled = (half * p + (half - 0.5f)) * 2.0f;
  let result = select(scaled, p, n == 0.0f);
  return select(result, rlx_inf(), x > 88.7228394f);
}
fn rlx_tanh(x: f32) -> f32 {
  if (rlx_is_nan(x) || x == 0.0f) { return x; }
  let limited = min(rlx_abs(x), 9.5f);
  let e = rlx_expm1(limited * 2.0f);
  return rlx_copysign(e / (e + 2.0f), x);
}
fn rlx_logistic(x: f32) -> f32 {
  let e = rlx_exp(-rlx_abs(x));
  return select(1.0f, e, x < 0.0f) / (e + 1.0f);
}
fn rlx_sinh(x: f32) -> f32 {
  let size = rlx_abs(x);
  if (rlx_is_nan(x) || x == 0.0f) { return x; }
  if (size > 80.0f) {
    let half = rlx_exp(size * 0.5f);
    return rlx_copysign((half * 0.5f) * half, x);
  }
  let e = rlx_expm1(size);
  return rlx_copysign(0.5f * (e + e / (e + 1.0f)), x);
}
fn rlx_cosh(x: f32) -> f32 {
  let size = rlx_abs(x);
  if (size > 80.0f) {
    let half = rlx_exp(size * 0.5f);
    return (half * 0.5f) * half;
  }
  let e = rlx_exp(size);
  return 0.5f * e + 0.5f / e;
}
fn rlx_log_assemble(g: f32, k: f32) -> f32 {
  let square = g * g;
  let p = (((((((0.06750459223985672f * g - 0.11671272665262222f) * g + 0.1188366711139679f) * g
    - 0.12406066060066223f) * g + 0.142203226685524f) * g - 0.16667994856834412f) * g + 0.20002073049545288f) * g
    - 0.25000008940696716f) * g + 0.3333331346511841f;
  var tail = (square * g) * p;
  tail = k * -2.12194440054690583e-4f + tail;
  tail = square * -0.5f + tail;
  return k * 0.693359375f + (g + tail);
}
fn rlx_log(x: f32) -> f32 {
  var bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  if (size == 0u) { return -rlx_inf(); }
  if (bits > 0x80000000u) { return rlx_nan(); }
  if (bits >= 0x7f800000u) { return x; }
  var k = 0i;
  if (bits < 0x800000u) {
    let up = countLeadingZeros(bits) - 8u;
    k = 1i - i32(up);
    bits = ((bits << up) & 0x7fffffu) | 0x800000u;
    k = k - 1i;
  }
  let offset = i32(bits) - 0x3f3504f3i;
  k = k + (offset >> 23u);
  let g = bitcast<f32>(u32((offset & 0x7fffffi) + 0x3f3504f3i)) - 1.0f;
  return rlx_log_assemble(g, f32(k));
}
fn rlx_log1p(x: f32) -> f32 {
  if (rlx_is_nan(x) || x == 0.0f || x >= 1.0e8f) { return select(x, rlx_log(x), x >= 1.0e8f); }
  if (x < -1.0f) { return rlx_nan(); }
  if (x == -1.0f) { return -rlx_inf(); }
  if (rlx_abs(x) < 1.0e-7f) { return x; }
  let u = x + 1.0f;
  let k = (i32(bitcast<u32>(u)) - 0x3f3504f3i) >> 23u;
  let inverse = bitcast<f32>(u32(max(127i - k, 1i)) << 23u);
  let g = select(x * inverse + (inverse - 1.0f), x, k == 0i);
  return rlx_log_assemble(g, f32(k));
}
fn rlx_erf(x: f32) -> f32 {
  if (rlx_is_nan(x)) { return x; }
  let size = rlx_abs(x);
  let limited = min(size, 3.93f);
  let square = limited * limited;
  let near = limited * (((((-0.0006092797848396003f * square + 0.005012487061321735f) * square
    - 0.026779308915138245f) * square + 0.1128215342760086f) * square - 0.3761252462863922f) * square
    + 0.12837915379721282f) + limited;
  let exponent = limited * ((((((-1.547627653053496e-05f * limited + 0.0004583505215123296f) * limited
    - 0.005224695894867182f) * limited + 0.034216634929180145f) * limited - 0.15319129824638367f) * limited
    - 0.9163762331008911f) * limited - 1.628283977508545f);
  let n = round(exponent);
  let r = exponent - n;
  let power = ((((0.0013413578271865845f * r + 0.009671655483543873f) * r + 0.055502817034721375f) * r
    + 0.24022239446640015f) * r + 0.6931472420692444f) * r + 1.0f;
  let far = 1.0f - power * rlx_power_of_two(i32(n));
  return rlx_copysign(select(far, near, size < 0.9f), x);
}
fn rlx_high(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u); }
fn rlx_pow_size(size: f32, y: f32) -> f32 {
  var bits = bitcast<u32>(size);
  var k = 0i;
  if (bits < 0x800000u) {
    let up = countLeadingZeros(bits) - 8u;
    bits = ((bits << up) & 0x7fffffu) | 0x800000u;
    k = -i32(up);
  }
  let offset = i32(bits) - 0x3f3504f3i;
  k = k + (offset >> 23u);
  let m = bitcast<f32>(u32((offset & 0x7fffffi) + 0x3f3504f3i));
  // t = (m - 1) / (m + 1) in two parts; log2 m = t (2 / ln 2 + t**2 (...)).
  let top = m - 1.0f;
  let bottom = m + 1.0f;
  let t = top / bottom;
  let t_high = rlx_high(t);
  let bottom_high = rlx_high(bottom);
  let bottom_low = m - (bottom_high - 1.0f);
  let t_low = ((top - t_high * bottom_high) - t_high * bottom_low) / bottom;
  let square = t * t;
  let series = square * (0.96179669392f + square * (0.57707801636f + square * (0.41219858311f + square * 0.3421f)));
  // 2 / ln 2 in a high part of 12 bits and the rest.
  let c_high = 2.884765625f;
  let c_low = 6.2445703e-4f;
  let main = t_high * c_high;
  let rest = t_low * 2.8853900818f + (t_high * c_low + t * series);
  // log2 = k + main + rest, regrouped into a part of few bits and a small one.
  let sum = f32(k) + (main + rest);
  let log_high = rlx_high(sum);
  let log_low = ((f32(k) - log_high) + main) + rest;
  let y_high = rlx_high(y);
  let product = y * sum;
  if (!(product < 130.0f)) { return rlx_inf(); }
  if (product < -151.0f) { return 0.0f; }
  let exact = y_high * log_high;
  let small = (y - y_high) * log_high + y * log_low;
  let n = round(product);
  let r = (exact - n) + small;
  let p = ((((((0.000154f * r + 0.00133335581f) * r + 0.00961812911f) * r + 0.05550410866f) * r
    + 0.24022650696f) * r) + 0.69314718056f) * r;
  let whole = i32(n);
  let first = whole >> 1u;
  return ((1.0f + p) * rlx_power_of_two(first)) * rlx_power_of_two(whole - first);
}
fn rlx_pow(x: f32, y: f32) -> f32 {
  let bx = bitcast<u32>(x) & 0x7fffffffu;
  let by = bitcast<u32>(y) & 0x7fffffffu;
  if (by == 0u || bitcast<u32>(x) == 0x3f800000u) { return 1.0f; }
  if (bx > 0x7f800000u || by > 0x7f800000u) { return rlx_nan(); }
  let negative = bitcast<u32>(x) > 0x7fffffffu;
  let up = bitcast<u32>(y) < 0x80000000u;
  // Whether y is whole, and odd, by its bits.
  let exponent = i32(by >> 23u) - 127i;
  let mantissa = (by & 0x7fffffu) | 0x800000u;
  var whole = exponent >= 23i;
  var odd = (exponent == 23i) & ((mantissa & 1u) == 1u);
  if (exponent >= 0i && exponent < 23i) {
    let fraction = 23u - u32(exponent);
    whole = (mantissa & ((1u << fraction) - 1u)) == 0u;
    odd = whole & (((mantissa >> fraction) & 1u) == 1u);
  }
  let flip = negative & odd;
  var size = 0.0f;
  if (by == 0x7f800000u) {
    if (bx == 0x3f800000u) { return 1.0f; }
    size = select(0.0f, rlx_inf(), (bx > 0x3f800000u) == up);
  } else if (bx == 0u || bx == 0x7f800000u) {
    size = select(0.0f, rlx_inf(), (bx != 0u) == up);
  } else {
    if (negative & !whole) { return rlx_nan(); }
    size = rlx_pow_size(bitcast<f32>(bx), y);
  }
  return bitcast<f32>(bitcast<u32>(size) | select(0u, 0x80000000u, flip));
}
"""
