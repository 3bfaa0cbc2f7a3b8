"""Constant folding computes what is known and no more."""

from __future__ import annotations

import numpy as np

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32, i32
from rlx.ir.graph import Graph
from rlx.passes.dead import eliminate_dead
from rlx.passes.fold import LARGEST_RESULT, fold_constants


def folded(graph: Graph) -> Graph:
    return eliminate_dead(fold_constants(graph))


def test_arithmetic_on_constants_becomes_a_constant() -> None:
    b = GraphBuilder()
    x = b.constant(np.array([1, 2, 3], np.int32))
    y = b.emit("mul", x, b.emit("add", x, x))
    (node,) = folded(b.build([y])).nodes
    np.testing.assert_array_equal(node.attrs["value"], [2, 8, 18])


def test_equal_elements_become_a_broadcast_scalar_whatever_their_number() -> None:
    b = GraphBuilder()
    huge = b.full((1 << 20, 1 << 20), 3.0, f32)
    graph = folded(b.build([b.emit("exp", huge)]))
    assert [n.op for n in graph.nodes] == ["constant", "broadcast_in_dim"]
    assert graph.nodes[0].attrs["value"] == np.exp(np.float32(3))


def test_an_iota_stays_an_iota_unless_it_is_tiny() -> None:
    for count, expected in ((8, "constant"), (LARGEST_RESULT, "iota")):
        b = GraphBuilder()
        assert folded(b.build([b.iota((count,), 0, i32)])).nodes[-1].op == expected


def test_a_result_beyond_the_bound_is_left_to_run_time() -> None:
    b = GraphBuilder()
    large = b.constant(np.arange(LARGEST_RESULT, dtype=np.int32))
    assert [n.op for n in folded(b.build([b.emit("neg", large)])).nodes] == ["constant", "neg"]


def test_parameters_are_not_folded() -> None:
    b = GraphBuilder()
    w = b.parameter("w", np.ones(4, np.float32))
    assert [n.op for n in folded(b.build([b.emit("neg", w)])).nodes] == ["neg"]


def test_folding_reaches_into_regions() -> None:
    b = GraphBuilder()
    x, p = b.input("x", TensorType((), f32)), b.input("p", TensorType((), i32))
    arms = []
    for _ in range(2):
        arm = GraphBuilder()
        inner = arm.input("x", x.type)
        arms.append(arm.build([arm.emit("add", inner, arm.emit("exp", arm.constant(1.0, f32)))]))
    graph = folded(b.build(b.emit_many("cond", b.binary("gt", p, 0), x, regions=arms)))
    assert [n.op for n in graph.nodes[-1].regions[0].nodes] == ["constant", "add"]
