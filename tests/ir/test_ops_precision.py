"""In what precision primitives compute: rounding once, accumulating wide, signed zeros and NaN."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

from rlx.ir.dtypes import DType, bf16, f8e4m3, f8e5m2, f16, f32, i32, i64, u64
from rlx.ir.op import Sample
from rlx.ir.ops import precision
from rlx.ir.ops.convert import convert_array
from rlx.testing.op_samples import evaluate_sample

NARROW = [f16, bf16, f8e4m3, f8e5m2]


def run(op: str, *arrays: np.ndarray, **attrs: object) -> np.ndarray:
    return evaluate_sample(op, Sample(arrays, attrs))[0]


def nearest(value: Fraction, numbers: list[tuple[Fraction, int]]) -> Fraction:
    """The number nearest to `value`, of two equally near the one whose bits are even."""
    return min(numbers, key=lambda n: (abs(n[0] - value), n[1] & 1))[0]


def numbers(dtype: DType) -> list[tuple[Fraction, int]]:
    bits = np.arange(1 << (dtype.bits - 1), dtype=f"u{dtype.itemsize}")
    values = bits.view(dtype.numpy).astype(np.float64)
    return [(Fraction(float(v)), int(b)) for v, b in zip(values, bits, strict=True) if np.isfinite(v)]


@pytest.mark.parametrize("dtype", [f8e4m3, f8e5m2])
def test_f64_to_8_bits_rounds_once_to_nearest_even(dtype: DType) -> None:
    rng = np.random.default_rng(11)
    known = numbers(dtype)
    middles = np.array([float((a[0] + b[0]) / 2) for a, b in pairwise(known)])
    largest = float(known[-1][0])
    values = np.concatenate([rng.uniform(0, largest, 200), middles, middles * (1 + 2**-40), middles * (1 - 2**-40)])
    got = convert_array(values, dtype).astype(np.float64)
    for value, rounded in zip(values, got, strict=True):
        assert Fraction(float(rounded)) == nearest(Fraction(float(value)), known), value


@pytest.mark.parametrize("dtype", [f16, bf16])
def test_f64_to_16_bits_rounds_once_just_beside_a_tie(dtype: DType) -> None:
    rng = np.random.default_rng(12)
    low = rng.uniform(1, 2, 300).astype(dtype.numpy)
    step = float(ml_dtypes.finfo(dtype.numpy).eps)
    middle = low.astype(np.float64) + step / 2
    up, down = convert_array(middle * (1 + 2.0**-45), dtype), convert_array(middle * (1 - 2.0**-45), dtype)
    np.testing.assert_array_equal(up.astype(np.float64), low.astype(np.float64) + step)
    np.testing.assert_array_equal(down.astype(np.float64), low.astype(np.float64))


@pytest.mark.parametrize("source", [i64, u64])
def test_64_bit_integers_become_bf16_with_one_rounding(source: DType) -> None:
    tie = (1 << 62) + (1 << 54)
    values = np.array([tie - 1, tie, tie + 1, (1 << 62) + 1], source.numpy)
    expected = [2.0**62, 2.0**62, 2.0**62 + 2.0**55, 2.0**62]
    np.testing.assert_array_equal(convert_array(values, bf16).astype(np.float64), expected)


def test_integers_beyond_53_bits_survive_a_trip_through_convert() -> None:
    values = np.array([2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)], np.int64)
    np.testing.assert_array_equal(run("convert", run("convert", values, dtype=u64), dtype=i64), values)


@pytest.mark.parametrize("dtype", NARROW[:2])
def test_narrow_floats_accumulate_wide(dtype: DType) -> None:
    # In the storage dtype the sum would stop growing at 2**(mantissa bits + 1).
    x = np.ones(6000, dtype.numpy)
    assert float(run("reduce_sum", x, dimensions=(0,))) == float(np.float32(6000).astype(dtype.numpy))
    attrs = {"lhs_contract": (1,), "rhs_contract": (0,), "lhs_batch": (), "rhs_batch": (), "preferred_dtype": f32}
    assert run("dot_general", x.reshape(1, -1), x.reshape(-1, 1), **attrs).item() == 6000
    last = run("cumsum", x, dimension=0, reverse=False)[-1]
    assert float(last) == float(np.float32(6000).astype(dtype.numpy))


def test_bytes_accumulate_in_a_preferred_wider_integer_and_wrap_without_one() -> None:
    x = np.full((1, 1000), -128, np.int8)
    attrs = {"lhs_contract": (1,), "rhs_contract": (1,), "lhs_batch": (), "rhs_batch": ()}
    assert run("dot_general", x, x, **attrs, preferred_dtype=i32).item() == 16384 * 1000
    assert run("dot_general", x, x, **attrs, preferred_dtype=None).item() == ((16384 * 1000 + 128) % 256) - 128


@pytest.mark.parametrize("dtype", [*NARROW, f32])
def test_order_keys_order_as_ieee_maximum_does_and_turn_back(dtype: DType) -> None:
    values = np.array([-np.inf, -3, -0.5, -0.0, 0.0, 0.5, 3, np.inf], np.float32)
    values = values[np.isfinite(values)] if dtype is f8e4m3 else values
    x = values.astype(dtype.numpy)
    keys = precision.order_key(x)
    assert np.all(np.diff(keys.astype(np.int64)) > 0)
    assert precision.from_order_key(keys, dtype.numpy).tobytes() == x.tobytes()
    nan = np.array([np.nan], dtype.numpy)
    assert precision.order_key(nan)[0] > keys[-1]
    assert precision.order_key(nan, nan_high=False)[0] < keys[0]
    assert np.isnan(precision.from_order_key(precision.order_key(nan, nan_high=False), dtype.numpy))[0]


def test_every_signed_zero_has_its_place() -> None:
    x, y = np.array([-0.0, 0.0, -0.0], np.float32), np.array([0.0, -0.0, -0.0], np.float32)
    assert np.signbit(run("max", x, y)).tolist() == [False, False, True]
    assert np.signbit(run("min", x, y)).tolist() == [True, True, True]
    assert np.signbit(run("sign", x)).tolist() == [True, False, True]
    assert np.signbit(run("round", np.array([-0.4, 0.4], np.float32))).tolist() == [True, False]
    assert np.signbit(run("reduce_max", np.stack([x, y]), dimensions=(0,))).tolist() == [False, False, True]
