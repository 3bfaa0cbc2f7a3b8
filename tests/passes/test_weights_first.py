"""Products with softmax's weights on their right are turned, and are attention then."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.ir.graph import Graph, Value
from rlx.ir.interpret import interpret
from rlx.passes.attention import AttentionGroup
from rlx.passes.fuse import fuse
from rlx.passes.inline import inline_composites
from rlx.passes.pipeline import optimize
from rlx.passes.weights_first import weights_first

SIZES = {"q": (2, 3, 8, 5), "k": (2, 3, 8, 7), "v": (2, 3, 4, 7)}
HEADS = {"lhs_batch": (0, 1), "rhs_batch": (0, 1)}


def pixels_last(b: GraphBuilder) -> tuple[Value, Value]:
    """Weights [2, 3, 5, 7] and v [2, 3, 4, 7] of an attention whose pixels are the last dimension."""
    q, k, v = (b.input(name, TensorType(sizes, f32)) for name, sizes in SIZES.items())
    scores = b.emit("dot_general", q, k, lhs_contract=(2,), rhs_contract=(2,), **HEADS)
    return b.emit("softmax", scores, axis=-1), v


def agree(before: Graph, after: Graph) -> None:
    rng = np.random.default_rng(3)
    given = {name: rng.normal(size=sizes).astype(np.float32) for name, sizes in SIZES.items()}
    (want,), (got,) = (interpret(g, given).values() for g in (before, after))
    # Sums of 7 products each, added up in whatever order NumPy takes.
    np.testing.assert_allclose(got, want, rtol=0, atol=14 * 2**-24 * np.abs(given["v"]).max())


@pytest.mark.parametrize("moved", [False, True], ids=["as it lies", "transposed"])
def test_values_times_weights_are_attention(moved: bool) -> None:
    b = GraphBuilder()
    weights, v = pixels_last(b)
    if moved:
        weights = b.emit("transpose", weights, permutation=(0, 1, 3, 2))
    graph = b.build([b.emit("dot_general", v, weights, lhs_contract=(3,), rhs_contract=(2 if moved else 3,), **HEADS)])
    after = optimize(graph)
    assert after.outputs[0].type.sizes == (2, 3, 4, 5)
    assert any(isinstance(group, AttentionGroup) for group in fuse(after))
    agree(graph, after)


def test_dimensions_of_both_sides_keep_their_order() -> None:
    b = GraphBuilder()
    weights, _ = pixels_last(b)
    wide = b.input("wide", TensorType((6, 2, 7, 9), f32))
    mix = b.emit("dot_general", wide, weights, lhs_contract=(2,), rhs_contract=(3,), lhs_batch=(1,), rhs_batch=(0,))
    graph = inline_composites(b.build([mix]), frozenset())
    after = weights_first(graph)
    assert after is not graph
    assert after.outputs[0].type.sizes == (2, 6, 9, 3, 5)
    rng = np.random.default_rng(4)
    sizes = {**SIZES, "wide": (6, 2, 7, 9)}
    given = {n: rng.normal(size=s).astype(np.float32) for n, s in sizes.items() if n in [v.name for v in graph.inputs]}
    (want,), (got,) = (interpret(g, given).values() for g in (graph, after))
    np.testing.assert_allclose(got, want, rtol=0, atol=14 * 2**-24 * np.abs(given["wide"]).max())


def test_other_products_stay() -> None:
    b = GraphBuilder()
    weights, v = pixels_last(b)
    ours = {"lhs_contract": (3,), "rhs_contract": (3,), **HEADS}
    results = [b.emit("dot_general", weights, v, **ours), b.emit("dot_general", weights, weights, **ours)]
    results += [b.emit("dot_general", v, y, **ours) for y in (v, b.binary("add", weights, 1.0), b.emit("exp", weights))]
    graph = inline_composites(b.build(results), frozenset())
    assert weights_first(graph) is graph
