"""Random graphs: the CPU, optimised and unoptimised, against the interpreter.

Graphs come from seeds. Several make one program, side by side, because most of a small program's compile time is the
same for a large one: the point is coverage a second.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rlx.ir import Graph, interpret, verify
from rlx.options import Options
from rlx.runtime import Session
from rlx.testing.random_graphs import exact_graph, exact_inputs, side_by_side, smooth_graph, smooth_inputs

GRAPHS = 250  # of each family
TOGETHER = 25

SESSIONS = {
    "optimised": Options(cache=False, verify=True),
    "unoptimised": Options(cache=False, optimize=False),
}


def chooser(seed: int) -> Callable[[int], int]:
    rng = np.random.default_rng(seed)
    return lambda n: int(rng.integers(n))


def check(graphs: dict[str, Graph], inputs: dict[str, dict[str, np.ndarray]], same: Callable[..., None]) -> None:
    for graph in graphs.values():
        verify(graph)
    expected = {seed: interpret(graph, inputs[seed]) for seed, graph in graphs.items()}
    fed = {f"{seed}.{name}": array for seed, given in inputs.items() for name, array in given.items()}
    together = side_by_side(graphs)
    for way, options in SESSIONS.items():
        with Session("cpu", options).compile(together) as program:
            got = program.run(fed)
        for seed, graph in graphs.items():
            for output, array in expected[seed].items():
                same(got[f"{seed}.{output}"], array, err_msg=f"seed {seed}, {way}, {output}\n{graph}")


@pytest.mark.parametrize("first", range(0, GRAPHS, TOGETHER))
def test_exact_graphs_give_equal_bits(first):
    graphs = {str(seed): exact_graph(chooser(seed)) for seed in range(first, first + TOGETHER)}
    inputs = {seed: exact_inputs(graph, np.random.default_rng(int(seed))) for seed, graph in graphs.items()}
    check(graphs, inputs, np.testing.assert_array_equal)


@pytest.mark.parametrize("first", range(10_000, 10_000 + GRAPHS, TOGETHER))
def test_smooth_graphs_agree_to_rounding(first):
    graphs = {str(seed): smooth_graph(chooser(seed)) for seed in range(first, first + TOGETHER)}
    inputs = {seed: smooth_inputs(graph, np.random.default_rng(int(seed))) for seed, graph in graphs.items()}

    def same(got: np.ndarray, expected: np.ndarray, err_msg: str) -> None:
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5, err_msg=err_msg)

    check(graphs, inputs, same)
