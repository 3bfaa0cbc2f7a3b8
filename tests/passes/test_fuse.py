"""Fusion: what becomes one kernel, what gets memory, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.ir.graph import Graph, Value
from rlx.passes import Group, fuse, optimize

MATRIX = TensorType((8, 32), f32)


def matmul(b: GraphBuilder, x: Value, w: Value) -> Value:
    return b.emit("dot_general", x, w, lhs_contract=(x.type.rank - 1,), rhs_contract=(0,))


def weights(b: GraphBuilder, *shape: int) -> Value:
    return b.parameter(f"w{id(object())}", np.zeros(shape, np.float32))


def groups(graph: Graph, **options) -> tuple[Group, ...]:
    found = fuse(graph, **options)
    assert_readable_in_order(graph, found)
    return found


def assert_readable_in_order(graph: Graph, found: tuple[Group, ...]) -> None:
    """Each group reads inputs, parameters, what earlier groups stored, and what it computes itself."""
    known = {*graph.inputs, *(p.value for p in graph.parameters)}
    for group in found:
        own = set(known)
        for node in sorted((*group.inlined, *group.nodes), key=graph.nodes.index):
            assert own.issuperset(node.inputs), f"{group.label} reads what nobody has stored"
            own.update(node.outputs)
        known.update(group.outputs)
    assert known.issuperset(graph.outputs)


def test_softmax_is_one_kernel() -> None:
    b = GraphBuilder()
    graph = optimize(b.build([b.emit("softmax", b.input("x", MATRIX), axis=-1)]))
    (group,) = groups(graph)
    assert group.kind == "rows"
    assert group.outputs == graph.outputs


def residual_and_layer_norm() -> tuple[GraphBuilder, Value, Value]:
    b = GraphBuilder()
    x, y = b.input("x", MATRIX), b.input("y", MATRIX)
    scale, bias = (b.input(name, TensorType((32,), f32)) for name in ("scale", "bias"))
    total = b.emit("add", x, y)
    return b, total, b.emit("layer_norm", total, scale, bias, axis=-1, epsilon=1e-5)


def test_layer_norm_after_a_residual_is_one_kernel_that_stores_the_sum_where_others_read_it() -> None:
    b = GraphBuilder()
    x, y, scale, bias = (
        b.input(n, t) for n, t in (("x", MATRIX), ("y", MATRIX), *((n, TensorType((32,), f32)) for n in "sb"))
    )
    total = b.emit("add", x, y)
    normal = b.emit("layer_norm", total, scale, bias, axis=-1, epsilon=1e-5)
    graph = optimize(b.build([b.emit("exp", normal), b.emit("mul", total, normal)]))
    (group,) = groups(graph)
    assert set(group.outputs) == set(graph.outputs)

    b = GraphBuilder()
    x, y, scale, bias = (
        b.input(n, t) for n, t in (("x", MATRIX), ("y", MATRIX), *((n, TensorType((32,), f32)) for n in "sb"))
    )
    total = b.emit("add", x, y)
    normal = b.emit("layer_norm", total, scale, bias, axis=-1, epsilon=1e-5)
    later = b.emit("sub", total, b.emit("rev", normal, dimensions=(0,)))
    graph = optimize(b.build([later]))
    first, second = groups(graph)
    assert len(first.outputs) == 2
    assert second.outputs == graph.outputs


def test_a_product_takes_bias_activation_and_residual() -> None:
    b = GraphBuilder()
    x, r = b.input("x", MATRIX), b.input("r", MATRIX)
    y = b.binary("add", matmul(b, x, weights(b, 32, 32)), weights(b, 32))
    y = b.emit("add", b.emit("gelu", y), r)
    graph = optimize(b.build([y]))
    (group,) = groups(graph)
    assert group.kind == "contraction"
    assert group.outputs == graph.outputs


def test_an_epilogue_ends_where_two_readers_need_the_value() -> None:
    b = GraphBuilder()
    y = b.emit("tanh", matmul(b, b.input("x", MATRIX), weights(b, 32, 32)))
    graph = b.build([b.emit("reduce_sum", b.emit("exp", y), dimensions=(0,)), b.emit("rev", y, dimensions=(1,))])
    product, *_ = groups(graph)
    assert [n.op for n in product.nodes] == ["dot_general", "tanh"]


def test_the_transpose_and_reshape_after_attention_are_stored_through() -> None:
    b = GraphBuilder()
    p = b.input("p", TensorType((2, 4, 8, 8), f32))
    v = b.input("v", TensorType((2, 4, 8, 16), f32))
    y = b.emit("dot_general", p, v, lhs_contract=(3,), rhs_contract=(2,), lhs_batch=(0, 1), rhs_batch=(0, 1))
    y = b.emit("reshape", b.emit("transpose", y, permutation=(0, 2, 1, 3)), shape=(2, 8, 64))
    graph = b.build([matmul(b, y, weights(b, 64, 64))])
    first, second = groups(graph)
    assert [n.op for n in first.nodes] == ["dot_general", "transpose", "reshape"]
    assert [n.op for n in second.nodes] == ["dot_general"]


def test_a_split_into_heads_is_left_to_the_reader_as_a_strided_view() -> None:
    b = GraphBuilder()
    q = matmul(b, b.input("x", MATRIX), weights(b, 32, 32))
    heads = b.emit("transpose", b.emit("reshape", q, shape=(8, 4, 8)), permutation=(1, 0, 2))
    scores = b.emit("dot_general", heads, heads, lhs_contract=(2,), rhs_contract=(2,), lhs_batch=(0,), rhs_batch=(0,))
    first, second = groups(b.build([scores]))
    assert [n.op for n in first.nodes] == ["dot_general"]
    assert {n.op for n in second.inlined} == {"reshape", "transpose"}


def test_cheap_producers_are_computed_again_by_each_reader_and_dear_ones_once() -> None:
    def readers(op: str) -> int:
        b = GraphBuilder()
        y = b.emit(op, b.input("x", MATRIX))
        turned = b.emit("transpose", y, permutation=(1, 0))
        return len(groups(b.build([b.emit("rev", y, dimensions=(0,)), turned])))

    assert readers("neg") == 2
    assert readers("erf") == 3


def test_a_dear_value_is_stored_before_it_is_broadcast() -> None:
    b = GraphBuilder()
    x, s = b.input("x", MATRIX), b.input("s", TensorType((32,), f32))
    graph = b.build([b.binary("mul", x, b.emit("exp", s))])
    assert [g.nodes[-1].op for g in groups(graph)] == ["exp", "mul"]


def test_what_parameters_alone_decide_shares_no_group_with_the_rest() -> None:
    b = GraphBuilder()
    x, w = b.input("x", MATRIX), weights(b, 32)
    scale = b.emit("rsqrt", b.binary("add", w, 1e-5))
    graph = b.build([b.binary("mul", x, scale)])
    static = frozenset({w, *(v for n in graph.nodes[:3] for v in n.outputs), scale})
    first, second = groups(graph, static=static)
    assert first.outputs == (scale,)
    assert second.nodes[-1].op == "mul"


def test_a_group_never_waits_for_itself_through_another() -> None:
    b = GraphBuilder()
    x = b.input("x", MATRIX)
    total = b.emit("reduce_sum", x, dimensions=(1,))
    outside = b.emit("cumsum", total, dimension=0)
    back = b.emit("broadcast_in_dim", outside, shape=(8, 32), broadcast_dims=(0,))
    centred = b.emit("sub", x, b.emit("broadcast_in_dim", total, shape=(8, 32), broadcast_dims=(0,)))
    graph = b.build([b.emit("mul", centred, back)])
    assert len(groups(graph)) == 3


@pytest.mark.parametrize("length", [10, 1000])
def test_a_long_chain_is_cut_before_its_expressions_grow_too_deep(length: int) -> None:
    b = GraphBuilder()
    y = b.input("x", MATRIX)
    for _ in range(length):
        y = b.emit("neg", b.binary("add", y, 1.0))
    found = groups(b.build([y]))
    assert all(len(g.nodes) + len(g.inlined) <= 200 for g in found)
    assert len(found) == max(1, -(-2 * length // 32))


def test_a_long_chain_before_a_reduction_is_cut_as_well() -> None:
    b = GraphBuilder()
    y = b.input("x", MATRIX)
    for _ in range(200):
        y = b.emit("rev", b.binary("add", y, 1.0), dimensions=(0,))
    found = groups(b.build([b.emit("reduce_sum", y, dimensions=(1,))]))
    assert all(len(g.inlined) <= 150 for g in found)


def test_without_fusion_every_op_that_computes_is_a_kernel() -> None:
    b = GraphBuilder()
    graph = optimize(b.build([b.emit("softmax", b.input("x", MATRIX), axis=-1)]))
    assert [g.nodes[0].op for g in groups(graph, enabled=False)] == ["reduce_max", "sub", "exp", "reduce_sum", "div"]
