"""The op test kit: that its tolerances let through what they should, and nothing more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlx.ir.dtypes import ALL, DType, bf16, c64, f8e4m3, f16, f32, f64, i32
from rlx.ir.op import Sample
from rlx.testing.op_samples import assert_close, evaluate_sample, iter_samples, ulp_distance

FLOATS = [d for d in ALL if d.is_float]


def steps(x: np.ndarray, count: int) -> np.ndarray:
    """`x` moved `count` representable numbers away from zero."""
    bits = x.view(f"i{x.itemsize}")
    return (bits + np.array(count).astype(bits.dtype)).astype(bits.dtype).view(x.dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_ulp_distance_counts_representable_numbers(dtype: DType) -> None:
    x = np.array([0.0, 0.5, -1.5, 3.0], dtype.numpy)
    for count in (0, 1, 2):
        np.testing.assert_array_equal(ulp_distance(x, steps(x, count)), [count] * 4)
    least = np.array([1], f"i{dtype.itemsize}").view(dtype.numpy)
    assert ulp_distance(least, -least) == 2
    assert ulp_distance(np.array([-0.0], dtype.numpy), np.array([0.0], dtype.numpy)) == 0


def test_nan_is_near_nan_alone() -> None:
    nan, one = np.array([np.nan], np.float32), np.array([1.0], np.float32)
    assert ulp_distance(nan, -nan) == 0
    assert ulp_distance(nan, one) == np.inf
    assert ulp_distance(one, nan) == np.inf


@pytest.mark.parametrize("dtype", [bf16, f16, f32, f64])
def test_a_pointwise_result_may_be_as_many_ulps_away_as_its_record_says(dtype: DType) -> None:
    sample = Sample((np.array([0.5, 1.0, 2.0], dtype.numpy),))
    (expected,) = evaluate_sample("exp", sample)
    assert_close("exp", sample, [steps(expected, 2)], [expected])
    with pytest.raises(AssertionError, match=r"exp\(.*3 of 3 elements are too far; at \[0\]"):
        assert_close("exp", sample, [steps(expected, 3)], [expected])


@pytest.mark.parametrize(
    ("op", "got", "expected"),
    [
        ("neg", -0.0, 0.0),
        ("neg", np.nan, 1.0),
        ("neg", 1.0, np.nan),
        ("neg", np.nextafter(np.float32(1), np.float32(2)), 1.0),
        ("exp", np.inf, 1.0),
        ("exp", 1.0, np.inf),
        ("exp", -np.inf, np.inf),
    ],
)
def test_what_is_not_the_same_number_is_refused(op: str, got: float, expected: float) -> None:
    sample = Sample((np.ones(1, np.float32),))
    with pytest.raises(AssertionError, match="1 of 1 elements"):
        assert_close(op, sample, [np.array([got], np.float32)], [np.array([expected], np.float32)])


def test_another_dtype_shape_or_count_is_refused() -> None:
    sample = Sample((np.ones(2, np.float32),))
    one = np.ones(2, np.float32)
    for got in (np.ones(2), np.ones((1, 2), np.float32)):
        with pytest.raises(AssertionError, match="expected f32"):
            assert_close("neg", sample, [got], [one])
    with pytest.raises(AssertionError, match="neg gave 2 results, expected 1"):
        assert_close("neg", sample, [one, one], [one])


def summing(dtype: DType, n: int) -> tuple[Sample, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(7, n)).astype(dtype.numpy)
    sample = Sample((x,), {"dimensions": (1,)})
    return sample, x, evaluate_sample("reduce_sum", sample)[0]


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_a_sum_in_any_order_is_close_and_one_with_a_lost_term_is_not(n: int) -> None:
    sample, x, expected = summing(f32, n)
    in_order, backwards = np.zeros(7, np.float32), np.zeros(7, np.float32)
    for i in range(n):
        in_order = in_order + x[:, i]
        backwards = backwards + x[:, n - 1 - i]
    assert_close("reduce_sum", sample, [in_order], [expected])
    assert_close("reduce_sum", sample, [backwards], [expected])
    lost = (expected - x[:, np.argmax(np.abs(x[0]))]).astype(np.float32)
    with pytest.raises(AssertionError, match="too far"):
        assert_close("reduce_sum", sample, [lost], [expected])


@pytest.mark.parametrize("dtype", [f16, bf16])
def test_a_sum_that_accumulates_in_the_narrow_dtype_is_refused(dtype: DType) -> None:
    sample, x, expected = summing(dtype, 1000)
    narrow, wide = np.zeros(7, dtype.numpy), np.zeros(7, np.float32)
    for i in range(1000):
        narrow = (narrow.astype(np.float32) + x[:, i].astype(np.float32)).astype(dtype.numpy)
        wide = wide + x[:, i].astype(np.float32)
    assert_close("reduce_sum", sample, [wide.astype(dtype.numpy)], [expected])
    with pytest.raises(AssertionError, match="too far"):
        assert_close("reduce_sum", sample, [narrow], [expected])


def test_f64_sums_are_held_to_f64() -> None:
    sample, x, expected = summing(f64, 100)
    with pytest.raises(AssertionError, match="too far"):
        assert_close("reduce_sum", sample, [x.astype(np.float32).sum(1).astype(np.float64)], [expected])


def test_integer_sums_must_be_equal() -> None:
    sample = Sample((np.arange(6, dtype=np.int32).reshape(2, 3),), {"dimensions": (1,)})
    (expected,) = evaluate_sample("reduce_sum", sample)
    with pytest.raises(AssertionError, match=r"1 of 2 elements are too far; at \[1\] got 13, expected 12"):
        assert_close("reduce_sum", sample, [expected + np.array([0, 1], np.int32)], [expected])


def test_a_complex_number_is_measured_in_the_plane() -> None:
    sample = Sample((np.array([1 + 1e-8j], c64.numpy),))
    expected = np.array([1 + 1e-8j], c64.numpy)
    assert_close("exp", sample, [np.array([1 + 2e-8j], c64.numpy)], [expected])
    with pytest.raises(AssertionError, match="too far"):
        assert_close("exp", sample, [np.array([1 + 1e-5j], c64.numpy)], [expected])


def test_attributes_of_samples_are_complete_and_ids_are_unique() -> None:
    found: list[tuple[str, Any]] = [(id, s.attrs) for id, s, _ in iter_samples("dot_general")]
    assert len({id for id, _ in found}) == len(found)
    assert all(
        set(attrs) == {"lhs_contract", "rhs_contract", "lhs_batch", "rhs_batch", "preferred_dtype"}
        for _, attrs in found
    )


def test_a_composite_has_samples_too() -> None:
    for id, sample, expected in iter_samples("softmax"):
        assert_close("softmax", sample, expected, expected)
        assert id


@pytest.mark.parametrize("dtype", [f8e4m3, i32])
def test_dot_general_of_every_kind_is_held(dtype: DType) -> None:
    x = np.ones((2, 5), dtype.numpy)
    attrs = {"lhs_contract": (1,), "rhs_contract": (1,), "lhs_batch": (), "rhs_batch": (), "preferred_dtype": None}
    sample = Sample((x, x), attrs)
    (expected,) = evaluate_sample("dot_general", sample)
    with pytest.raises(AssertionError, match="4 of 4 elements"):
        assert_close("dot_general", sample, [np.full((2, 2), 7, dtype.numpy)], [expected])
