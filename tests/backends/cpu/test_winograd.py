"""Winograd: transforms exact in fractions, kernels within the transforms' error bounds, and the policy around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from convolution_cases import Case, channels_last, direct, epilogue_for

from rlx import Session
from rlx.backends.cpu.conv import channels_last_kernels, plane_of
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.backends.cpu.winograd import WinogradKernel
from rlx.backends.cpu.winograd_plan import WinogradPlan, plan_winograd
from rlx.backends.cpu.winograd_transform import FILTERINGS, Filtering, Matrix
from rlx.codegen.lower.templates import ConvKernels
from rlx.codegen.target import PRESETS
from rlx.ir import GraphBuilder, TensorType, dtypes
from rlx.ir.graph import Graph
from rlx.options import OptionError, Options

SAME = ((1, 1), (1, 1))


def rows(matrix: Matrix) -> np.ndarray:
    return np.array([[float(v) for v in row] for row in matrix])


@pytest.mark.parametrize("filtering", FILTERINGS.values(), ids=lambda f: f"F{f.outputs}")
def test_the_transforms_are_exact_in_fractions(filtering: Filtering) -> None:
    rng = np.random.default_rng(0)

    def integers(*sizes: int) -> np.ndarray:
        return np.vectorize(Fraction)(rng.integers(-9, 9, sizes))

    image, kernel = integers(filtering.size, filtering.size), integers(3, 3)
    at, g, bt = (np.array(m, object) for m in (filtering.output, filtering.kernel, filtering.input))
    got = at @ ((g @ kernel @ g.T) * (bt @ image @ bt.T)) @ at.T
    m = filtering.outputs
    meant = sum(kernel[y, x] * image[y : y + m, x : x + m] for y, x in product(range(3), range(3)))
    assert (got == meant).all()


@pytest.mark.parametrize("filtering", FILTERINGS.values(), ids=lambda f: f"F{f.outputs}")
def test_entries_of_the_transforms_of_images_and_sums_are_exact_in_f32(filtering: Filtering) -> None:
    for entry in (v for matrix in (filtering.input, filtering.output) for row in matrix for v in row):
        assert Fraction(float(np.float32(float(entry)))) == entry


def bound_of(case: Case, filtering: Filtering, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """What rounding may change, each output, by the transforms on absolute values: Higham's first-order bound.

    A value of the result goes through at most 2 roundings a term in each of four one-dimensional transforms, one in the
    transformed weight, and one a channel.
    """
    m, size = filtering.outputs, filtering.size
    at, g, bt = (np.abs(rows(matrix)) for matrix in (filtering.output, filtering.kernel, filtering.input))
    tiles = [-(-n // m) for n in case.out]
    (top, _), (left, _) = case.padding
    wide = np.zeros((*x.shape[:2], *[(n + 2) * m + size + 32 for n in tiles]))
    wide[:, :, 16 : 16 + x.shape[2], 16 : 16 + x.shape[3]] = np.abs(x)
    u = np.einsum("ia,ocab,jb->ocij", g, np.abs(w), g)
    out = np.zeros((case.batch, case.features, *[n * m for n in tiles]))
    for ty, tx in product(*map(range, tiles)):
        y, along = 16 - top + ty * m, 16 - left + tx * m
        d = wide[:, :, y : y + size, along : along + size]
        v = np.einsum("ia,ncab,jb->ncij", bt, d, bt)
        sums = np.einsum("ncij,ocij->noij", v, u)
        out[:, :, ty * m : (ty + 1) * m, tx * m : (tx + 1) * m] = np.einsum("ia,noab,jb->noij", at, sums, at)
    roundings = case.channels + 1 + 2 * 4 * size
    return out[:, :, : case.out[0], : case.out[1]] * roundings * np.finfo(np.float32).eps / 2


def kernels_of(runner, case: Case, plan: WinogradPlan, extra: bool) -> ConvKernels:
    spec = case.spec()
    kernel = WinogradKernel(runner.target, spec, epilogue_for(case, extra, last=True), plane_of(spec), plan)
    return channels_last_kernels(runner.target, kernel)


def compiled(runner, case: Case, kernels: ConvKernels, w: np.ndarray) -> Callable[..., np.ndarray]:
    """A call that takes x as it lies, what the epilogue reads, and in how many parts to run; gives [N, O, *S']."""
    assert kernels.pack is not None
    packed = np.full(kernels.packed_nbytes, 0xFB, np.uint8)
    runner.compile(kernels.pack)([w, packed])
    packed.flags.writeable = False
    compute = runner.compile(kernels.compute)

    def run(x: np.ndarray, rest: list[np.ndarray], split: int = 1) -> np.ndarray:
        out = np.full((case.batch, *case.out, case.features), 77, np.float32)
        edges = [kernels.compute.grid * i // split for i in range(split + 1)]
        compute([x, packed, out, *rest], list(pairwise(edges)))
        return np.moveaxis(out, -1, 1)

    return run


def last(case: Case) -> Case:
    return replace(case, x_strides=channels_last(case.x_sizes))


CASES = [
    (Case(1, 16, 16, (8, 8), (3, 3), padding=SAME), (5, 1, 3, 1)),
    (Case(1, 16, 33, (1, 1), (3, 3), padding=SAME), (1, 2, 1, 2)),
    (Case(2, 32, 33, (9, 14), (3, 3), padding=((0, 2), (2, 0))), (7, 2, 4, 1)),
    (Case(3, 48, 7, (5, 7), (3, 3), padding=((2, 1), (0, 3))), (64, 1, 9, 1)),
    (Case(1, 16, 40, (12, 11), (3, 3), padding=((-1, 1), (1, -2))), (4, 1, 4, 1)),
    (Case(1, 64, 80, (14, 13), (3, 3)), (16, 3, 6, 2)),
]


@pytest.mark.parametrize("outputs", FILTERINGS)
@pytest.mark.parametrize(("case", "cut"), CASES, ids=str)
def test_kernels_stay_within_the_bound_of_the_transforms(runner, outputs: int, case: Case, cut) -> None:
    case = last(case)
    rng = np.random.default_rng([outputs, *case.size])
    x = rng.standard_normal((case.batch, *case.size, case.channels)).astype(np.float32)
    w = rng.standard_normal(case.w_sizes).astype(np.float32)
    bias = rng.standard_normal(case.features).astype(np.float32)
    residual = rng.standard_normal((case.batch, *case.out, case.features)).astype(np.float32)
    for array in (x, w, bias, residual):
        array.flags.writeable = False
    kernels = kernels_of(runner, case, WinogradPlan(outputs, *cut), extra=True)
    run = compiled(runner, case, kernels, w)
    got = run(x, [bias, residual], split=3)

    seen, weights = np.moveaxis(x, -1, 1).astype(np.float64), w.astype(np.float64)
    other, shift = np.moveaxis(residual, -1, 1).astype(np.float64), bias.reshape(1, -1, 1, 1)
    exact = np.maximum(direct(case, seen, weights) + shift, other)
    bound = bound_of(case, FILTERINGS[outputs], seen, weights) + np.spacing(np.abs(shift) + np.abs(exact) + 16)
    assert np.all(np.abs(got - exact) <= bound), (np.abs(got - exact) / bound).max()
    np.testing.assert_array_equal(got, run(x, [bias, residual]))


@pytest.mark.parametrize(("outputs", "growth"), [(2, 1.3), (4, 5.0)])
def test_errors_are_those_that_the_documentation_gives(runner, outputs: int, growth: float) -> None:
    """Root mean squares beside the direct sum's, on rectified images as they occur in networks."""
    case = last(Case(1, 64, 16, (20, 20), (3, 3), padding=SAME))
    rng = np.random.default_rng(5)
    x = np.maximum(rng.standard_normal((1, 20, 20, 64)), 0).astype(np.float32)
    w = rng.standard_normal(case.w_sizes).astype(np.float32)
    exact = direct(case, np.moveaxis(x, -1, 1).astype(np.float64), w.astype(np.float64))

    def error(kernels: ConvKernels) -> float:
        return float(np.sqrt(np.mean((compiled(runner, case, kernels, w)(x, []) - exact) ** 2)))

    plain = CpuTemplates(runner.target).conv(case.spec(), epilogue_for(case, False, last=True))
    assert plain is not None
    assert error(kernels_of(runner, case, WinogradPlan(outputs, 25, 1, 5, 2), extra=False)) < growth * error(plain)


@pytest.mark.parametrize("outputs", FILTERINGS)
def test_what_is_not_finite_spoils_tiles_that_hold_it_and_no_others(runner, outputs: int) -> None:
    case = last(Case(1, 16, 16, (16, 16), (3, 3), padding=SAME))
    rng = np.random.default_rng(6)
    x = rng.standard_normal((1, 16, 16, 16)).astype(np.float32)
    w = rng.standard_normal(case.w_sizes).astype(np.float32)
    kernels = kernels_of(runner, case, WinogradPlan(outputs, 6, 1, 3, 1), extra=False)
    run, spoilt = compiled(runner, case, kernels, w), x.copy()
    hold = np.zeros((16, 16), bool)
    for y, along in product(*[{at // outputs for at in (p - 1, p, p + 1)} for p in (7, 9)]):
        hold[y * outputs : (y + 1) * outputs, along * outputs : (along + 1) * outputs] = True
    before = run(x, [])
    for value in (np.inf, -np.inf, np.nan, 3e38):
        spoilt[0, 7, 9, 3] = value
        after = run(spoilt, [])
        np.testing.assert_array_equal(after[0, :, ~hold], before[0, :, ~hold])
        assert not np.any(np.abs(after[0, :, 6:9, 8:11]) < 1e30)


def test_pixels_denormal_and_zero_keep_what_they_are(runner) -> None:
    case = last(Case(1, 16, 16, (6, 6), (3, 3), padding=SAME))
    w = np.zeros(case.w_sizes, np.float32)
    w[:, :, 1, 1] = np.eye(16, dtype=np.float32)
    x = np.full((1, 6, 6, 16), 1e-41, np.float32)
    x[..., 1] = 0
    kernels = kernels_of(runner, case, WinogradPlan(2, 9, 1, 9, 1), extra=False)
    got = compiled(runner, case, kernels, w)(x, [])
    np.testing.assert_allclose(np.moveaxis(got, 1, -1), x, rtol=1e-3, atol=1e-44)


def test_tiles_are_planned_for_wide_convolutions_alone() -> None:
    target = PRESETS["avx512"]

    def planned(case: Case, policy="winograd-4x4") -> WinogradPlan | None:
        spec = last(case).spec()
        return plan_winograd(target, spec, plane_of(spec), policy)

    wide = Case(1, 64, 64, (56, 56), (3, 3), padding=SAME)
    four, two = planned(wide), planned(wide, "winograd-2x2")
    assert four is not None and four.outputs == 4
    assert two is not None and two.outputs == 2
    assert planned(wide, "direct") is None
    for other in (
        replace(wide, strides=(2, 2)),
        replace(wide, kernel=(1, 1), padding=((0, 0), (0, 0))),
        replace(wide, kernel=(5, 5)),
        replace(wide, rhs=(2, 2)),
        replace(wide, channels=3),
        replace(wide, size=(1, 1)),
        replace(wide, dtype=dtypes.f16),
    ):
        assert planned(other) is None, other


def convolutions() -> Graph:
    """Two, of which the second finds its input channels last."""
    b = GraphBuilder()
    y = b.input("x", TensorType((1, 32, 24, 24), dtypes.f32))
    rng, ones = np.random.default_rng(0), (1, 1)
    attrs = {"strides": ones, "padding": SAME, "lhs_dilation": ones, "rhs_dilation": ones, "groups": 1}
    for name in ("first", "second"):
        w = b.parameter(name, (rng.standard_normal((32, 32, 3, 3)) / 17).astype(np.float32))
        y = b.emit("conv_general", y, w, **attrs)
    return b.build({"y": y})


def test_the_policy_is_honoured_recorded_and_never_the_default() -> None:
    graph, x = convolutions(), np.random.default_rng(1).standard_normal((1, 32, 24, 24)).astype(np.float32)
    results = {}
    for policy in ("direct", "winograd-2x2", "winograd-4x4"):
        session = Session("cpu", Options(convolution=policy, cache=False))
        program = session.compile(graph)
        assert session.cache_key(graph)["option.convolution"] == policy
        report = program.executable.report()
        assert report["convolution"] == policy
        labels = [step["label"] for step in report["steps"]]
        assert labels.count("winograd") == int(policy != "direct")
        results[policy] = program(x=x)["y"]
    assert Options().convolution == "direct"
    for policy in ("winograd-2x2", "winograd-4x4"):
        assert not np.array_equal(results[policy], results["direct"])
        np.testing.assert_allclose(results[policy], results["direct"], atol=1e-4)


def test_results_are_the_same_to_the_bit_for_any_number_of_threads() -> None:
    graph, x = convolutions(), np.random.default_rng(2).standard_normal((1, 32, 24, 24)).astype(np.float32)
    options = Options(convolution="winograd-4x4", cache=False)
    first, second = (Session("cpu", replace(options, threads=n)).compile(graph)(x=x)["y"] for n in (1, 3))
    np.testing.assert_array_equal(first, second)


def test_a_policy_that_is_not_to_be_had_is_refused() -> None:
    with pytest.raises(OptionError, match="convolution is 'fft', expected one of direct"):
        Options(convolution="fft")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(OptionError, match="'winograd-2x2' is not to be had on reference"):
        Session("reference", Options(convolution="winograd-2x2"))
