"""Control flow and functions of ONNX models: what is decided at import, and what becomes cond, scan or while_loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlx.errors import DataDependentShape, InvalidModel
from rlx.frontends.onnx import OnnxModel
from rlx.frontends.onnx.node import decode_model
from rlx.ir.interpret import interpret
from rlx.ir.verify import verify

onnx = pytest.importorskip("onnx")
helper, F32, I64, BOOL = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL


def info(name, dtype=F32, shape=None):
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name, value):
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value)))


def model(nodes, inputs, outputs, initializers=(), functions=(), domains=()):
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [onnx.numpy_helper.from_array(a, n) for n, a in dict(initializers).items()]
    )
    imports = [helper.make_opsetid("", 18), *(helper.make_opsetid(d, 1) for d in domains)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))
    return OnnxModel(decode_model(proto, Path("control.onnx")), "control.onnx")


def ops(graph):
    return [node.op for node in graph.nodes]


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def two_branches(weights=None):
    """flag ? x @ w : -x + shift, both reading values from outside."""
    then = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["t"])], "then", [], [info("t")])
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Add", ["n", "shift"], ["e"])],
        "other",
        [],
        [info("e")],
    )
    return model(
        [
            helper.make_node("Exp", ["x"], ["shift"]),
            helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other),
        ],
        [info("x", F32, [2, 3]), info("flag", BOOL, [])],
        [info("y")],
        {"w": np.full((2, 3), 3, np.float32) if weights is None else weights},
    )


@pytest.mark.parametrize(("flag", "expected"), [(True, X * 3), (False, np.exp(X) - X)])
def test_an_unknown_condition_becomes_cond_and_takes_the_branch_that_holds(flag, expected):
    graph = two_branches().specialize()
    verify(graph)
    assert ops(graph) == ["exp", "cond"]
    np.testing.assert_allclose(interpret(graph, {"x": X, "flag": np.array(flag)})["y"], expected, rtol=1e-6)


def test_a_weight_read_in_a_branch_is_a_parameter_of_the_whole_graph():
    weights = np.random.default_rng(0).normal(size=(1200, 3)).astype(np.float32)
    then = helper.make_graph([helper.make_node("MatMul", ["w", "x"], ["t"])], "then", [], [info("t")])
    other = helper.make_graph([helper.make_node("Identity", ["w"], ["e"])], "other", [], [info("e")])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other)
    built = model([node], [info("x", F32, [3, 3]), info("flag", BOOL, [1])], [info("y")], {"w": weights})
    graph = built.specialize()
    verify(graph)
    assert [p.name for p in graph.parameters] == ["w"]
    out = interpret(graph, {"x": np.eye(3, dtype=np.float32), "flag": np.array([True])})
    np.testing.assert_allclose(out["y"], weights, rtol=1e-6)


def test_weights_of_one_name_in_two_branches_stay_two_parameters():
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=(500,)).astype(np.float32) for _ in range(2))

    def branch(name, data):
        weights = [onnx.numpy_helper.from_array(data, "w")]
        return helper.make_graph([helper.make_node("Mul", ["x", "w"], [name])], name, [], [info(name)], weights)

    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch("t", first), else_branch=branch("e", second))
    graph = model([node], [info("x", F32, [500]), info("flag", BOOL, [])], [info("y")]).specialize()
    verify(graph)
    assert len(graph.parameters) == 2
    for flag, data in ((True, first), (False, second)):
        out = interpret(graph, {"x": np.ones(500, np.float32), "flag": np.array(flag)})
        np.testing.assert_array_equal(out["y"], data)


@pytest.mark.parametrize(("flag", "expected"), [(True, ["mul"]), (False, ["exp", "neg", "add"])])
def test_a_known_condition_imports_the_branch_it_takes(flag, expected):
    graph = two_branches().specialize(values={"flag": np.array(flag)})
    assert [op for op in ops(graph) if op != "constant"] == (["exp", *expected] if flag else expected)


def counting_loop(count, *, grows=False):
    """sum = x + 0 + 1 + ... ; every partial sum is stacked."""
    update = (
        [helper.make_node("Concat", ["s", "f"], ["s2"], axis=0)]
        if grows
        else [helper.make_node("Add", ["s", "f"], ["s2"])]
    )
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["i"], ["f0"], to=F32),
            helper.make_node("Unsqueeze", ["f0", "zero"], ["f"]),
            *update,
            helper.make_node("Identity", ["c"], ["c2"]),
            helper.make_node("Mul", ["f", "two"], ["twice"]),
        ],
        "body",
        [info("i", I64, []), info("c", BOOL, []), info("s")],
        [info("c2", BOOL, []), info("s2"), info("twice")],
    )
    node = helper.make_node("Loop", ["count", "", "x"], ["y", "ys"], body=body)
    constants = {"zero": np.array([0]), "two": np.array([2], np.float32)}
    if count is not None:
        constants["count"] = np.array(count)
    inputs = [info("x", F32, [1])] + ([info("count", I64, [])] if count is None else [])
    return model([node], inputs, [info("y"), info("ys")], constants)


def test_a_loop_of_known_length_becomes_a_scan():
    graph = counting_loop(5).specialize()
    verify(graph)
    assert ops(graph).count("scan") == 1
    out = interpret(graph, {"x": np.array([10], np.float32)})
    np.testing.assert_array_equal(out["y"], [20])
    np.testing.assert_array_equal(out["ys"], 2 * np.arange(5, dtype=np.float32)[:, None])


def test_a_loop_whose_carried_shape_grows_is_unrolled():
    graph = counting_loop(4, grows=True).specialize()
    assert "scan" not in ops(graph)
    np.testing.assert_array_equal(interpret(graph, {"x": np.array([7], np.float32)})["y"], [7, 0, 1, 2, 3])


def test_a_loop_that_stacks_an_unknown_number_of_outputs_names_the_input_to_fix():
    built = counting_loop(None)
    with pytest.raises(DataDependentShape, match="number of iterations") as caught:
        built.specialize()
    assert "values={'count': array}" in caught.value.hint
    graph = built.specialize(values={"count": np.array(3)})
    np.testing.assert_array_equal(interpret(graph, {"x": np.array([1], np.float32)})["y"], [4])


@pytest.mark.parametrize("limit", [3, 100])
def test_a_loop_that_stops_by_a_condition_becomes_a_while_loop(limit):
    """Doubles x while it is below 20, at most `limit` times."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "s"], ["s2"]),
            helper.make_node("Less", ["s2", "twenty"], ["c2"]),
        ],
        "body",
        [info("i", I64, []), info("c", BOOL, []), info("s")],
        [info("c2", BOOL, []), info("s2")],
    )
    node = helper.make_node("Loop", ["limit", "", "x"], ["y"], body=body)
    built = model(
        [node], [info("x", F32, []), info("limit", I64, [])], [info("y")], {"twenty": np.array(20, np.float32)}
    )
    graph = built.specialize()
    verify(graph)
    assert "while_loop" in ops(graph)
    inputs = {"x": np.array(1, np.float32), "limit": np.array(limit)}
    assert interpret(graph, inputs)["y"] == (8 if limit == 3 else 32)


def test_a_function_of_the_model_is_inlined_with_the_attributes_of_its_call():
    function = helper.make_function(
        "own",
        "Scaled",
        ["a", "b"],
        ["c"],
        [
            helper.make_node("LeakyRelu", ["a"], ["l"]),
            helper.make_node("Add", ["l", "b"], ["c"]),
        ],
        [helper.make_opsetid("", 18)],
        ["alpha"],
    )
    function.node[0].attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="alpha", type=1))
    call = helper.make_node("Scaled", ["x", "x"], ["y"], domain="own", alpha=0.5)
    built = model([call], [info("x", F32, [4])], [info("y")], functions=[function], domains=["own"])
    x = np.array([-2, -1, 0, 3], np.float32)
    np.testing.assert_array_equal(interpret(built.specialize(), {"x": x})["y"], np.where(x < 0, 0.5 * x, x) + x)


def test_an_attribute_of_the_wrong_kind_is_an_invalid_model_and_names_the_node():
    node = helper.make_node("Concat", ["x", "x"], ["y"], name="join", axis="first")
    with pytest.raises(InvalidModel, match="Concat node 'join' has operands or attributes that do not fit"):
        model([node], [info("x", F32, [2])], [info("y")]).specialize()


def test_shape_arithmetic_is_done_at_import():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Mul", ["n", "two"], ["m"]),
        helper.make_node("Concat", ["m", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"zero": np.array([0]), "two": np.array([2]), "rest": np.array([-1])}
    graph = model(nodes, [info("x", F32, ["n", 6])], [info("y")], constants).specialize({"x": (3, 6)})
    assert ops(graph) == ["reshape"]
    assert str(graph.output_types["y"]) == "f32[6, 3]"
