"""Our own f32 functions: error in units of the last place over the whole f32 range, and special values.

What is measured, and how, is in `rlx.testing.vector_math`; what was found is in docs/numerics.md.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rlx.codegen.target import Target
from rlx.ir import all_ops
from rlx.ir.dtypes import DType, bf16, f16, f32
from rlx.testing.kernel_runner import TARGETS, Loaded, pointwise_kernel
from rlx.testing.vector_math import (
    BINARY,
    CHUNK,
    CHUNKS,
    UNARY,
    Score,
    all_floats,
    all_narrow,
    measure,
    pairs,
    ulps,
)

NAMES = [t.name for t in TARGETS]
OWN = [name for name, function in UNARY.items() if function.own]
PRIMITIVES = [name for name in OWN if not all_ops()[UNARY[name].op or name].is_composite]


@pytest.fixture(scope="module", params=TARGETS, ids=lambda t: t.name)
def functions(request: pytest.FixtureRequest) -> Loaded:
    target: Target = request.param
    kernels = {name: pointwise_kernel(name, [f32], f32) for name in PRIMITIVES}
    kernels["pow"] = pointwise_kernel("pow", [f32, f32], f32)
    return Loaded(kernels, target)


def _call(functions: Loaded, name: str, *arrays: np.ndarray) -> np.ndarray:
    out = np.empty_like(arrays[0])
    functions(name, *arrays, out, sizes=(out.size,))
    return out


def _held(scores: dict[tuple[str, str], Score]) -> None:
    """Every score is within its function's bound, and none lost NaN, an infinity or a sign."""
    assert scores
    for (name, target), score in scores.items():
        bound = (UNARY | BINARY)[name].bound
        assert score.worst <= bound, f"{name} on {target} is {score.worst:.3f} ulps off at {score.where}"
        assert score.wrong == 0, f"{name} on {target} has {score.wrong} results of the wrong kind or sign"


def test_every_function_keeps_its_bound_on_a_sample_of_all_floats() -> None:
    _held(measure([*UNARY], NAMES, all_floats(range(0, CHUNKS, CHUNKS // 3))))


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_every_function_of_our_own_keeps_its_bound_on_all_floats(name: str) -> None:
    _held(measure([name], NAMES[:1], all_floats()))


@pytest.mark.slow
@pytest.mark.parametrize("name", UNARY)
def test_every_function_keeps_its_bound_on_a_dense_sample_on_every_target(name: str) -> None:
    _held(measure([name], NAMES, all_floats(range(0, CHUNKS, 521))))


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_narrow_floats_are_rounded_once(dtype: DType) -> None:
    for (name, target), score in measure(OWN, NAMES, all_narrow(dtype), dtype).items():
        assert score.worst < 0.501, f"{name} on {target} is {score.worst:.4f} ulps off at {score.where}"
        assert score.wrong == 0


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_operands_keep_their_bound(name: str) -> None:
    _held(measure([name], NAMES, pairs(name, 8)))


@pytest.mark.parametrize(
    ("got", "exact", "expected"),
    [
        (1.0, 1.0, 0.0),
        (np.nextafter(np.float32(1), np.float32(2)), 1.0, 1.0),
        (np.nextafter(np.float32(1), np.float32(0)), 1.0, 0.5),
        (0.0, 1e-60, 1e-60 * 2.0**149),
        (2.0**-148, 2.0**-149, 1.0),
        (np.inf, 1e39, 0.0),
        (np.finfo(np.float32).max, 1e39, 1.0),
        (np.inf, 2.0**128 - 2.0**103, 0.5),
        (-np.inf, 1e39, 2.0**25),
        (np.nan, 1.0, np.inf),
        (1.0, np.nan, np.inf),
        (np.nan, np.nan, 0.0),
    ],
)
def test_ulps_are_counted_in_the_binade_of_the_exact_result(got: float, exact: float, expected: float) -> None:
    assert ulps(np.array([got], np.float32), np.array([exact]), f32)[0] == expected


def test_the_chunks_of_all_floats_hold_each_number_once() -> None:
    chunks = [next(all_floats(range(k, k + 1)))[0].view(np.uint32) for k in (0, 1, 77, CHUNKS - 1)]
    together = np.concatenate(chunks)
    assert np.unique(together).size == together.size
    high = chunks[0] >> np.uint32(17)
    np.testing.assert_array_equal(high, np.arange(CHUNK))
    low = {int(next(all_floats(range(k, k + 1)))[0].view(np.uint32)[5] & 0x1FFFF) for k in range(0, CHUNKS, 97)}
    assert len(low) == len(range(0, CHUNKS, 97))


def test_the_page_of_errors_is_within_the_bounds() -> None:
    """docs/numerics.md has every function, with the bounds that the tests above hold."""
    page = (Path(__file__).parents[2] / "docs" / "numerics.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.partition("## f16")[0].splitlines() if line.startswith("| ")]
    found = [(row[0], float(row[1]), float(row[2]), row[-1]) for row in rows if row[0] in UNARY | BINARY]
    assert {name for name, *_ in found} == {*UNARY, *BINARY}
    for name, worst, bound, specials in found:
        assert worst <= bound == (UNARY | BINARY)[name].bound, name
        assert specials == "kept", name


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
    for name in PRIMITIVES:
        with np.errstate(all="ignore"):
            expected = UNARY[name].reference(x.astype(np.float64)).astype(np.float32)
        got = _call(functions, name, x)
        np.testing.assert_array_equal(got, expected, err_msg=name)
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(expected[number]), err_msg=name)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_a_result_does_not_depend_on_the_lane_or_on_its_neighbours(functions: Loaded, name: str) -> None:
    rng = np.random.default_rng(7)
    x = rng.permutation(next(all_floats())[0][: 67 * 16])
    together = _call(functions, name, x)
    alone = np.concatenate([_call(functions, name, x[i : i + 1]) for i in range(x.size)])
    shifted = _call(functions, name, np.ascontiguousarray(x[5:]))
    np.testing.assert_array_equal(together.view(np.int32), alone.view(np.int32))
    np.testing.assert_array_equal(together[5:].view(np.int32), shifted.view(np.int32))
