"""Precision policies: which products they change, and what the changed graph means."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import bf16, f32, f64
from rlx.ir.graph import Graph, Value
from rlx.ir.interpret import interpret
from rlx.ir.verify import verify
from rlx.passes import optimize
from rlx.passes.precision import apply_precision


def product(b: GraphBuilder, x: Value, w: Value) -> Value:
    return b.emit("dot_general", x, w, lhs_contract=(x.type.rank - 1,), rhs_contract=(0,))


def operand_dtypes(graph: Graph, op: str = "dot_general") -> list[str]:
    return [node.inputs[0].type.dtype.name for _, node in graph.walk() if node.op == op]


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


def test_convolutions_of_one_group_with_weights_take_rounded_operands_and_give_f32() -> None:
    rng = np.random.default_rng(3)
    w = rng.standard_normal((4, 8, 3, 3)).astype(np.float32)
    value = rng.standard_normal((1, 8, 5, 6)).astype(np.float32)

    def convolutions(w: np.ndarray) -> Graph:
        b = GraphBuilder()
        x, v = (b.input(name, TensorType(a.shape, f32)) for name, a in (("x", value), ("v", w)))
        same = {"padding": ((1, 1), (1, 1))} | dict.fromkeys(("strides", "lhs_dilation", "rhs_dilation"), (1, 1))
        given = ((x, b.parameter("w", w), 1), (x, b.parameter("half", w[:, :4]), 2), (x, v, 1))
        return b.build([b.emit("conv_general", x, w, groups=groups, **same) for x, w, groups in given])

    graph = convolutions(w)
    rounded = apply_precision(graph, "bf16")
    verify(rounded)
    assert operand_dtypes(rounded, "conv_general") == ["bf16", "f32", "f32"]
    assert all(v.type.dtype is f32 for v in rounded.outputs)
    assert apply_precision(graph, "int8-dynamic") is graph
    got, exact = (next(iter(interpret(g, {"x": value, "v": w}).values())) for g in (rounded, graph))
    terms = next(iter(interpret(convolutions(np.abs(w)), {"x": np.abs(value), "v": w}).values()))
    assert np.abs(got - exact).max() > 0
    assert np.all(np.abs(got - exact) <= (2.0**-7 + 2.0**-15) * terms)


@pytest.mark.parametrize("given_out", [False, True])
def test_what_a_convolution_reads_is_rounded_for_all_but_the_graph_s_outputs(given_out: bool) -> None:
    rng = np.random.default_rng(6)
    b = GraphBuilder()
    x = b.input("x", TensorType((1, 4, 5, 6), f32))
    same = {"padding": ((0, 0), (0, 0))} | dict.fromkeys(("strides", "lhs_dilation", "rhs_dilation"), (1, 1))
    y = b.emit("exp", x)
    w = rng.standard_normal((4, 4, 1, 1)).astype(np.float32)
    z = b.emit("add", b.emit("conv_general", y, b.parameter("w", w), **same), y)
    graph = apply_precision(b.build([z, y] if given_out else [z]), "bf16")
    verify(graph)
    value = rng.standard_normal((1, 4, 5, 6)).astype(np.float32)
    exact = np.exp(value)
    rounded = exact.astype(ml_dtypes.bfloat16).astype(np.float32)
    got = interpret(graph, {"x": value}).values()
    weights = w.astype(ml_dtypes.bfloat16).astype(np.float32)[:, :, 0, 0]
    expected = np.einsum("oc,nchw->nohw", weights, rounded) + (exact if given_out else rounded)
    for a, e in zip(got, (expected, exact), strict=False):
        np.testing.assert_allclose(a, e, rtol=0, atol=2e-6 * np.abs(e).max())


def test_rounding_survives_the_cleanups() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((4, 8), f32))
    graph = optimize(b.build([product(b, x, b.parameter("w", np.ones((8, 8), np.float32)))]), precision="bf16")
    assert operand_dtypes(graph) == [bf16.name]


# -- int8-dynamic --------------------------------------------------------------------------------------------------


def spelt_out(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x @ w by the policy, in NumPy."""
    most = [np.maximum(np.abs(a).max(axis=axis, keepdims=True), np.float32(2.0**-100)) for a, axis in ((x, 1), (w, 0))]
    whole = [np.rint(a * (np.float32(127) / m)).astype(np.int64) for a, m in zip((x, w), most, strict=True)]
    steps = [m / np.float32(127) for m in most]
    return (whole[0] @ whole[1]).astype(np.float32) * steps[0] * steps[1]


def test_rows_and_columns_are_scaled_to_8_bits_and_sums_are_exact() -> None:
    rng = np.random.default_rng(2)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((7, 33), (33, 5)))
    x[3] = 0
    b = GraphBuilder()
    graph = apply_precision(b.build([product(b, b.input("x", TensorType((7, 33), f32)), b.parameter("w", w))]),
                            "int8-dynamic")  # fmt: skip
    verify(graph)
    assert operand_dtypes(graph) == ["i8"]
    (got,) = interpret(graph, {"x": x}).values()
    np.testing.assert_array_equal(got, spelt_out(x, w))
    np.testing.assert_array_equal(got[3], 0)
    largest = np.abs(x).max(axis=1, keepdims=True), np.abs(w).max(axis=0, keepdims=True)
    moved = (
        np.abs(x).sum(axis=1, keepdims=True) * largest[1] + largest[0] * np.abs(w).sum(axis=0, keepdims=True)
    ) / 254
    bound = moved + 33 * largest[0] * largest[1] / 254**2
    assert np.all(np.abs(got - x.astype(np.float64) @ w) <= 1.001 * bound)


def test_a_row_with_a_nan_or_an_infinity_gives_nan_and_the_others_what_they_should() -> None:
    x = np.ones((3, 4), np.float32)
    x[0, 1], x[2, 3] = np.nan, np.inf
    b = GraphBuilder()
    ones = b.parameter("w", np.ones((4, 2), np.float32))
    graph = apply_precision(b.build([product(b, b.input("x", TensorType((3, 4), f32)), ones)]), "int8-dynamic")
    with np.errstate(all="ignore"):
        (got,) = interpret(graph, {"x": x}).values()
    assert np.isnan(got[[0, 2]]).all()
    np.testing.assert_allclose(got[1], 4, rtol=1e-6)


def test_rows_are_scaled_before_the_views_that_keep_them() -> None:
    rng = np.random.default_rng(4)
    w = rng.standard_normal((8, 3)).astype(np.float32)
    b = GraphBuilder()
    x = b.input("x", TensorType((2, 3, 8), f32))
    rows = b.emit("reshape", b.emit("transpose", x, permutation=(1, 0, 2)), shape=(6, 8))
    mixed = b.emit("reshape", x, shape=(6, 8))
    turned = b.emit("transpose", b.emit("reshape", x, shape=(8, 6)), permutation=(1, 0))
    outputs = [product(b, v, b.parameter(n, w)) for v, n in ((rows, "a"), (mixed, "b"), (turned, "c"))]
    graph = apply_precision(b.build(outputs), "int8-dynamic")
    verify(graph)
    rounded = [node.inputs[0].type.sizes for node in graph.nodes if node.op == "round"]
    assert sorted(rounded) == sorted([(2, 3, 8), (8, 3), (8, 3), (8, 3), (6, 8)])
    value = rng.standard_normal((2, 3, 8)).astype(np.float32)
    views = value.transpose(1, 0, 2).reshape(6, 8), value.reshape(6, 8), value.reshape(8, 6).T
    for got, view in zip(interpret(graph, {"x": value}).values(), views, strict=True):
        np.testing.assert_array_equal(got, spelt_out(view, w))


def test_weights_on_the_left_keep_f32_in_8_bits() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((4, 4), f32))
    graph = b.build([product(b, b.parameter("w", np.ones((4, 4), np.float32)), x)])
    assert operand_dtypes(apply_precision(graph, "int8-dynamic")) == ["f32"]
    assert operand_dtypes(apply_precision(graph, "bf16")) == ["bf16"]
