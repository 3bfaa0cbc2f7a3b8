"""The verifier: what it passes, and for each rule a graph that breaks it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlx.errors import VerifyError
from rlx.ir import Dim, Graph, GraphBuilder, Location, Node, Parameter, TensorType, Value, dtypes, verify

F32 = dtypes.f32
T = TensorType((2,), F32)
PLACE = Location("m.onnx", "Neg_7")


def small() -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", T)
    w = b.parameter("w", np.zeros(2, np.float32))
    with b.at(PLACE):
        y = b.emit("neg", b.emit("add", x, w))
    return b.build({"y": y})


def node(op: str, inputs: tuple[Value, ...], attrs: dict[str, Any], type: TensorType = T, **more: Any) -> Node:
    return Node(op, inputs, (Value(type),), attrs, location=PLACE, **more)


def with_node(make: Callable[[Value], Node]) -> Graph:
    """`small` and one more node, which reads x."""
    graph = small()
    return replace(graph, nodes=(*graph.nodes, make(graph.inputs[0])))


def test_good_graphs_pass(make_graph: Callable[[], Graph]) -> None:
    graph = make_graph()
    if graph.name == "attributes":
        graph = replace(graph, output_names=tuple(f"y{i}" for i in range(len(graph.outputs))))
    verify(graph)


def break_order() -> Graph:
    graph = small()
    return replace(graph, nodes=graph.nodes[::-1])


def break_single_definition() -> Graph:
    graph = small()
    return replace(graph, nodes=(*graph.nodes, graph.nodes[-1]))


def break_outputs() -> Graph:
    return replace(small(), outputs=(Value(T, "loose"),))


def break_output_names() -> Graph:
    graph = small()
    return replace(graph, outputs=graph.outputs * 2, output_names=("y", "y"))


def break_output_count() -> Graph:
    return replace(small(), output_names=("y", "z"))


def break_input_names() -> Graph:
    graph = small()
    return replace(graph, inputs=(*graph.inputs, Value(T, "x")))


def break_empty_names() -> Graph:
    graph = small()
    return replace(graph, inputs=(*graph.inputs, Value(T)))


def break_parameter_names() -> Graph:
    graph = small()
    (w,) = graph.parameters
    return replace(graph, parameters=(Parameter("x", w.value, w.data),))


def break_parameter_data() -> Graph:
    graph = small()
    (w,) = graph.parameters
    return replace(graph, parameters=(Parameter("w", w.value, np.zeros(3, np.float32)),))


def break_parameter_dtype() -> Graph:
    graph = small()
    (w,) = graph.parameters
    return replace(graph, parameters=(Parameter("w", w.value, np.array(["a", "b"])),))


def region(name: str, *, leak: Value | None = None, parameter: bool = False, bad: bool = False) -> Graph:
    b = GraphBuilder(name)
    x = b.input("x", T)
    if parameter:
        x = b.parameter("w", np.zeros(2, np.float32))
    graph = b.build([b.emit("neg", leak or x)])
    if bad:
        graph = replace(graph, nodes=(node("softmax", graph.inputs, {"axis": [0]}),), outputs=())
        graph = replace(graph, outputs=graph.nodes[0].outputs)
    return graph


def cond(x: Value, **flaw: Any) -> Node:
    regions = (region("then", **flaw), region("else"))
    return node("cond", (Value(TensorType((), dtypes.bool_)), x), {}, regions=regions)


def with_cond(*, leak: bool = False, **flaw: bool) -> Graph:
    """`small` and a cond whose first region has the flaw."""
    graph = with_node(lambda x: cond(x, leak=x if leak else None, **flaw))
    predicate = graph.nodes[-1].inputs[0]
    predicate.name = "predicate"
    return replace(graph, inputs=(*graph.inputs, predicate))


BROKEN: list[tuple[Callable[[], Graph], str]] = [
    (break_order, r"node 0 \(neg\) of graph 'g' reads operand 0, .*which nothing before it defines"),
    (break_single_definition, r"node 2 \(neg\) of graph 'g' defines .*, which is defined before"),
    (break_outputs, "output 'y' of graph 'g' is %loose: .*, which nothing defines"),
    (break_output_names, "the name 'y' twice among its outputs"),
    (break_output_count, "has 1 outputs and 2 output names"),
    (break_input_names, "the name 'x' twice among its inputs and parameters"),
    (break_empty_names, "an empty name among its inputs and parameters"),
    (break_parameter_names, "the name 'x' twice among its inputs and parameters"),
    (break_parameter_data, r"parameter 'w' of graph 'g' is declared f32\[2\], its data is f32\[3\]"),
    (break_parameter_dtype, "parameter 'w' of graph 'g': NumPy dtype"),
    (lambda: with_node(lambda x: node("ngg", (x,), {})), r"node 2 \(ngg\) of graph 'g': no op is named 'ngg'"),
    (lambda: with_node(lambda x: node("softmax", (x,), {})), "lacks the attribute 'axis'"),
    (lambda: with_node(lambda x: node("neg", (x,), {"axis": 0})), "neg has no attribute 'axis'"),
    (lambda: with_node(lambda x: node("reshape", (x,), {})), "reshape needs the attribute 'shape'"),
    (lambda: with_node(lambda x: node("softmax", (x,), {"axis": np.int64(0)})), "attribute 'axis' holds an int64"),
    (lambda: with_node(lambda x: node("reshape", (x,), {"shape": [2]})), "attribute 'shape' holds a list"),
    (lambda: with_node(lambda x: node("reshape", (x,), {"shape": (np.int32(2),)})), "attribute 'shape' holds an int32"),
    (
        lambda: with_node(lambda x: node("softmax", (x,), {"axis": np.array(0)})),
        "holds an array, which only a constant",
    ),
    (lambda: with_node(lambda x: node("softmax", (x,), {"axis": 3})), "softmax: axis is 3"),
    (
        lambda: with_node(lambda x: node("neg", (x,), {}, TensorType((3,), F32))),
        r"stores f32\[3\], its rule infers f32\[2\]",
    ),
    (lambda: with_cond(leak=True), r"node 0 \(neg\) of graph 'then' reads operand 0, %x.*which nothing before it"),
    (lambda: with_cond(parameter=True), "its region 'then' has parameters"),
    (lambda: with_cond(bad=True), r"node 0 \(softmax\) of graph 'then': attribute 'axis' holds a list"),
]


@pytest.mark.parametrize(("make", "message"), BROKEN)
def test_each_broken_rule_is_named(make: Callable[[], Graph], message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        verify(make())


def test_an_unbroken_cond_passes() -> None:
    verify(with_cond())


def test_the_error_says_where_the_node_came_from_in_regions_too() -> None:
    with pytest.raises(VerifyError) as caught:
        verify(with_node(lambda x: node("softmax", (x,), {})))
    assert caught.value.where == "at Neg_7 (m.onnx)"
    with pytest.raises(VerifyError) as caught:
        verify(with_cond(leak=True))
    assert caught.value.where == "at Neg_7 (m.onnx)"


def test_one_dimension_name_has_one_pair_of_bounds() -> None:
    b = GraphBuilder("g")
    b.input("x", TensorType((Dim("n", 1, 4),), F32))
    y = b.input("y", TensorType((Dim("n", 1, 5) + 1,), F32))
    with pytest.raises(VerifyError, match=r"dimension 'n' has two pairs of bounds, \[1, 4\] and \[1, 5\]"):
        verify(b.build({"y": y}))
