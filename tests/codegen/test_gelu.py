"""gelu as the code generator finds it in its parts: special values, what is left of negative arguments, lookalikes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.options import Options
from rlx.runtime import Session
from rlx.testing.kernel_runner import TARGETS
from rlx.testing.vector_math import UNARY, program

NAMES = [t.name for t in TARGETS]


@pytest.mark.parametrize("target", NAMES)
def test_special_values_are_those_of_the_formula(target: str) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38, -3e38, 7.7, -30.0], np.float32)
    with np.errstate(all="ignore"):
        expected = UNARY["gelu"].reference(x.astype(np.float64)).astype(np.float32)
    got = program(("gelu",), target, f32, x.size)(x0=x)["gelu"]
    np.testing.assert_array_equal(got, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(expected[number]))


@pytest.mark.skipif("avx512" not in NAMES, reason="without AVX-512 gelu goes through erf")
def test_what_is_left_of_a_negative_argument_is_right_to_three_digits() -> None:
    x = -np.linspace(0.5, 7.62, 1003, dtype=np.float32)
    got = program(("gelu",), "avx512", f32, x.size)(x0=x)["gelu"]
    exact = [y / 2 * math.erfc(-y * math.sqrt(0.5)) for y in x.astype(float)]
    np.testing.assert_allclose(got, exact, rtol=5e-4)


@pytest.mark.parametrize("target", NAMES)
def test_a_result_does_not_depend_on_the_lane(target: str) -> None:
    x = np.random.default_rng(5).normal(0, 3, 35).astype(np.float32)
    together = program(("gelu",), target, f32, x.size)(x0=x)["gelu"]
    alone = [program(("gelu",), target, f32, 1)(x0=x[i : i + 1])["gelu"][0] for i in range(x.size)]
    np.testing.assert_array_equal(together.view(np.int32), np.array(alone).view(np.int32))


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize(("outer", "scale", "shift"), [("y", 0.5**0.5, 1.0), ("x", 0.7, 1.0), ("x", 0.5**0.5, 1.5)])
def test_a_formula_that_only_looks_like_gelu_is_computed_as_it_stands(
    target: str, outer: str, scale: float, shift: float
) -> None:
    b = GraphBuilder("lookalike")
    operands = {name: b.input(name, TensorType((37,), f32)) for name in "xy"}
    half = b.binary("mul", operands[outer], 0.5)
    share = b.binary("add", b.emit("erf", b.binary("mul", operands["x"], scale)), shift)
    run = Session("cpu", Options(target=target, threads=1, cache=False)).compile(
        b.build({"z": b.binary("mul", half, share)})
    )
    feeds = {name: np.random.default_rng(ord(name)).normal(0, 2, 37).astype(np.float32) for name in "xy"}
    expected = [o / 2 * (math.erf(x * scale) + shift) for o, x in zip(feeds[outer], feeds["x"], strict=True)]
    np.testing.assert_allclose(run(**feeds)["z"], expected, rtol=2e-6, atol=1e-6)
