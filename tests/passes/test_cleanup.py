"""Merging equal nodes, dropping dead ones, inlining composites, and the pipeline around them."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32, i64
from rlx.ir.graph import Graph
from rlx.ir.interpret import interpret
from rlx.ir.location import Location
from rlx.ir.verify import verify
from rlx.passes import dispatch_report, legalize, optimize
from rlx.passes.cse import eliminate_common
from rlx.passes.dead import eliminate_dead
from rlx.passes.inline import inline_composites

VECTOR = TensorType((4,), f32)


def test_equal_nodes_are_computed_once_and_operand_order_does_not_matter_where_the_op_commutes() -> None:
    b = GraphBuilder()
    x, y = b.input("x", VECTOR), b.input("y", VECTOR)
    sums = b.emit("add", x, y), b.emit("add", y, x)
    differences = b.emit("sub", x, y), b.emit("sub", y, x)
    graph = eliminate_common(b.build([*sums, *differences]))
    assert [n.op for n in graph.nodes] == ["add", "sub", "sub"]
    assert graph.outputs[0] is graph.outputs[1]


def test_zeros_of_different_sign_are_different_constants() -> None:
    b = GraphBuilder()
    graph = b.build([b.constant(0.0, f32), b.constant(-0.0, f32), b.constant(0.0, f32)])
    assert len(eliminate_common(graph).nodes) == 2


def test_equal_nodes_in_two_regions_stay_in_both() -> None:
    b = GraphBuilder()
    x, p = b.input("x", VECTOR), b.input("p", TensorType((), f32))
    arms = []
    for op in ("exp", "neg"):
        arm = GraphBuilder()
        inner = arm.input("x", VECTOR)
        arms.append(arm.build([arm.emit(op, arm.binary("add", inner, 1.0))]))
    graph = b.build(b.emit_many("cond", b.binary("gt", p, 0.0), x, regions=arms))
    after = eliminate_common(graph)
    verify(after)
    given = {"x": np.ones(4, np.float32), "p": np.float32(-1)}
    np.testing.assert_array_equal(interpret(after, given)["out0"], interpret(graph, given)["out0"])


def test_what_no_output_needs_is_dropped_and_inputs_stay() -> None:
    b = GraphBuilder()
    x, y = b.input("x", VECTOR), b.input("y", VECTOR)
    b.emit("exp", y)
    graph = eliminate_dead(b.build([b.emit("neg", x)]))
    assert [n.op for n in graph.nodes] == ["neg"]
    assert list(graph.input_types) == ["x", "y"]


def loop() -> Graph:
    """i counts to 3; `kept` doubles; `lost` grows but nobody reads it in the end; `unread` is a constant."""
    scalar = TensorType((), i64)
    types = {"i": scalar, "kept": VECTOR, "lost": VECTOR, "unread": VECTOR}
    test, body, b = GraphBuilder(), GraphBuilder(), GraphBuilder()
    i, *_ = (test.input(n, t) for n, t in types.items())
    j, kept, lost, _ = (body.input(n, t) for n, t in types.items())
    regions = (
        test.build([test.binary("lt", i, 3)]),
        body.build([body.binary("add", j, 1), body.emit("add", kept, kept), body.emit("mul", lost, kept)]),
    )
    given = [b.constant(0, i64), *(b.input(n, t) for n, t in list(types.items())[1:])]
    outputs = b.emit_many("while_loop", *given, num_carry=3, regions=regions)
    return b.build({"kept": outputs[1]})


def test_carries_and_operands_that_nothing_needs_leave_a_loop() -> None:
    graph = loop()
    after = eliminate_dead(graph)
    verify(after)
    assert len(after.nodes[-1].inputs) == 2
    rng = np.random.default_rng(0)
    given = {n: rng.normal(size=4).astype(np.float32) for n in ("kept", "lost", "unread")}
    np.testing.assert_array_equal(interpret(after, given)["kept"], interpret(graph, given)["kept"])


def test_a_carry_that_a_live_one_needs_two_turns_later_stays() -> None:
    test, body, b = GraphBuilder(), GraphBuilder(), GraphBuilder()
    names = ("i", "a", "b", "c", "d")
    types = [TensorType((), i64), *[VECTOR] * 4]
    i, *_ = (test.input(n, t) for n, t in zip(names, types, strict=True))
    j, first, second, third, fourth = (body.input(n, t) for n, t in zip(names, types, strict=True))
    turn = [body.binary("add", j, 1), body.emit("add", first, second), body.emit("neg", third), third, fourth]
    regions = test.build([test.binary("lt", i, 4)]), body.build(turn)
    given = b.constant(0, i64), *(b.input(n, VECTOR) for n in names[1:])
    graph = b.build({"a": b.emit_many("while_loop", *given, num_carry=5, regions=regions)[1]})
    after = eliminate_dead(graph)
    verify(after)
    assert len(after.nodes[-1].outputs) == 4
    given = {n: np.random.default_rng(2).normal(size=4).astype(np.float32) for n in names[1:]}
    np.testing.assert_array_equal(interpret(after, given)["a"], interpret(graph, given)["a"])


def test_a_scan_keeps_only_the_stacked_outputs_that_are_read() -> None:
    body = GraphBuilder()
    carry, x = body.input("c", VECTOR), body.input("x", VECTOR)
    total = body.emit("add", carry, x)
    b = GraphBuilder()
    c, xs = b.input("c", VECTOR), b.input("xs", TensorType((5, 4), f32))
    region = body.build([total, body.emit("exp", total), body.emit("neg", total)])
    outputs = b.emit_many("scan", c, xs, num_carry=1, num_xs=1, length=5, regions=(region,))
    graph = b.build([outputs[2]])
    after = eliminate_dead(graph)
    verify(after)
    assert [n.op for n in after.nodes[-1].regions[0].nodes] == ["add", "neg"]
    rng = np.random.default_rng(0)
    given = {"c": rng.normal(size=4).astype(np.float32), "xs": rng.normal(size=(5, 4)).astype(np.float32)}
    np.testing.assert_array_equal(interpret(after, given)["out0"], interpret(graph, given)["out0"])


def test_composites_within_composites_are_inlined_and_claimed_ones_stay_and_both_are_reported() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((2, 4), f32))
    with b.at(Location(name="probabilities")):
        y = b.emit("softmax", x, axis=1)
    graph = b.build([b.emit("gelu", y)])
    after = inline_composites(graph, frozenset({"gelu"}))
    verify(after)
    assert "softmax" not in {n.op for n in after.nodes}
    assert after.nodes[-1].op == "gelu"
    assert all(str(n.location) == "probabilities" for n in after.nodes[:-1])
    assert dispatch_report(graph, frozenset({"gelu"})) == (
        ("softmax", "probabilities", "inlined"),
        ("gelu", "unknown", "native"),
    )


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_chain_of_many_thousand_nodes_does_not_exhaust_the_stack(level: int) -> None:
    b = GraphBuilder()
    x = b.input("x", VECTOR)
    y = x
    for i in range(5000):
        y = b.emit("transpose" if i % 3 == 0 else "tanh", y, **({"permutation": (0,)} if i % 3 == 0 else {}))
    graph = optimize(b.build([y]), level=level)
    assert len(graph.nodes) == (5000 if level == 0 else 3333)


def test_legalizing_leaves_no_op_that_lowering_does_not_know() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((3, 7), f32))
    body = GraphBuilder()
    row, value = body.input("c", TensorType((7,), f32)), body.input("x", TensorType((7,), f32))
    region = body.build([body.emit("add", row, value), body.emit("argmin", value, dimension=0)])
    start = b.full((7,), 0.0, f32)
    scanned = b.emit_many("scan", start, x, num_carry=1, num_xs=1, length=3, reverse=True, regions=(region,))
    graph = b.build([b.emit("argmax", x, dimension=1), *b.emit_many("top_k", x, k=2), *scanned])
    after = legalize(graph)
    verify(after)
    assert not {n.op for _, n in after.walk()} & {"argmax", "argmin", "top_k", "scan"}
    given = {"x": np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)}
    expected = interpret(graph, given)
    for name, array in interpret(after, given).items():
        np.testing.assert_array_equal(array, expected[name])
