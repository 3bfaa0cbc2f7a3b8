"""Setting open dimensions: sizes into types, attributes and regions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rlx.errors import IRError, TypeRuleError
from rlx.ir import (
    Dim,
    Graph,
    GraphBuilder,
    TensorType,
    bind_dims,
    dtypes,
    input_dims,
    interpret,
    parse_text,
    specialize,
    verify,
)

F32 = dtypes.f32


def open_loop() -> Graph:
    """A scan over an open number of rows; sizes stand in attributes and inside the region."""
    n, k = Dim("n", 1), Dim("k", 2, 9)
    step = GraphBuilder("step")
    total, row = (step.input(name, TensorType((k,), F32)) for name in ("total", "row"))
    new = step.emit("add", total, row)
    flat = step.emit("reshape", new, shape=(1, k))
    region = step.build([new, flat])
    b = GraphBuilder("open")
    x = b.input("x", TensorType((n, k), F32))
    start = b.full((k,), 0, F32)
    last, rows = b.emit_many("scan", start, x, regions=(region,), num_carry=1, num_xs=1, length=n)
    return b.build({"last": last, "rows": b.emit("reshape", rows, shape=(n * k,))})


def test_sizes_reach_types_attributes_and_regions() -> None:
    graph = specialize(open_loop(), {"n": 3, "k": 4})
    verify(graph)
    assert str(graph.input_types["x"]) == "f32[3, 4]"
    assert str(graph.output_types["rows"]) == "f32[12]"
    assert all(v.type.is_static for _, node in graph.walk() for v in node.outputs)
    x = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
    got = interpret(graph, {"x": x})
    np.testing.assert_allclose(got["rows"], np.cumsum(x, 0).reshape(-1), rtol=1e-6)


def test_what_is_not_named_stays_open() -> None:
    graph = specialize(open_loop(), {"k": 2})
    verify(graph)
    assert str(graph.output_types["rows"]) == "f32[2*n]"


def test_names_locations_and_parameters_stay(makers: dict[str, Callable[[], Graph]]) -> None:
    graph = makers["symbolic"]()
    fixed = specialize(graph, {"batch": 2, "seq length": 3})
    verify(fixed)
    assert [n.location for n in fixed.nodes] == [n.location for n in graph.nodes]
    assert [v.name for v in fixed.inputs] == [v.name for v in graph.inputs]
    assert all(p.data is q.data for p, q in zip(fixed.parameters, graph.parameters, strict=True))
    assert fixed.source == graph.source
    assert graph.inputs[0].type.shape[0] == Dim("batch", 1, 8)


def test_without_sizes_the_graph_itself_returns() -> None:
    graph = open_loop()
    assert specialize(graph, {}) is graph


def test_unknown_names_and_sizes_out_of_bounds_are_refused() -> None:
    with pytest.raises(IRError, match="no input has a dimension named 'm'"):
        specialize(open_loop(), {"m": 3})
    with pytest.raises(IRError, match="dimension 'k' cannot be 10: it is at least 2 and at most 9"):
        specialize(open_loop(), {"k": 10})


def test_sizes_that_an_op_refuses_are_a_type_error() -> None:
    graph = parse_text("dim n\ngraph g (%x: f32[n, 2]) { %y = slice(%x) {starts=(0, 0), limits=(4, 2)"
                       ", strides=(1, 1)} return %y }")  # fmt: skip
    verify(specialize(graph, {"n": 4}))
    with pytest.raises(TypeRuleError):
        specialize(graph, {"n": 3})


def test_input_dims_lists_symbols_in_order_of_appearance() -> None:
    assert list(input_dims(open_loop())) == ["n", "k"]


def two_inputs() -> Graph:
    n = Dim("n", 1, 8)
    b = GraphBuilder()
    x = b.input("x", TensorType((n, 4), F32))
    y = b.input("y", TensorType((2 * n + 1, n), F32))
    return b.build({"x": x, "y": y})


def test_shapes_settle_the_dimensions() -> None:
    assert bind_dims(two_inputs(), {"x": (3, 4)}) == {"n": 3}
    assert bind_dims(two_inputs(), {"x": (3, 4), "y": (7, 3)}) == {"n": 3}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (3, 4)}, "no input is named 'z'"),
        ({"x": (3,)}, r"input 'x' is f32\[n, 4\], the shape given for it is \(3,\)"),
        ({"x": (3, 5)}, r"dimension 1 of input 'x', which is f32\[n, 4\], must be 4, the shape given is \(3, 5\)"),
        (
            {"x": (3, 4), "y": (9, 4)},
            "dimension 'n' is 4 from dimension 1 of input 'y', but 3 from dimension 0 of input 'x'",
        ),
        ({"x": (3, 4), "y": (8, 3)}, r"dimension 0 of input 'y', which is f32\[2\*n \+ 1, n\], must be 7"),
        ({"x": (9, 4)}, "dimension 'n' cannot be 9"),
    ],
)
def test_shapes_that_contradict_show_both_sides(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(IRError, match=message):
        bind_dims(two_inputs(), shapes)
