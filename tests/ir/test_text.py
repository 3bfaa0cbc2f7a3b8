"""The text form: what is printed parses back to the same graph, and what does not parse says where."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.errors import IRError, TextError
from rlx.ir import (
    Dim,
    Graph,
    GraphBuilder,
    Location,
    TensorType,
    dtypes,
    fingerprint,
    interpret,
    parse_text,
    print_graph,
    verify,
)

Make = Callable[[], Graph]


def assert_same(x: Graph, y: Graph) -> None:
    """Every part that a graph has, compared to the bit; identities apart."""
    assert (x.name, x.source, x.output_names) == (y.name, y.source, y.output_names)
    assert [(v.name, v.type) for v in x.inputs] == [(v.name, v.type) for v in y.inputs]
    assert [(p.name, p.value.name, p.value.type) for p in x.parameters] == [
        (p.name, p.value.name, p.value.type) for p in y.parameters
    ]
    for p, q in zip(x.parameters, y.parameters, strict=True):
        assert same(p.data, q.data)
    order = {v: i for i, v in enumerate(values(x))}
    again = {v: i for i, v in enumerate(values(y))}
    assert len(x.nodes) == len(y.nodes)
    for m, n in zip(x.nodes, y.nodes, strict=True):
        assert (m.op, m.location, list(m.attrs)) == (n.op, n.location, list(n.attrs))
        assert all(same(m.attrs[name], n.attrs[name]) for name in m.attrs), (m.attrs, n.attrs)
        assert [order[v] for v in m.inputs] == [again[v] for v in n.inputs]
        assert [(v.name, v.type) for v in m.outputs] == [(v.name, v.type) for v in n.outputs]
        for r, s in zip(m.regions, n.regions, strict=True):
            assert_same(r, s)
    assert [order[v] for v in x.outputs] == [again[v] for v in y.outputs]


def values(graph: Graph) -> list:
    return [*graph.inputs, *(p.value for p in graph.parameters), *(v for n in graph.nodes for v in n.outputs)]


def same(x: object, y: object) -> bool:
    """Equal in type and in every bit."""
    if type(x) is not type(y):
        return False
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if isinstance(x, float) and isinstance(y, float):
        return struct.pack("<d", x) == struct.pack("<d", y)
    if isinstance(x, tuple) and isinstance(y, tuple):
        return len(x) == len(y) and all(map(same, x, y))
    return x == y


def test_every_construct_prints_and_parses_back_to_the_same_graph(make_graph: Make) -> None:
    graph = make_graph()
    text = print_graph(graph, data=True)
    again = parse_text(text)
    assert_same(graph, again)
    assert print_graph(again, data=True) == text
    assert fingerprint(again) == fingerprint(graph)
    verify(again)


def test_parameters_may_come_beside_the_text_and_are_not_copied(makers: dict[str, Make]) -> None:
    graph = makers["symbolic"]()
    data = {p.name: p.data for p in graph.parameters}
    again = parse_text(print_graph(graph), data)
    assert_same(graph, again)
    assert all(p.data is data[p.name] for p in again.parameters)


def test_what_parses_back_computes_the_same(makers: dict[str, Make]) -> None:
    graph = makers["control_flow"]()
    feeds = {"x": np.array([0.1, -1, 2], np.float32), "limit": np.array(5, np.int32)}
    got = interpret(parse_text(str(graph)), feeds)
    for name, want in interpret(graph, feeds).items():
        np.testing.assert_array_equal(got[name], want)


def test_text_reads_as_one_line_a_node() -> None:
    text = """\
dim batch in [1, 64]
graph "main" (%x: f32[batch, 4]) {
  source "model.onnx"
  %0: f32[] = constant() {value=f32[](0.5)}
  %1: f32[batch, 4] = broadcast_in_dim(%0) {shape=([batch], 4), broadcast_dims=()}
  %2: f32[batch, 4] = mul(%x, %1) at (file="model.onnx", name="Mul_3")
  return y=%2
}
"""
    assert print_graph(parse_text(text)) == text


def test_hand_written_text_may_leave_out_types_defaults_and_line_ends() -> None:
    graph = parse_text("graph g (%x: f32[2, 3]) { %y = softmax(%x) ; along the last\n return %y }")
    assert graph.nodes[0].attrs == {"axis": -1}
    assert graph.output_types == {"out0": TensorType((2, 3), dtypes.f32)}


def test_locations_can_be_left_out_of_the_print(makers: dict[str, Make]) -> None:
    text = print_graph(makers["symbolic"](), locations=False)
    assert "MatMul" not in text
    assert all(node.location == Location() for node in parse_text(text, _parameters(makers)).nodes)


def _parameters(makers: dict[str, Make]) -> dict[str, np.ndarray]:
    return {p.name: p.data for p in makers["symbolic"]().parameters}


attribute_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(width=64),
        st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0]),
        st.text(max_size=8),
        st.sampled_from(dtypes.ALL),
        st.sampled_from([Dim("n"), Dim("m", 1, 4) * 2 + 1, Dim("f32") // 3, Dim("true")]),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(attribute_values, max_size=3), st.text(min_size=1, max_size=10), st.text(max_size=6))
def test_any_attribute_value_and_any_name_survive_the_text(held: list, name: str, location: str) -> None:
    b = GraphBuilder(name)
    x = b.input(name, TensorType((2,), dtypes.f32))
    with b.at(Location(location, name, 3)):
        attrs = {"result_shapes": ((2,),), "result_dtypes": (dtypes.f32,), "target": name}
        y = b.emit("custom_call", x, attributes=tuple((name, v) for v in held), **attrs)
    y.name = name
    graph = b.build({name: y, "": x})
    assert_same(graph, parse_text(print_graph(graph)))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([d for d in dtypes.ALL if d.itemsize <= 8]), st.binary(min_size=0, max_size=64))
def test_any_bits_of_any_dtype_survive_in_a_constant(dtype: dtypes.DType, raw: bytes) -> None:
    if dtype.bits < 8:
        raw = bytes(x & ((1 << dtype.bits) - 1) for x in raw)
        raw = np.frombuffer(raw, np.uint8).astype(np.int8).astype(dtype.numpy).tobytes() if raw else raw
    array = np.frombuffer(raw[: len(raw) // dtype.itemsize * dtype.itemsize], dtype.numpy)
    b = GraphBuilder()
    graph = b.build([b.constant(array)])
    assert_same(graph, parse_text(print_graph(graph)))


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("graph g (%x: f32[2]) {\n  %y = ad(%x, %x)\n  return %y }", "no op is named 'ad'", 2),
        ("graph g (%x: f32[2]) {\n  %y = neg(%z)\n return %y }", "%z is not defined before this use", 2),
        ("graph g (%x: f32[2]) {\n  %y: f32[3] = neg(%x)\n return %y }", "neg gives f32[2], the text says f32[3]", 2),
        ("graph g (%x: f32[2]) {\n  %x = neg(%x)\n return %x }", "%x is defined twice", 2),
        ("graph g (%x: f33[2]) { return %x }", "unknown dtype 'f33'", 1),
        ("graph g (%x: f32[n]) { return %x }", "no dimension is named 'n'", 1),
        ("dim n in [4, 2]\ngraph g () { return }", "hold no size", 1),
        ("dim n\ndim n\ngraph g () { return }", "dimension 'n' is declared twice", 2),
        ("graph g (%x: f32[2])\n  return %x }", "expected '{', found 'return'", 2),
        ("graph g (%x: f32[2]) { return %x } more", "expected the end of the text, found 'more'", 1),
        ("graph g (%x: f32[2]) {\n  return %x", "expected ',' between results, found the end of the text", 2),
        (
            "graph g () { %c = constant() {value=f32[2](1.0)}\n return %c }",
            "f32[2] has 2 elements, the text gives 1",
            1,
        ),
        ("graph g () { %c = constant() {value=i8[1](300)}\n return %c }", "300 does not fit i8", 1),
        ("graph g () { %c = constant() {value=i8[1](1.5)}\n return %c }", "expected an element of i8, found '1.5'", 1),
        (
            'graph g () { %c = constant() {value=f32[2]"AAAA"}\n return %c }',
            "f32[2] takes 8 bytes, the text gives 3",
            1,
        ),
        ('graph g () { %c = constant() {value=f32[1]"?"}\n return %c }', "bad base64", 1),
        ("graph g (%x: f32[2, 2]) { %y = softmax(%x) {axes=1}\n return %y }", "softmax has no attribute 'axes'", 1),
        ("graph g (%x: f32[2]) {\n  %y, %z = neg(%x)\n return %y }", "neg has 1 results, the text names 2", 2),
        ("graph g () {\n\n  param %w: f32[2]\n return %w }", "parameter 'w' has no data", 3),
        ("graph g (%x: f32[2]) { ~ }", "unexpected character '~'", 1),
        ("", "expected 'graph', found the end of the text", 1),
    ],
)
def test_a_text_error_names_line_and_column_and_shows_the_line(text: str, message: str, line: int) -> None:
    with pytest.raises(TextError) as caught:
        parse_text(text, origin="g.rlx.txt")
    said = str(caught.value)
    assert message in said
    assert f"g.rlx.txt, line {line}, column " in said
    assert text.split("\n")[line - 1] in said


def test_the_column_points_at_the_token() -> None:
    with pytest.raises(TextError) as caught:
        parse_text("graph g (%x: f32[2]) {\n  %y = add(%x, %oops)\n  return %y }")
    assert "line 2, column 16" in caught.value.message
    shown, pointer = (caught.value.where or "").split("\n")
    assert shown[pointer.index("^") - 2 :].startswith("%oops")


def test_data_of_another_type_or_for_no_parameter_is_refused() -> None:
    text = "graph g () { param %w: f32[2]\n return %w }"
    with pytest.raises(TextError, match=r"parameter 'w' is declared f32\[2\], its data is f64\[2\]"):
        parse_text(text, {"w": np.zeros(2)})
    with pytest.raises(IRError, match="data is given for the parameter 'v'"):
        parse_text(text, {"w": np.zeros(2, np.float32), "v": np.zeros(2)})


def test_constants_that_were_read_cannot_be_written() -> None:
    for literal in ("f32[2](1.0, 2.0)", 'f32[1]"AACAPw=="'):
        graph = parse_text(f"graph g () {{ %c = constant() {{value={literal}}} return %c }}")
        value = graph.nodes[0].attrs["value"]
        assert isinstance(value, np.ndarray)
        assert not value.flags.writeable


def test_a_negative_zero_and_infinities_read_as_written() -> None:
    graph = parse_text("graph g () { %c = constant() {value=f64[4](-0.0, inf, -inf, 1)} return %c }")
    value = graph.nodes[0].attrs["value"]
    assert isinstance(value, np.ndarray)
    assert math.copysign(1, value[0]) == -1
    assert value[1:].tolist() == [math.inf, -math.inf, 1.0]
