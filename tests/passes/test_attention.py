"""Attention in primitives: what is found, and what is not."""

from __future__ import annotations

import math

import pytest

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f16, f32
from rlx.ir.graph import Graph, Value
from rlx.passes import fuse, optimize
from rlx.passes.attention import Attention, AttentionGroup


def found(graph: Graph) -> list[Attention]:
    return [g.attention for g in fuse(optimize(graph)) if isinstance(g, AttentionGroup)]


def inputs(b: GraphBuilder, dtype=f32) -> list[Value]:
    return [b.input(name, TensorType((2, 3, 5, 8), dtype)) for name in "qkv"]


def product(b: GraphBuilder, x: Value, y: Value, contract: int) -> Value:
    return b.emit("dot_general", x, y, lhs_contract=(3,), rhs_contract=(contract,), lhs_batch=(0, 1), rhs_batch=(0, 1))


def decomposed(b: GraphBuilder, *, scale: float | None = None) -> tuple[Value, Value]:
    """softmax(q k^T) v in primitives: the weights and the result."""
    q, k, v = inputs(b)
    scores = product(b, q, k, 3)
    if scale is not None:
        scores = b.binary("mul", scores, scale)
    weights = b.emit("softmax", scores, axis=-1)
    return weights, product(b, weights, v, 2)


def test_the_composite_is_found_with_its_guard_and_its_late_division() -> None:
    b = GraphBuilder()
    (attention,) = found(b.build([b.emit("attention", *inputs(b), causal=True)]))
    assert attention.blind
    assert attention.divided_late
    assert attention.product.op == attention.mix.op == "dot_general"


@pytest.mark.parametrize("scale", [None, 0.3])
def test_a_softmax_between_two_products_is_found(scale: float | None) -> None:
    b = GraphBuilder()
    (attention,) = found(b.build([decomposed(b, scale=scale)[1]]))
    assert not attention.blind
    assert not attention.cleared
    assert not attention.divided_late
    assert attention.result is attention.mix.output


def test_weights_whose_nan_are_replaced_by_zeros_are_found() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b)
    weights = b.emit("softmax", product(b, q, k, 3), axis=-1)
    zeros = b.full(weights.type.shape, 0.0, f32)
    cleared = b.emit("select", b.emit("ne", weights, weights), zeros, weights)
    (attention,) = found(b.build([product(b, cleared, v, 2)]))
    assert attention.cleared


@pytest.mark.parametrize("instead", [1.0, math.inf])
def test_weights_whose_nan_become_anything_else_are_no_attention(instead: float) -> None:
    b = GraphBuilder()
    q, k, v = inputs(b)
    weights = b.emit("softmax", product(b, q, k, 3), axis=-1)
    others = b.full(weights.type.shape, instead, f32)
    assert not found(b.build([product(b, b.emit("select", b.emit("ne", weights, weights), others, weights), v, 2)]))


def test_narrow_floats_are_found_in_the_precision_that_they_are_computed_in() -> None:
    b = GraphBuilder()
    (attention,) = found(b.build([b.emit("attention", *inputs(b, f16))]))
    assert attention.scores.type.dtype is f32


def test_each_layer_is_found_and_what_follows_joins_it() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b)
    first = b.emit("add", b.emit("attention", q, k, v), q)
    graph = optimize(b.build([b.emit("attention", first, k, v)]))
    groups = fuse(graph)
    assert [g.kind for g in groups] == ["attention", "attention"]
    assert groups[0].nodes[-1].op == "add"


def test_weights_that_are_an_output_are_not_hidden_in_a_kernel() -> None:
    b = GraphBuilder()
    assert not found(b.build(decomposed(b)))


def test_a_guard_on_one_side_alone_is_no_attention() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b)
    scores = product(b, q, k, 3)
    row = (2, 3, 5)
    largest = b.emit("reduce_max", scores, dimensions=(3,))
    blind = b.binary("eq", largest, -math.inf)
    shift = b.emit("select", blind, b.full(row, 0, f32), largest)

    def spread(x: Value) -> Value:
        return b.emit("broadcast_in_dim", x, shape=(*row, 5), broadcast_dims=(0, 1, 2))

    weights = b.emit("exp", b.emit("sub", scores, spread(shift)))
    total = b.emit("reduce_sum", weights, dimensions=(3,))
    assert not found(b.build([product(b, b.emit("div", weights, spread(total)), v, 2)]))


def test_nothing_is_found_where_it_is_not_asked_for() -> None:
    b = GraphBuilder()
    graph = optimize(b.build([decomposed(b)[1]]))
    assert all(g.kind != "attention" for g in fuse(graph, attention=False))
    assert all(g.kind != "attention" for g in fuse(graph, enabled=False))
