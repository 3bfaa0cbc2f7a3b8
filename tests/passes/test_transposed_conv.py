"""Transposed convolutions become ordinary ones: what each output sees stays the same, and nothing meets a zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.ir.graph import Graph
from rlx.ir.interpret import interpret
from rlx.ir.verify import verify
from rlx.passes.channels_last import channels_last
from rlx.passes.transposed_conv import is_transposed

Case = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]

#: Sizes, kernel, dilation of the image, padding behind that dilation.
CASES: list[Case] = [
    ((6, 5), (2, 2), (2, 2), ((1, 1), (1, 1))),
    ((6, 5), (4, 4), (2, 2), ((2, 2), (2, 2))),
    ((6, 5), (4, 4), (2, 2), ((2, 3), (1, 0))),
    ((4, 7), (6, 3), (3, 1), ((5, 4), (1, 1))),
    ((4, 7), (3, 9), (1, 3), ((0, 0), (-2, 12))),
    ((5, 1), (4, 8), (4, 4), ((0, 0), (7, 7))),
    ((9,), (16,), (8,), ((11, 11),)),
    ((9,), (16,), (8,), ((-3, -5),)),
    ((1,), (2,), (2,), ((1, 0),)),
]


def graph_of(case: Case, weights: np.ndarray, **changed: Any) -> Graph:
    size, _, dilation, padding = case
    b, ones = GraphBuilder(), (1,) * len(size)
    x = b.input("x", TensorType((2, weights.shape[1], *size), f32))
    attrs = {"strides": ones, "padding": padding, "lhs_dilation": dilation, "rhs_dilation": ones, "groups": 1}
    return b.build([b.emit("conv_general", x, b.parameter("w", weights), **{**attrs, **changed})])


def rewritten(graph: Graph) -> Graph:
    after = channels_last(graph, lambda node: True)
    verify(after)
    (convolution,) = (n for n in after.nodes if n.op == "conv_general")
    assert all(s == 1 for s in convolution.attrs["lhs_dilation"])  # pyright: ignore[reportGeneralTypeIssues]
    return after


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whole_numbers_give_the_same_sums(case: Case) -> None:
    rng = np.random.default_rng(len(str(case)))
    x = rng.integers(-8, 9, (2, 3, *case[0])).astype(np.float32)
    graph = graph_of(case, rng.integers(-8, 9, (4, 3, *case[1])).astype(np.float32))
    (want,), (got,) = (interpret(g, {"x": x}).values() for g in (graph, rewritten(graph)))
    np.testing.assert_array_equal(got, want)


def test_an_infinite_pixel_reaches_the_outputs_that_see_it_alone() -> None:
    case = CASES[1]
    x = np.ones((2, 3, 6, 5), np.float32)
    x[1, 2, 3, 1] = np.inf
    graph = graph_of(case, np.ones((4, 3, 4, 4), np.float32))
    (want,), (got,) = (interpret(g, {"x": x}).values() for g in (graph, rewritten(graph)))
    assert np.isinf(got).sum() == 4 * 16
    np.testing.assert_array_equal(got, want)


def test_kernels_that_are_no_multiple_of_the_dilation_and_strides_are_left() -> None:
    weights = np.ones((4, 3, 4, 4), np.float32)
    odd = graph_of(((6, 5), (3, 3), (2, 2), ((1, 1), (1, 1))), weights[..., :3, :3])
    for graph in (odd, graph_of(CASES[1], weights, strides=(2, 2)), graph_of(CASES[1], weights, rhs_dilation=(2, 2))):
        assert not is_transposed(graph.nodes[-1])
    plain = graph_of(((6, 5), (4, 4), (1, 1), ((1, 1), (1, 1))), weights)
    assert not is_transposed(plain.nodes[-1])
    assert is_transposed(graph_of(CASES[1], weights).nodes[-1])
