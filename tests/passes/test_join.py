"""Joining products: which share a kernel, and which must not."""

from __future__ import annotations

import numpy as np

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.ir.graph import Graph, Value
from rlx.passes import Group, fuse

X = TensorType((4, 6), f32)


def weight(b: GraphBuilder, name: str, *shape: int) -> Value:
    return b.parameter(name, np.zeros(shape, np.float32))


def product(b: GraphBuilder, x: Value, w: Value) -> Value:
    return b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,))


def groups(graph: Graph) -> tuple[Group, ...]:
    """As for a program whose parameters are bound before it runs."""
    static = {p.value for p in graph.parameters}
    for node in graph.nodes:
        if static.issuperset(node.inputs):
            static.update(node.outputs)
    return fuse(graph, static=frozenset(static))


def kinds(graph: Graph) -> list[str]:
    return [group.kind for group in groups(graph)]


def test_products_of_one_value_by_weights_become_one_and_keep_what_follows_them() -> None:
    b = GraphBuilder()
    x = b.input("x", X)
    q, k, v = (product(b, x, weight(b, name, 6, n)) for name, n in (("q", 8), ("k", 8), ("v", 3)))
    graph = b.build([b.emit("exp", q), b.emit("transpose", k, permutation=(0, 1)), v])
    (joined,) = groups(graph)
    assert joined.kind == "joined"
    assert joined.outputs == graph.outputs
    assert [part.outputs for part in joined.parts] == [(v,) for v in graph.outputs]
    assert joined.parts[0].sources == ("dot_general", "exp")


def test_two_products_that_meet_element_by_element_are_a_pair_with_one_result() -> None:
    b = GraphBuilder()
    x = b.input("x", X)
    gate, up, other = (product(b, x, weight(b, name, 6, 8)) for name in ("gate", "up", "other"))
    graph = b.build([b.emit("mul", b.emit("logistic", gate), b.emit("neg", up)), other])
    found = {group.kind: group for group in groups(graph)}
    assert sorted(found) == ["contraction", "paired"]
    pair = found["paired"]
    assert pair.outputs == graph.outputs[:1]
    assert [part.nodes[0].output for part in pair.parts] == [gate, up]


def test_a_sum_that_others_read_or_that_is_read_elsewhere_makes_no_pair() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((8, 8), f32))
    gate, up = (product(b, x, weight(b, name, 8, 8)) for name in ("gate", "up"))
    graph = b.build([b.emit("mul", gate, up), up])
    assert "paired" not in kinds(graph)

    b = GraphBuilder()
    x = b.input("x", TensorType((8, 8), f32))
    gate, up = (product(b, x, weight(b, name, 8, 8)) for name in ("gate", "up"))
    turned = b.emit("transpose", up, permutation=(1, 0))
    assert "paired" not in kinds(b.build([b.emit("mul", gate, turned)]))

    b = GraphBuilder()
    x = b.input("x", TensorType((8, 8), f32))
    gate, up = (product(b, x, weight(b, name, 8, 8)) for name in ("gate", "up"))
    split = [b.emit("reshape", v, shape=(2, 4, 8)) for v in (gate, up)]
    moved = b.emit("transpose", split[0], permutation=(1, 0, 2))
    assert "paired" not in kinds(b.build([b.emit("add", moved, b.emit("reshape", split[1], shape=(4, 2, 8)))]))


def test_a_chain_through_other_kernels_keeps_products_apart() -> None:
    b = GraphBuilder()
    x = b.input("x", X)
    first = product(b, x, weight(b, "first", 6, 8))
    total = b.emit("reduce_sum", first, dimensions=(1,))
    spread = b.emit("broadcast_in_dim", total, shape=(4, 8), broadcast_dims=(0,))
    second = b.emit("add", product(b, x, weight(b, "second", 6, 8)), spread)
    graph = b.build([first, second])
    assert "joined" not in kinds(graph)


def test_what_differs_in_operand_dtype_or_comes_at_run_time_stays_apart() -> None:
    b = GraphBuilder()
    x, y = b.input("x", X), b.input("y", X)
    at_run_time = b.input("w", TensorType((6, 8), f32))
    same = weight(b, "a", 6, 8)
    graph = b.build([product(b, x, same), product(b, y, same), product(b, x, at_run_time)])
    assert kinds(graph) == ["contraction"] * 3


def test_products_along_different_dimensions_stay_apart() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((6, 6), f32))
    rows = product(b, x, weight(b, "a", 6, 8))
    columns = b.emit("dot_general", x, weight(b, "b", 6, 8), lhs_contract=(0,), rhs_contract=(0,))
    assert kinds(b.build([rows, columns])) == ["contraction"] * 2


def test_more_parts_than_one_kernel_takes_become_two() -> None:
    b = GraphBuilder()
    x = b.input("x", X)
    graph = b.build([product(b, x, weight(b, f"w{i}", 6, 8)) for i in range(10)])
    assert [len(group.parts) for group in groups(graph)] == [8, 2]
