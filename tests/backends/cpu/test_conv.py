"""Convolution kernels against a direct sum in float64, on every instruction set that this machine has."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np
import pytest
from convolution_cases import Case, channels_last, contiguous, direct, epilogue_for, strided

from rlx.backends.cpu.conv import conv_cost
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import assembly
from rlx.codegen.target import PRESETS
from rlx.ir import dtypes
from rlx.ir.dtypes import DType


def check(runner, case: Case, *, extra: bool = False, split: int = 1, last: bool = False) -> None:
    rng = np.random.default_rng([case.batch, case.channels, case.features, *case.size, *case.kernel])
    kernels = CpuTemplates(runner.target).conv(case.spec(), epilogue_for(case, extra, last))
    assert kernels is not None

    def fresh(sizes: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
        count = 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
        if case.dtype.is_integer:
            array = rng.integers(-100, 100, count).astype(case.dtype.numpy)
        else:
            array = rng.standard_normal(count).astype(case.dtype.numpy)
        array.flags.writeable = False
        return array

    x_strides, w_strides = case.x_strides or contiguous(case.x_sizes), case.w_strides or contiguous(case.w_sizes)
    x_raw, w_raw = fresh(case.x_sizes, x_strides), fresh(case.w_sizes, w_strides)
    weights = w_raw
    if kernels.pack is not None:
        weights = np.full(kernels.packed_nbytes, 0xFB, np.uint8)
        runner.compile(kernels.pack)([w_raw, weights])
    sizes = (case.batch, case.features, *case.out)
    raw = np.full(prod(sizes), 77, case.acc.numpy)
    out = strided(raw, sizes, channels_last(sizes) if last else contiguous(sizes))
    arrays = [x_raw, weights, raw]
    bias = residual = None
    if extra:
        bias = rng.standard_normal(case.features).astype(case.acc.numpy)
        residual = rng.standard_normal(sizes).astype(case.acc.numpy)
        arrays += [bias, np.moveaxis(residual, 1, -1).copy() if last else residual]
    edges = [kernels.compute.grid * i // split for i in range(split + 1)]
    runner.compile(kernels.compute)(arrays, list(pairwise(edges)))

    wide = np.int64 if case.acc.is_integer else np.float64
    x, w = strided(x_raw, case.x_sizes, x_strides).astype(wide), strided(w_raw, case.w_sizes, w_strides).astype(wide)
    exact = direct(case, x, w)
    if case.acc.is_integer:
        np.testing.assert_array_equal(out, exact)
        return
    bound = direct(case, np.abs(x), np.abs(w))
    if bias is not None and residual is not None:
        shape = (1, -1) + (1,) * len(case.out)
        exact = np.maximum(exact + bias.reshape(shape), residual)
        bound = bound + np.abs(bias).reshape(shape) + np.abs(residual)
    depth = prod(case.w_sizes[1:])
    tolerance = np.finfo(case.acc.numpy).eps * (2 + np.sqrt(depth)) * bound + 1e-30
    assert np.all(np.abs(out - exact) <= tolerance), np.abs(out - exact).max()


SAME = ((1, 1), (1, 1))


@pytest.mark.parametrize(
    "case",
    [
        Case(1, 3, 16, (17, 19), (3, 3), padding=SAME),
        Case(2, 5, 7, (9, 33), (3, 3), padding=((0, 2), (2, 0))),
        Case(1, 3, 8, (31, 31), (7, 7), strides=(2, 2), padding=((3, 3), (3, 3))),
        Case(1, 4, 20, (7, 7), (3, 3), padding=SAME),
        Case(1, 6, 33, (1, 50), (1, 11), padding=((0, 0), (5, 5))),
        Case(1, 4, 3, (13, 14), (2, 3), strides=(3, 1), padding=((1, 0), (0, 1))),
        Case(1, 4, 3, (13, 40), (2, 3), strides=(1, 3), padding=((-1, 2), (4, -2))),
        Case(1, 4, 3, (20, 21), (3, 3), rhs=(2, 3), padding=((2, 2), (3, 3))),
        Case(2, 6, 4, (5, 6), (1, 1)),
        Case(1, 6, 40, (10, 11), (1, 1), strides=(2, 2)),
    ],
    ids=str,
)
def test_two_dimensional_convolutions(runner, case: Case) -> None:
    check(runner, case, extra=True, split=3)


def test_one_and_three_dimensions(runner) -> None:
    check(runner, Case(2, 5, 9, (40,), (5,), padding=((2, 2),)), extra=True)
    check(runner, Case(1, 129, 130, (9,), (3,), strides=(2,), padding=((1, 1),)))
    check(runner, Case(1, 3, 5, (5, 6, 18), (2, 3, 3), padding=((1, 0), (1, 1), (1, 1))), extra=True)


def test_groups_and_transposed_convolutions(runner) -> None:
    check(runner, Case(2, 8, 12, (9, 10), (3, 3), padding=SAME, groups=4), extra=True)
    check(runner, Case(1, 4, 8, (9, 10), (3, 3), padding=SAME, groups=4))
    check(runner, Case(1, 6, 8, (9, 10), (1, 1), groups=2))
    check(runner, Case(1, 4, 6, (5, 7), (4, 4), lhs=(2, 2), padding=((2, 2), (2, 2))))
    check(runner, Case(1, 4, 6, (5, 7), (3, 3), lhs=(3, 2), strides=(2, 1), padding=SAME))


def test_transposed_convolutions_split_into_phases(runner) -> None:
    check(runner, Case(1, 5, 6, (7, 20), (2, 2), lhs=(2, 2), padding=((1, 1), (1, 1))), extra=True, split=3)
    check(runner, Case(2, 5, 6, (7, 20), (3, 3), lhs=(2, 2), padding=((1, 2), (1, 2))), extra=True)
    check(runner, Case(1, 4, 6, (5, 7), (4, 5), lhs=(2, 3), padding=((2, 2), (2, 4)), groups=2), extra=True)
    check(runner, Case(1, 4, 4, (5, 7), (2, 3), lhs=(2, 1), padding=((1, 1), (1, 1)), groups=4))
    check(runner, Case(1, 3, 4, (9,), (2,), lhs=(4,), padding=((3, 1),)), extra=True)
    check(runner, Case(1, 3, 4, (3, 9), (2, 2), lhs=(2, 2), padding=((1, 3), (1, 3))))
    check(runner, Case(1, 3, 4, (2, 3, 9), (2, 2, 2), lhs=(1, 2, 2), padding=((0, 0), (1, 1), (1, 1))))
    check(runner, Case(1, 3, 4, (3, 9), (2, 2), lhs=(2, 2), padding=SAME, dtype=dtypes.f16))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_depthwise_convolutions(runner, stride: int) -> None:
    check(runner, Case(2, 5, 5, (13, 37), (3, 3), (stride, stride), SAME, groups=5), extra=True, split=3)
    check(runner, Case(1, 3, 3, (70, 7), (5, 5), (stride, stride), ((2, 2), (2, 2)), groups=3), extra=True)
    check(runner, Case(1, 3, 3, (20, 40), (3, 3), (1, stride), ((4, 0), (-1, 4)), rhs=(2, 3), groups=3))
    check(runner, Case(1, 3, 3, (50,), (7,), (stride,), ((3, 3),), groups=3))
    check(runner, Case(1, 3, 3, (4, 5, 17), (3, 3, 3), (1, 1, stride), ((1, 1),) * 3, groups=3))


LAST = [
    Case(1, 3, 16, (17, 19), (3, 3), padding=SAME),
    Case(2, 5, 7, (9, 33), (3, 3), padding=((0, 2), (2, 0))),
    Case(1, 3, 40, (31, 30), (7, 7), strides=(2, 2), padding=((3, 3), (3, 3))),
    Case(1, 20, 48, (7, 7), (3, 3), padding=SAME),
    Case(3, 17, 33, (1, 50), (1, 11), padding=((0, 0), (5, 5))),
    Case(1, 4, 3, (13, 14), (2, 3), strides=(3, 1), padding=((1, 0), (0, 1))),
    Case(1, 4, 3, (13, 40), (2, 3), strides=(1, 3), padding=((-1, 2), (4, -2))),
    Case(1, 4, 100, (20, 21), (3, 3), rhs=(2, 3), padding=((2, 2), (3, 3))),
    Case(2, 1024, 20, (5, 6), (1, 1)),
    Case(1, 6, 40, (10, 11), (1, 1), strides=(2, 3)),
    Case(1, 18, 24, (11, 3), (3, 2), strides=(2, 1)),
    Case(2, 5, 9, (40,), (5,), padding=((2, 2),)),
    Case(1, 129, 130, (9,), (3,), strides=(2,), padding=((1, 1),)),
    Case(1, 4, 3, (6, 7), (3, 3), padding=((9, 0), (0, 9))),
    Case(2, 16, 40, (14, 14), (3, 3), padding=SAME),
    Case(1, 24, 33, (9, 40), (3, 3), strides=(2, 2), padding=SAME),
    Case(1, 16, 20, (8, 30), (3, 3), rhs=(2, 7), padding=((2, 2), (7, 7))),
    Case(1, 17, 24, (6, 7), (3, 3), padding=((9, 0), (0, 9))),
    Case(1, 16, 9, (9, 8), (3, 2), padding=((-1, 3), (2, -2))),
    Case(2, 19, 20, (21,), (5,), padding=((3, 1),)),
    Case(1, 512, 20, (7, 9), (3, 3), padding=SAME),
    Case(1, 9, 17, (9, 20), (3, 3), padding=SAME, dtype=dtypes.f64, acc=dtypes.f64),
    Case(1, 9, 17, (9, 20), (3, 3), padding=SAME, dtype=dtypes.f16),
]


@pytest.mark.parametrize("case", LAST, ids=str)
def test_results_that_lie_channels_last(runner, case: Case) -> None:
    check(runner, case, extra=True, split=3, last=True)
    check(runner, replace(case, x_strides=channels_last(case.x_sizes)), split=2, last=True)


DEPTHWISE_LAST = [
    Case(2, 21, 21, (13, 37), (3, 3), padding=SAME, groups=21),
    Case(1, 32, 32, (20, 7), (5, 5), (2, 2), ((2, 2), (2, 2)), groups=32),
    Case(1, 3, 3, (20, 40), (3, 3), (1, 3), ((4, 0), (-1, 4)), rhs=(2, 3), groups=3),
    Case(1, 33, 33, (3, 2), (5, 5), (1, 1), ((2, 2), (3, 3)), groups=33),
    Case(2, 19, 19, (50,), (7,), (2,), ((3, 3),), groups=19),
    Case(1, 17, 17, (9, 10), (1, 1), (2, 2), groups=17),
    Case(1, 17, 17, (9, 10), (3, 3), padding=SAME, groups=17, dtype=dtypes.f16),
]


@pytest.mark.parametrize("case", DEPTHWISE_LAST, ids=str)
def test_depthwise_results_that_lie_channels_last(runner, case: Case) -> None:
    lies = replace(case, x_strides=channels_last(case.x_sizes))
    check(runner, lies, extra=True, split=3, last=True)
    check(runner, lies, last=True)


def test_the_channels_last_kernels_are_taken(runner) -> None:
    for case, label in ((LAST[0], "pack_pixels"), (DEPTHWISE_LAST[0], "pack_depthwise")):
        spec = replace(case, x_strides=channels_last(case.x_sizes)).spec()
        kernels = CpuTemplates(runner.target).conv(spec, epilogue_for(case, False, last=True))
        assert kernels is not None and kernels.pack is not None and kernels.pack.label == label


@pytest.mark.parametrize(
    "case",
    [
        Case(3, 20, 33, (1,), (3,), padding=((1, 1),)),
        Case(2, 24, 40, (5, 4), (5, 4)),
        Case(2, 24, 40, (2, 4), (5, 4), strides=(3, 1), padding=((2, 1), (0, 0))),
        Case(4, 33, 17, (1, 1), (1, 1)),
        Case(1, 7, 70, (1, 9), (1, 1), strides=(1, 9)),
    ],
    ids=str,
)
def test_a_single_pixel_is_computed_by_features(runner, case: Case) -> None:
    """Its layouts are the same, and lanes along pixels would have one of them."""
    kernels = CpuTemplates(runner.target).conv(case.spec(), epilogue_for(case, False))
    assert kernels is not None and kernels.pack is not None and kernels.pack.label == "pack_pixels"
    check(runner, case, extra=True, split=3)


def test_an_image_that_lies_channels_last_is_refused_where_the_result_does_not(runner) -> None:
    case = Case(2, 5, 7, (9, 20), (3, 3), padding=SAME, x_strides=channels_last((2, 5, 9, 20)))
    assert CpuTemplates(runner.target).conv(case.spec(), epilogue_for(case, False)) is None


def test_images_and_weights_are_read_as_they_lie(runner) -> None:
    spread = (5 * 9 * 25, 9 * 25, 25, 1)
    check(runner, Case(2, 5, 7, (9, 20), (3, 3), padding=SAME, x_strides=spread))
    check(runner, Case(2, 5, 7, (9, 20), (1, 1), x_strides=spread))
    check(runner, Case(2, 5, 5, (9, 20), (3, 3), padding=SAME, groups=5, x_strides=spread))
    for constant in (False, True):
        check(runner, Case(1, 5, 7, (9, 20), (3, 3), w_strides=(1, 7, 7 * 15, 7 * 5), constant=constant))


@pytest.mark.parametrize(
    ("dtype", "acc"), [(dtypes.f64, dtypes.f64), (dtypes.f16, dtypes.f32), (dtypes.i8, dtypes.i32)], ids=str
)
def test_other_dtypes(runner, dtype: DType, acc: DType) -> None:
    for constant in (False, True):
        check(runner, Case(1, 3, 17, (9, 20), (3, 3), padding=SAME, dtype=dtype, acc=acc, constant=constant))
    check(runner, Case(1, 3, 3, (9, 20), (3, 3), padding=SAME, groups=3, dtype=dtype, acc=acc))


PAIRS = [
    Case(1, 65, 33, (14, 9), (3, 3), padding=SAME),
    Case(1, 130, 20, (10, 11), (1, 1), strides=(2, 3)),
    Case(1, 64, 16, (9, 10), (3, 1), rhs=(2, 1), strides=(1, 2), padding=((2, 0), (0, 0))),
]


@pytest.mark.parametrize("case", [c for c in LAST + PAIRS if c.dtype is dtypes.f32], ids=str)
def test_pairs_of_bf16_channels_agree_with_float64(bf16_runner, case: Case) -> None:
    case = replace(case, dtype=dtypes.bf16)
    check(bf16_runner, case, extra=True, split=3, last=True)
    check(bf16_runner, replace(case, x_strides=channels_last(case.x_sizes)), split=2, last=True)


def test_pixels_an_odd_number_of_channels_apart_are_copied_into_pairs(bf16_runner) -> None:
    case = Case(1, 16, 33, (9, 10), (1, 1), dtype=dtypes.bf16)
    check(bf16_runner, replace(case, x_strides=(9 * 10 * 17, 1, 10 * 17, 17)), last=True)
    check(bf16_runner, replace(case, x_strides=(9 * 171, 1, 171, 17)), last=True)


@pytest.mark.parametrize("channels", [16, 17])
def test_convolutions_of_bf16_multiply_pairs(channels: int) -> None:
    target = PRESETS["avx512_bf16"]
    case = Case(1, channels, 32, (9, 14), (3, 3), padding=SAME, dtype=dtypes.bf16)
    kernels = CpuTemplates(target).conv(case.spec(), epilogue_for(case, False, last=True))
    assert kernels is not None and kernels.packed_nbytes == 9 * 9 * 32 * 4 - (channels == 16) * 9 * 32 * 4
    assert kernels.compute.cost.factors == "bf16"
    module = new_module(target)
    emit_kernel(module, "conv", kernels.compute, target)
    text = assembly(module, target)
    assert "vdpbf16ps" in text and "vfmadd" not in text


@pytest.mark.parametrize(("channels", "stride"), [(3, 2), (3, 1), (5, 1), (4, 1)])
def test_infinities_reach_only_the_pixels_that_see_them(bf16_runner, channels: int, stride: int) -> None:
    case = Case(1, channels, 16, (5, 12), (1, 3), strides=(1, stride), dtype=dtypes.bf16)
    kernels = CpuTemplates(bf16_runner.target).conv(case.spec(), epilogue_for(case, False, last=True))
    assert kernels is not None and kernels.pack is not None
    x, w = np.ones(case.x_sizes, dtypes.bf16.numpy), np.ones(case.w_sizes, dtypes.bf16.numpy)
    x[0, :, 2, 6] = np.inf
    weights = np.full(kernels.packed_nbytes, 0xFF, np.uint8)
    bf16_runner.compile(kernels.pack)([w, weights])
    out = np.zeros((1, *case.out, 16), np.float32)
    bf16_runner.compile(kernels.compute)([x, weights, out])
    expected = np.full(case.out, 3.0 * channels)
    expected[2, [i for i in range(case.out[1]) if i * stride <= 6 < i * stride + 3]] = np.inf
    np.testing.assert_array_equal(out[0], np.broadcast_to(expected[..., None], out[0].shape))


def test_infinity_beside_padding_makes_no_nan(runner) -> None:
    case = Case(1, 1, 1, (4, 4), (3, 3), padding=SAME)
    kernels = CpuTemplates(runner.target).conv(case.spec(), epilogue_for(case, False))
    assert kernels is not None
    x = np.zeros((1, 1, 4, 4), np.float32)
    x[0, 0, 0, 0], w = np.inf, np.ones((1, 1, 3, 3), np.float32)
    out = np.zeros((1, 1, 4, 4), np.float32)
    runner.compile(kernels.compute)([x, w, out])
    expected = np.zeros((4, 4), np.float32)
    expected[:2, :2] = np.inf
    np.testing.assert_array_equal(out[0, 0], expected)


def test_empty_convolutions_are_left_to_loops(runner) -> None:
    case = Case(0, 3, 4, (5, 5), (3, 3))
    assert CpuTemplates(runner.target).conv(case.spec(), epilogue_for(case, False)) is None


@pytest.mark.parametrize(
    "case",
    [
        Case(1, 16, 32, (7, 7), (3, 3), padding=((1, 1), (1, 1))),
        Case(2, 6, 4, (9, 8), (3, 5), (2, 1), ((2, 0), (-1, 3)), (1, 2), (2, 1), groups=2),
        Case(1, 3, 5, (4,), (6,), padding=((9, 9),)),
    ],
    ids=["same", "strided with gaps", "more padding than image"],
)
def test_the_cost_counts_products_with_the_image_alone(case: Case) -> None:
    seen = direct(case, np.ones(case.x_sizes), np.ones(case.w_sizes))
    epilogue = epilogue_for(case, extra=True)
    assert conv_cost(case.spec(), epilogue).flops == 2 * seen.sum() + seen.size * epilogue.flops
