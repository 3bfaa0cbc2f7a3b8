"""Attention, found in primitives, reaches the template as it lies, or is lowered as two products and a softmax."""

from __future__ import annotations

import math

import numpy as np
import pytest
from kernel_interpreter import Program
from reference_templates import ReferenceTemplates

from rlx.codegen.lower import AttentionSpec, NoTemplates, lower
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import bool_, f32, i32
from rlx.ir.graph import Graph, Value
from rlx.ir.interpret import interpret
from rlx.passes import optimize


def check(graph: Graph, seed: int = 0) -> list[AttentionSpec]:
    """Both ways of lowering give what the interpreter says; the specs that templates were asked for."""
    rng = np.random.default_rng(seed)
    feeds = {
        v.name: rng.random(v.type.sizes) < 0.7 if v.type.dtype is bool_ else rng.normal(size=v.type.sizes).astype("f4")
        for v in graph.inputs
    }
    (want,) = interpret(graph, feeds).values()
    templates = ReferenceTemplates()
    optimized = optimize(graph)
    for chosen in (NoTemplates(), templates):
        (got,) = Program(lower(optimized, chosen)).run(*feeds.values())
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)
    return [spec for spec, _ in templates.attentions]


def inputs(b: GraphBuilder, *shapes: tuple[int, ...]) -> list[Value]:
    return [b.input(name, TensorType(shape, f32)) for name, shape in zip("qkv", shapes, strict=False)]


def heads(b: GraphBuilder, x: Value) -> Value:
    """[B, S, 3 * 8] as [B, 3, S, 8]."""
    batch, length, _ = x.type.sizes
    return b.emit("transpose", b.emit("reshape", x, shape=(batch, length, 3, 8)), permutation=(0, 2, 1, 3))


def product(b: GraphBuilder, x: Value, y: Value, contract: int) -> Value:
    lead = tuple(range(x.type.rank - 2))
    last = x.type.rank - 1
    return b.emit("dot_general", x, y, lhs_contract=(last,), rhs_contract=(contract,), lhs_batch=lead, rhs_batch=lead)


def softmax(b: GraphBuilder, scores: Value) -> Value:
    return b.emit("softmax", scores, axis=-1)


def test_projected_heads_are_read_in_place_and_written_where_they_belong() -> None:
    b = GraphBuilder()
    q, k, v = (heads(b, x) for x in inputs(b, (2, 5, 24), (2, 7, 24), (2, 7, 24)))
    mask = b.input("mask", TensorType((2, 1, 1, 7), f32))
    out = b.emit("attention", q, k, v, mask)
    out = b.emit("reshape", b.emit("transpose", out, permutation=(0, 2, 1, 3)), shape=(2, 5, 24))
    (spec,) = check(b.build([out]))
    assert (spec.batch, spec.m, spec.n, spec.d, spec.e) == ((2, 3), (5,), (7,), (8,), (8,))
    assert spec.q.strides == (120, 8, 24, 1)
    assert spec.v.strides == (168, 8, 24, 1)
    assert [m.strides for m in spec.scores.args] == [(7, 1)]
    assert spec.blind


def test_a_decomposed_softmax_between_products_is_attention_whose_blind_rows_are_nan() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (2, 3, 5, 8), (2, 3, 8, 7), (2, 3, 7, 6))
    scores = b.binary("div", product(b, q, k, 2), math.sqrt(8))
    (spec,) = check(b.build([product(b, softmax(b, scores), v, 2)]))
    assert not spec.blind
    assert spec.causal is None
    assert spec.batch == (6,)


def test_weights_cleared_of_nan_are_part_of_attention() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (2, 3, 5, 8), (2, 3, 8, 7), (2, 3, 7, 6))
    seen = b.input("seen", TensorType((5, 7), bool_))
    scores = product(b, q, k, 2)
    shape = scores.type.shape
    hidden = b.full(shape, -math.inf, f32)
    nobody = b.binary("and", b.broadcast(seen, shape), b.binary("gt", b.broadcast(b.iota((5, 7), 0, f32), shape), 0.0))
    weights = softmax(b, b.emit("select", nobody, scores, hidden))
    weights = b.emit("select", b.emit("ne", weights, weights), b.full(shape, 0.0, f32), weights)
    (spec,) = check(b.build([product(b, weights, v, 2)]))
    assert spec.cleared
    assert not spec.blind


def test_grouped_queries_share_keys_through_strides_of_zero() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (2, 6, 5, 8), (2, 2, 7, 8), (2, 2, 7, 4))
    (spec,) = check(b.build([b.emit("attention", q, k, v)]))
    assert (spec.batch, spec.m) == ((4,), (15,))


def test_repeated_keys_are_not_repeated_in_memory() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (2, 6, 5, 8), (2, 2, 7, 8), (2, 2, 7, 4))

    def repeated(x: Value) -> Value:
        batch, few, length, width = x.type.sizes
        wide = b.emit("broadcast_in_dim", x, shape=(batch, few, 3, length, width), broadcast_dims=(0, 1, 3, 4))
        return b.emit("reshape", wide, shape=(batch, 3 * few, length, width))

    (spec,) = check(b.build([b.emit("attention", q, repeated(k), repeated(v))]))
    assert spec.batch == (4, 3)
    assert spec.k.strides == (56, 0, 8, 1)


@pytest.mark.parametrize("length", [5, 40])
def test_a_causal_mask_is_told_where_its_positions_are_computed(length: int) -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (2, length, 8), (2, length, 8), (2, length, 8))
    (spec,) = check(b.build([b.emit("attention", q, k, v, causal=True)]))
    assert spec.causal == 0  # small masks are folded into constants, and told all the same


def test_an_offset_of_a_causal_mask_is_told() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (1, 30, 8), (1, 45, 8), (1, 45, 8))
    query, key = (b.iota((30, 45), d, i32) for d in (0, 1))
    seen = b.emit("lt", key, b.binary("add", query, 16))
    scores = b.emit("select", b.broadcast(seen, (1, 30, 45)), product(b, q, k, 2), b.full((1, 30, 45), -math.inf, f32))
    (spec,) = check(b.build([product(b, softmax(b, scores), v, 1)]))
    assert spec.causal == 15


@pytest.mark.parametrize(
    ("mask", "causal"),
    [
        (np.tri(30, 45, 7, bool), 7),
        (np.tri(30, 45, -3, bool), -3),
        (np.tri(30, 45, 7, bool)[::-1], None),
        (np.tri(30, 45, 7, bool) & (np.arange(30 * 45).reshape(30, 45) != 50), None),
        (np.tri(30, 45, 7, bool) & ~np.tri(30, 45, -9, bool), None),
    ],
    ids=["offset", "blind rows", "upside down", "a hole", "window"],
)
@pytest.mark.parametrize("hides", [False, True])
def test_a_constant_mask_is_causal_where_it_is_a_triangle(mask: np.ndarray, causal: int | None, hides: bool) -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (2, 30, 8), (2, 45, 8), (2, 45, 8))
    scores, lowest = product(b, q, k, 2), b.full((2, 30, 45), -math.inf, f32)
    test = b.broadcast(b.constant(np.ascontiguousarray(mask ^ hides)), (2, 30, 45))
    scores = b.emit("select", test, *((lowest, scores) if hides else (scores, lowest)))
    (spec,) = check(b.build([product(b, softmax(b, scores), v, 1)]))
    assert spec.causal == causal


def test_a_comparison_that_hides_later_keys_is_told() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (1, 40, 8), (1, 45, 8), (1, 45, 8))
    query, key = (b.iota((40, 45), d, i32) for d in (0, 1))
    hidden = b.emit("ge", key, b.binary("add", query, 6))
    scores = b.emit(
        "select", b.broadcast(hidden, (1, 40, 45)), b.full((1, 40, 45), -math.inf, f32), product(b, q, k, 2)
    )
    (spec,) = check(b.build([product(b, softmax(b, scores), v, 1)]))
    assert spec.causal == 5


def test_bool_masks_and_soft_caps_are_part_of_the_scores() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8))
    mask = b.input("mask", TensorType((5, 7), bool_))
    (spec,) = check(b.build([b.emit("attention", q, k, v, mask, softcap=2.0)]))
    assert len(spec.scores.args) == 1


def test_what_follows_is_the_epilogue() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (2, 5, 8), (2, 7, 8), (2, 7, 8))
    scores = product(b, q, k, 2)
    out = product(b, softmax(b, scores), v, 1)
    graph = b.build([b.emit("add", b.emit("tanh", out), q)])
    check(graph)
    program = lower(optimize(graph), ReferenceTemplates())
    assert len(program.steps) == 1


def test_weights_that_others_read_keep_attention_apart() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (2, 5, 8), (2, 7, 8), (2, 7, 8))
    weights = softmax(b, product(b, q, k, 2))
    graph = b.build([b.emit("reduce_max", weights, dimensions=(0, 1, 2)), product(b, weights, v, 1)])
    templates = ReferenceTemplates()
    lower(optimize(graph), templates)
    assert not templates.attentions


def test_a_softmax_along_the_queries_is_not_attention() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (2, 7, 8), (2, 7, 8), (2, 7, 8))
    weights = b.emit("softmax", product(b, q, k, 2), axis=1)
    assert not check(b.build([product(b, weights, v, 1)]))


def test_weights_transposed_before_the_values_are_not_attention() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (2, 7, 8), (2, 7, 8), (2, 7, 8))
    weights = b.emit("transpose", softmax(b, product(b, q, k, 2)), permutation=(0, 2, 1))
    assert not check(b.build([product(b, weights, v, 1)]))


def test_a_softmax_divided_by_another_rows_total_is_not_attention() -> None:
    b = GraphBuilder()
    q, k, v = inputs(b, (7, 8), (7, 8), (7, 8))
    scores = b.emit("dot_general", q, k, lhs_contract=(1,), rhs_contract=(1,))
    largest = b.emit("reduce_max", scores, dimensions=(1,))

    def spread(row: Value, dimension: int) -> Value:
        return b.emit("broadcast_in_dim", row, shape=(7, 7), broadcast_dims=(dimension,))

    weights = b.emit("exp", b.emit("sub", scores, spread(largest, 0)))
    total = b.emit("reduce_sum", weights, dimensions=(1,))
    weights = b.emit("div", weights, spread(total, 1))
    out = b.emit("dot_general", weights, v, lhs_contract=(1,), rhs_contract=(0,))
    assert not check(b.build([out]))


def test_attention_inside_a_loop_is_found() -> None:
    body = GraphBuilder()
    step = body.input("i", TensorType((), i32))
    x = body.input("x", TensorType((2, 5, 8), f32))
    out = body.build([body.binary("add", step, 1), body.emit("attention", x, x, x)])
    test = GraphBuilder()
    count = test.input("i", TensorType((), i32))
    test.input("x", TensorType((2, 5, 8), f32))
    condition = test.build([test.binary("lt", count, 3)])
    b = GraphBuilder()
    start = b.input("q", TensorType((2, 5, 8), f32))
    _, result = b.emit_many("while_loop", b.constant(0, i32), start, regions=(condition, out), num_carry=2)
    assert len(check(b.build([result]))) == 1
