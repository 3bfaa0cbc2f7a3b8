"""Depthwise convolutions channels last: what outputs see of the image, and that nothing beside it is multiplied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from convolution_cases import Case, channels_last, epilogue_for

from rlx.backends.cpu.conv_pixels import plane_of
from rlx.backends.cpu.depthwise_pixels import ColumnRun, column_runs
from rlx.backends.cpu.matrix import CpuTemplates


def depthwise(size: tuple[int, ...], kernel: tuple[int, ...], channels: int = 16, **more: Any) -> Case:
    case = Case(1, channels, channels, size, kernel, groups=channels, **more)
    case.x_strides = channels_last(case.x_sizes)
    return case


def test_columns_inside_the_image_are_one_run() -> None:
    case = depthwise((20, 20), (5, 5), padding=((2, 2), (2, 2)))
    assert column_runs(plane_of(case.spec())) == [
        ColumnRun(0, 1, (2, 5)),
        ColumnRun(1, 2, (1, 5)),
        ColumnRun(2, 18, (0, 5)),
        ColumnRun(18, 19, (0, 4)),
        ColumnRun(19, 20, (0, 3)),
    ]


@pytest.mark.parametrize("seed", range(40))
def test_runs_are_what_each_column_sees(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, taps = int(rng.integers(1, 40)), int(rng.integers(1, 9))
    step, apart = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    reach = (taps - 1) * apart + 1
    pads = tuple(int(p) for p in rng.integers(0, reach + 6, 2))
    pads = (pads[0], max(pads[1], reach - size - pads[0]))
    case = depthwise((size,), (taps,), strides=(step,), rhs=(apart,), padding=(pads,))
    runs = column_runs(plane_of(case.spec()))
    seen = {x: run.taps for run in runs for x in range(run.start, run.stop)}
    assert [run.start for run in runs] == [0, *(run.stop for run in runs[:-1])]
    for x in range(case.out[0]):
        meets = [t for t in range(taps) if 0 <= x * step - pads[0] + t * apart < size]
        assert list(range(*seen[x])) == meets, x


@pytest.mark.parametrize(
    "case",
    [
        depthwise((3, 23), (5, 5), 20, padding=((2, 2), (2, 2))),
        depthwise((2, 9), (3, 3), 33, padding=((9, 0), (0, 9))),
        depthwise((9, 8), (3, 2), 16, padding=((-1, 3), (2, -2))),
        depthwise((6, 9), (1, 3), 16, padding=((2, 1), (1, 1))),
        depthwise((6, 9), (3, 1), 16, padding=((1, 1), (2, 1)), strides=(2, 1)),
        depthwise((2, 2), (7, 7), 16, padding=((3, 3), (3, 3))),
        depthwise((4, 50), (3, 3), 16, padding=((5, 5), (7, 7)), rhs=(5, 7)),
        depthwise((70,), (31,), 24, padding=((15, 15),)),
    ],
    ids=lambda case: f"{case.kernel} on {case.size}",
)
def test_weights_that_only_padding_meets_do_not_count(runner, case: Case) -> None:
    """The sums of ones are how many weights each output sees, and infinite weights where it sees none stay out."""
    kernels = CpuTemplates(runner.target).conv(case.spec(), epilogue_for(case, False, last=True))
    assert kernels is not None and kernels.pack is not None and kernels.pack.label == "pack_depthwise"
    counts = [
        np.array([[0 <= x * step - low + t * apart < size for t in range(taps)] for x in range(out)])
        for size, taps, out, step, apart, (low, _) in zip(
            case.size, case.kernel, case.out, case.strides, case.rhs, case.padding, strict=True
        )
    ]
    seen = counts[0] if len(counts) == 1 else np.einsum("at,bu->abtu", *counts)
    x, w = np.ones(case.x_sizes, np.float32), np.ones(case.w_sizes, np.float32)
    never = ~seen.any(axis=tuple(range(len(case.out))))
    w[:, :, never] = np.inf
    weights = np.full(kernels.packed_nbytes, 0xFB, np.uint8)
    runner.compile(kernels.pack)([w, weights])
    out = np.full((1, *case.out, case.features), np.nan, np.float32)
    runner.compile(kernels.compute)([np.ascontiguousarray(np.moveaxis(x, 1, -1)), weights, out])
    expected = seen.sum(axis=tuple(range(len(case.out), seen.ndim))).astype(np.float32)
    np.testing.assert_array_equal(out[0], np.broadcast_to(expected[..., None], out[0].shape))
