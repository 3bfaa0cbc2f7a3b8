"""Our own f32 functions: error in units of the last place over the whole f32 range, and special values.

References are NumPy's f64 functions, good to far less than an f32 ulp. An error is |got - exact| over the distance of
neighbouring f32 numbers at the exact value, so 0.5 is the best that rounding can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from rlx.codegen.target import Target
from rlx.ir.dtypes import f32
from rlx.testing.kernel_runner import TARGETS, Loaded, pointwise_kernel

Reference = Callable[[np.ndarray], np.ndarray]


def _logistic(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


#: name -> (reference, bound in ulps as the function's module documents it)
UNARY: dict[str, tuple[Reference, float]] = {
    "exp": (np.exp, 1.2),
    "expm1": (np.expm1, 1.5),
    "tanh": (np.tanh, 2.5),
    "logistic": (_logistic, 2.5),
    "log": (np.log, 1.0),
    "log1p": (np.log1p, 1.5),
    "erf": (np.vectorize(math.erf, otypes=[np.float64]), 1.5),
    "sin": (np.sin, 1.5),
    "cos": (np.cos, 1.5),
    "tan": (np.tan, 3.5),
}


@pytest.fixture(scope="module", params=TARGETS, ids=lambda t: t.name)
def functions(request: pytest.FixtureRequest) -> Loaded:
    target: Target = request.param
    kernels = {name: pointwise_kernel(name, [f32], f32) for name in UNARY}
    kernels["pow"] = pointwise_kernel("pow", [f32, f32], f32)
    return Loaded(kernels, target)


def _call(functions: Loaded, name: str, *arrays: np.ndarray) -> np.ndarray:
    out = np.empty_like(arrays[0])
    functions(name, *arrays, out, sizes=(out.size,))
    return out


def _error(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Ulps of each element; NaN for NaN and equal infinities are 0, beyond the f32 range rounding decides."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        step = np.spacing(np.abs(rounded)).astype(np.float64)
        step = np.where(np.isinf(rounded), 2.0**104, step)
        ideal = np.where(np.isinf(rounded), rounded.astype(np.float64), exact)
        got = np.where(np.isinf(got) & (np.abs(rounded) > 3.4e38), rounded, got)
        error = np.abs(got.astype(np.float64) - ideal) / step
    same = (np.isnan(got) & np.isnan(exact)) | (got == rounded)
    return np.where(same & ~np.isfinite(error), 0.0, np.where(np.isfinite(error), error, np.inf))


def _sweep(step: int, start: int = 0) -> np.ndarray:
    """Every step-th f32 by its bits: all exponents, both signs, denormals, infinities and NaN."""
    return np.arange(start, 2**32, step, np.uint64).astype(np.uint32).view(np.float32)


def _worst(functions: Loaded, name: str, x: np.ndarray) -> tuple[float, float]:
    reference, _ = UNARY[name]
    with np.errstate(all="ignore"):
        error = _error(_call(functions, name, x), reference(x.astype(np.float64)))
    at = int(np.argmax(error))
    return float(error[at]), float(x[at])


@pytest.mark.parametrize("name", UNARY)
def test_every_function_keeps_its_bound_on_a_sample_of_all_floats(functions: Loaded, name: str) -> None:
    error, where = _worst(functions, name, _sweep(21_473, start=11))
    assert error <= UNARY[name][1], f"{name}({where!r}) is {error:.3f} ulps off"


@pytest.mark.slow
@pytest.mark.parametrize("name", UNARY)
def test_every_function_keeps_its_bound_on_a_dense_sweep_of_all_floats(functions: Loaded, name: str) -> None:
    for start in range(8):
        error, where = _worst(functions, name, _sweep(523 if name != "erf" else 4001, start * 61))
        assert error <= UNARY[name][1], f"{name}({where!r}) is {error:.3f} ulps off"


def test_pow_keeps_its_bound_over_the_plane_of_finite_results(functions: Loaded) -> None:
    rng = np.random.default_rng(5)
    x = np.exp2(rng.uniform(-149, 128, 200_000)).astype(np.float32)
    with np.errstate(all="ignore"):
        reach = 150 / np.abs(np.log2(x.astype(np.float64)))
    y = (rng.uniform(-1, 1, x.size) * np.minimum(reach, 1e6)).astype(np.float32)
    with np.errstate(all="ignore"):
        error = _error(_call(functions, "pow", x, y), np.power(x.astype(np.float64), y.astype(np.float64)))
    at = int(np.argmax(error))
    assert error[at] <= 1.0, f"pow({x[at]!r}, {y[at]!r}) is {error[at]:.3f} ulps off"


def test_pow_has_the_special_cases_of_c(functions: Loaded) -> None:
    inf, nan = math.inf, math.nan
    values = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        2.0,
        -2.0,
        3.0,
        -3.0,
        2.5,
        -2.5,
        1e30,
        -1e30,
        16777217.0,
        1e-40,
        inf,
        -inf,
        nan,
    ]
    x, y = (g.reshape(-1).astype(np.float32) for g in np.meshgrid(values, values, indexing="ij"))
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), y.astype(np.float64)).astype(np.float32)
    got = _call(functions, "pow", x, y)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got[~np.isnan(got)]), np.signbit(expected[~np.isnan(got)]))


def test_special_values_give_the_limits_and_zeros_keep_their_sign(functions: Loaded) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45], np.float32)
    for name, (reference, _) in UNARY.items():
        with np.errstate(all="ignore"):
            expected = reference(x.astype(np.float64)).astype(np.float32)
        got = _call(functions, name, x)
        np.testing.assert_array_equal(got, expected, err_msg=name)
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(expected[number]), err_msg=name)


@pytest.mark.parametrize("name", UNARY)
def test_a_result_does_not_depend_on_the_lane_or_on_its_neighbours(functions: Loaded, name: str) -> None:
    rng = np.random.default_rng(7)
    x = rng.permutation(_sweep(4_000_037, start=5)[: 67 * 16])
    together = _call(functions, name, x)
    alone = np.concatenate([_call(functions, name, x[i : i + 1]) for i in range(x.size)])
    shifted = _call(functions, name, np.ascontiguousarray(x[5:]))
    np.testing.assert_array_equal(together.view(np.int32), alone.view(np.int32))
    np.testing.assert_array_equal(together[5:].view(np.int32), shifted.view(np.int32))
