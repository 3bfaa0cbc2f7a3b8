"""Random graphs of products, windows, updates and control flow: all passes, both ways of lowering, equal bits."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_interpreter import Program
from reference_templates import ReferenceTemplates
from structured_graphs import Maker, cells, inputs_of

from rlx.codegen.lower import NoTemplates, lower
from rlx.ir.interpret import interpret
from rlx.ir.verify import verify
from rlx.passes import optimize

CHUNKS, GRAPHS = 4, 10


def check(seed: int) -> None:
    graph = Maker(seed).graph(ops=3 + seed % 5)
    verify(graph)
    if cells(graph) > 20_000:
        return
    inputs = inputs_of(graph, seed)
    expected = interpret(graph, inputs)
    ways = (
        (optimize(graph, verify=verify), ReferenceTemplates(), True),
        (optimize(graph, level=0), NoTemplates(), seed % 2 == 0),
    )
    for way, templates, fuse in ways:
        program = Program(lower(way, templates, fuse=fuse), [p.data for p in graph.parameters])
        for _ in range(2):
            for got, (name, want) in zip(program.run(*inputs.values()), expected.items(), strict=True):
                np.testing.assert_array_equal(got, want, err_msg=f"seed {seed}, {name}, fuse={fuse}\n{graph}")


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_structured_graphs_keep_their_bits(chunk: int) -> None:
    for seed in range(chunk * GRAPHS, (chunk + 1) * GRAPHS):
        check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(20))
def test_many_more_structured_graphs_keep_their_bits(chunk: int) -> None:
    for seed in range(1000 + chunk * 50, 1000 + (chunk + 1) * 50):
        check(seed)
