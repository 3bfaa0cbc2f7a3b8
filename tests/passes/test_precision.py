"""Precision policies: which products they change, and what the changed graph means."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import bf16, f32, f64
from rlx.ir.graph import Graph, Value
from rlx.ir.interpret import interpret
from rlx.ir.verify import verify
from rlx.passes import optimize
from rlx.passes.precision import apply_precision


def product(b: GraphBuilder, x: Value, w: Value) -> Value:
    return b.emit("dot_general", x, w, lhs_contract=(x.type.rank - 1,), rhs_contract=(0,))


def operand_dtypes(graph: Graph) -> list[str]:
    return [node.inputs[0].type.dtype.name for _, node in graph.walk() if node.op == "dot_general"]


def test_products_with_weights_take_rounded_operands_and_give_f32() -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((33, 5)).astype(np.float32)
    b = GraphBuilder()
    x = b.input("x", TensorType((7, 33), f32))
    graph = apply_precision(b.build([product(b, x, b.parameter("w", w))]), "bf16")
    verify(graph)
    assert operand_dtypes(graph) == ["bf16"]
    assert graph.outputs[0].type.dtype is f32
    value = rng.standard_normal((7, 33)).astype(np.float32)
    (got,) = interpret(graph, {"x": value}).values()
    rounded = [a.astype(ml_dtypes.bfloat16).astype(np.float64) for a in (value, w)]
    exact = rounded[0] @ rounded[1]
    np.testing.assert_allclose(got, exact, rtol=0, atol=2e-6 * np.abs(exact).max())
    # the documented bound, against the operands as they were
    terms = np.abs(value).astype(np.float64) @ np.abs(w)
    assert np.all(np.abs(got - value.astype(np.float64) @ w) <= (2.0**-7 + 2.0**-15) * terms)


def test_products_of_two_activations_or_of_other_dtypes_stay_as_they_are() -> None:
    b = GraphBuilder()
    x, y = b.input("x", TensorType((4, 4), f32)), b.input("y", TensorType((4, 4), f32))
    wide = b.input("z", TensorType((4, 4), f64))
    graph = b.build([product(b, x, y), product(b, wide, b.parameter("w", np.ones((4, 4))))])
    assert apply_precision(graph, "bf16") is graph
    assert apply_precision(graph, "f32") is graph


def test_a_value_that_several_products_read_is_rounded_once_before_its_views() -> None:
    b = GraphBuilder()
    x = b.emit("exp", b.input("x", TensorType((2, 3, 8), f32)))
    rows = b.emit("reshape", x, shape=(6, 8))
    turned = b.emit("reshape", b.emit("transpose", x, permutation=(1, 0, 2)), shape=(6, 8))
    w, v = (b.parameter(name, np.ones((8, 8), np.float32)) for name in "wv")
    graph = apply_precision(b.build([product(b, rows, w), product(b, rows, v), product(b, turned, w)]), "bf16")
    verify(graph)
    rounded = [node for node in graph.nodes if node.op == "convert"]
    assert sorted(node.inputs[0].name or "" for node in rounded) == sorted(["v", "w", x.name or ""])


def test_rounding_survives_the_cleanups() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((4, 8), f32))
    graph = optimize(b.build([product(b, x, b.parameter("w", np.ones((8, 8), np.float32)))]), precision="bf16")
    assert operand_dtypes(graph) == [bf16.name]
