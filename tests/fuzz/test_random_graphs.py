"""Random graphs: the CPU, optimised and unoptimised, against the interpreter.

Graphs come from seeds, several a program, so that one compilation checks many: the point is coverage a second.
"""

from __future__ import annotations

import numpy as np
import pytest

from rlx.ir import interpret, verify
from rlx.options import Options
from rlx.runtime import Session
from rlx.testing.random_graphs import exact_graph, exact_inputs, smooth_graph, smooth_inputs

GRAPHS = 250  # of each family
CHUNK = 10


def chooser(seed: int):
    rng = np.random.default_rng(seed)
    return lambda n: int(rng.integers(n))


@pytest.fixture(scope="module")
def sessions():
    return {
        "optimised": Session("cpu", Options(cache=False, verify=True)),
        "unoptimised": Session("cpu", Options(cache=False, optimize=False)),
    }


@pytest.mark.parametrize("chunk", range(GRAPHS // CHUNK))
def test_exact_graphs_give_equal_bits(sessions, chunk):
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        graph = exact_graph(chooser(seed))
        verify(graph)
        inputs = exact_inputs(graph, np.random.default_rng(seed))
        expected = interpret(graph, inputs)
        for name, session in sessions.items():
            with session.compile(graph) as program:
                got = program.run(inputs)
            for output, array in expected.items():
                np.testing.assert_array_equal(got[output], array, err_msg=f"seed {seed}, {name}, {output}\n{graph}")


@pytest.mark.parametrize("chunk", range(GRAPHS // CHUNK))
def test_smooth_graphs_agree_to_rounding(sessions, chunk):
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        graph = smooth_graph(chooser(10_000 + seed))
        verify(graph)
        inputs = smooth_inputs(graph, np.random.default_rng(seed))
        expected = interpret(graph, inputs)
        for name, session in sessions.items():
            with session.compile(graph) as program:
                got = program.run(inputs)
            for output, array in expected.items():
                np.testing.assert_allclose(
                    got[output], array, rtol=2e-5, atol=2e-5, err_msg=f"seed {10_000 + seed}, {name}, {output}\n{graph}"
                )
