"""Tiles near an image's edges: what they see of it, and that nothing beside it is multiplied."""

from __future__ import annotations

import numpy as np
import pytest
from convolution_cases import Case, channels_last, epilogue_for

from rlx.backends.cpu.conv_band import Plane
from rlx.backends.cpu.conv_edges import Run, Span, fewest_words, leaves_out_padding, runs, spans
from rlx.backends.cpu.conv_pixels import choose_tile, plane_of, reads_in_place
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.target import PRESETS

SAME = ((1, 1), (1, 1))


def plane(case: Case) -> Plane:
    case.x_strides = channels_last(case.x_sizes)
    return plane_of(case.spec())


def test_neighbours_that_see_alike_are_one_span() -> None:
    wide = plane(Case(1, 16, 16, (4, 56), (3, 3), padding=SAME))
    assert spans(wide, 1, 14) == [
        Span(0, 14, 14, ((1, 14), (0, 14), (0, 14))),
        Span(14, 42, 14, ((0, 14), (0, 14), (0, 14))),
        Span(42, 56, 14, ((0, 14), (0, 14), (0, 13))),
    ]


def test_the_last_tile_of_an_axis_may_be_smaller() -> None:
    square = plane(Case(1, 16, 16, (7, 7), (3, 3), padding=SAME))
    assert [(s.start, s.stop, s.size) for s in spans(square, 0, 2)] == [(0, 2, 2), (2, 6, 2), (6, 7, 1)]


def test_a_tile_inside_the_image_has_no_runs_of_its_own() -> None:
    wide = plane(Case(1, 16, 16, (56, 56), (3, 3), padding=SAME))
    down, along = spans(wide, 0, 1)[1], spans(wide, 1, 14)[1]
    assert runs(wide, (56 * 16, 16), down, along) is None


def test_kernel_positions_that_follow_each_other_are_one_run() -> None:
    wide = plane(Case(1, 16, 16, (56, 56), (3, 3), padding=SAME))
    down, along = spans(wide, 0, 1)[0], spans(wide, 1, 14)[0]
    row = 56 * 16
    assert runs(wide, (row, 16), down, along) == (
        Run(row, 48, 16, (0, 1), (1, 14)),
        Run(row + 16, 64, 32, (0, 1), (0, 14)),
        Run(2 * row, 96, 16, (0, 1), (1, 14)),
        Run(2 * row + 16, 112, 32, (0, 1), (0, 14)),
    )
    assert fewest_words(wide, 1, 14) == 6 * 16


@pytest.mark.parametrize(
    "case",
    [
        Case(1, 3, 16, (20, 20), (3, 3), padding=SAME),
        Case(1, 32, 16, (20, 20), (5, 5), padding=((2, 2), (2, 2))),
        Case(1, 32, 16, (20, 20), (3, 3)),
    ],
    ids=["few channels", "many positions", "no padding"],
)
def test_padding_is_multiplied_where_leaving_it_out_is_not_worth_while(case: Case) -> None:
    assert not leaves_out_padding(plane(case))
    assert {span.seen for axis in range(2) for span in spans(plane(case), axis, 1)} == {((0, 1),) * case.kernel[0]}


def test_pixels_a_page_apart_are_read_in_place_by_smaller_tiles() -> None:
    """Fourteen pixels of 1024 channels would share one set of the first-level cache."""
    case = Case(1, 1024, 256, (14, 14), (1, 1))
    seen = plane(case)
    rows, columns, _ = choose_tile(PRESETS["avx512"], case.spec(), seen)
    assert not reads_in_place(seen, 1, 14)
    assert reads_in_place(seen, rows, columns)


@pytest.mark.parametrize("channels", [16, 1024], ids=["in place", "copied"])
def test_weights_that_only_padding_meets_do_not_count(runner, channels: int) -> None:
    """Whole rows of output see no row of the image at the kernel's first positions, whose weights are infinite."""
    case = Case(1, channels, 20, (1, 9), (3, 3), padding=SAME)
    case.x_strides = channels_last(case.x_sizes)
    kernels = CpuTemplates(runner.target).conv(case.spec(), epilogue_for(case, False, last=True))
    assert kernels is not None and kernels.pack is not None
    x, w = np.ones(case.x_sizes, np.float32), np.ones(case.w_sizes, np.float32)
    w[:, :, [0, 2]] = np.inf
    weights = np.full(kernels.packed_nbytes, 0xFB, np.uint8)
    runner.compile(kernels.pack)([w, weights])
    out = np.zeros((1, *case.out, 20), np.float32)
    runner.compile(kernels.compute)([x, weights, out])
    expected = np.full(9, 3.0 * channels)
    expected[[0, -1]] = 2.0 * channels
    np.testing.assert_array_equal(out[0, 0], np.broadcast_to(expected[:, None], (9, 20)))
