"""Composites: their bodies against PyTorch and onnxruntime, their rules against their bodies."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rlx.errors import TypeRuleError
from rlx.ir import (
    Dim,
    Graph,
    GraphBuilder,
    TensorType,
    all_ops,
    dtypes,
    get,
    interpret,
    parse_text,
    type_of,
    verify,
)
from rlx.ir.op import expand

GOLDENS = np.load(Path(__file__).parent / "data" / "composites.npz")
CASES = sorted(name.removesuffix("/call") for name in GOLDENS.files if name.endswith("/call"))
COMPOSITES = sorted(name for name, op in all_ops().items() if op.is_composite)

F32 = dtypes.f32

#: A mean near 1000 is known to half a unit in its last place, 3e-5, in f32; squares in one pass would be off by 0.1.
LOOSER = {"layer_norm_far": 2e-4}


def arrays(case: str, kind: str) -> list[np.ndarray]:
    found = []
    while f"{case}/{kind}{len(found)}" in GOLDENS.files:
        found.append(GOLDENS[f"{case}/{kind}{len(found)}"])
    return found


def golden_graph(case: str) -> Graph:
    """The case's op as a graph, written in the text form."""
    op, attrs = str(GOLDENS[f"{case}/call"]).split(" ", 1)
    inputs, count = arrays(case, "in"), len(arrays(case, "out"))
    declared = ", ".join(f"%x{i}: {type_of(x)}" for i, x in enumerate(inputs))
    reads = ", ".join(f"%x{i}" for i in range(len(inputs)))
    results = ", ".join(f"%y{i}" for i in range(count))
    return parse_text(f"graph g ({declared}) {{ {results} = {op}({reads}) {attrs} return {results} }}")


def expanded(graph: Graph) -> Graph:
    """`graph` with its first composite's body in its place."""
    b = GraphBuilder()
    values = {v: b.input(v.name, v.type) for v in graph.inputs}
    for node in graph.nodes:
        results = expand(b, node, [values[v] for v in node.inputs])
        values.update(zip(node.outputs, results, strict=True))
    return b.build(dict(zip(graph.output_names, (values[v] for v in graph.outputs), strict=True)))


@pytest.mark.parametrize("case", CASES)
def test_a_composite_answers_as_pytorch_or_onnxruntime_does(case: str) -> None:
    graph = golden_graph(case)
    got = interpret(graph, {f"x{i}": x for i, x in enumerate(arrays(case, "in"))})
    for result, want in zip(got.values(), arrays(case, "out"), strict=True):
        assert result.dtype == want.dtype
        assert result.shape == want.shape
        if want.dtype == np.float16:
            # One rounding at the end: at most the last bit differs from the correctly rounded value.
            np.testing.assert_allclose(result.astype(np.float64), want.astype(np.float64), rtol=2**-10, atol=2**-24)
        else:
            np.testing.assert_allclose(result, want, rtol=4e-6, atol=LOOSER.get(case, 2e-6))


@pytest.mark.parametrize("name", COMPOSITES)
def test_every_composite_has_goldens(name: str) -> None:
    assert any(str(GOLDENS[f"{case}/call"]).startswith(f"{name} ") for case in CASES)


@pytest.mark.parametrize("name", COMPOSITES)
def test_the_rule_infers_what_the_body_gives_and_expansion_changes_no_answer(name: str) -> None:
    record = get(name)
    assert record.samples is not None
    count = 0
    for sample in record.samples(np.random.default_rng(7)):
        b = GraphBuilder()
        values = [b.input(f"x{i}", type_of(a)) for i, a in enumerate(sample.arrays)]
        outputs = b.emit_many(name, *values, **sample.attrs)
        graph = b.build(outputs)
        verify(graph)
        body = expanded(graph)
        verify(body)
        assert [v.type for v in body.outputs] == [v.type for v in graph.outputs]
        if count % 5 == 0:
            feeds = {f"x{i}": a for i, a in enumerate(sample.arrays)}
            for x, y in zip(interpret(graph, feeds).values(), interpret(body, feeds).values(), strict=True):
                np.testing.assert_array_equal(x, y)
        count += 1
    assert count


def test_expanded_nodes_keep_the_location_of_their_composite() -> None:
    text = 'graph g (%x: f32[2, 3]) { %y = softmax(%x) at (file="m.onnx", name="head/softmax") return %y }'
    graph = parse_text(text)
    assert {node.location for node in expanded(graph).nodes} == {graph.nodes[0].location}


def test_the_threshold_itself_is_not_above_it() -> None:
    graph = parse_text("graph g (%x: f32[3]) { %y = thresholded_relu(%x) {alpha=1.0} return y=%y }")
    got = interpret(graph, {"x": np.array([1.0, np.nextafter(np.float32(1), np.float32(2)), -2], np.float32)})["y"]
    assert got.tolist() == [0.0, float(np.nextafter(np.float32(1), np.float32(2))), 0.0]


def test_hard_swish_of_a_large_number_is_that_number() -> None:
    x = np.array([np.finfo(np.float32).max, 1e38, 3, -3, -1e38], np.float32)
    got = interpret(parse_text("graph g (%x: f32[5]) { %y = hard_swish(%x) return y=%y }"), {"x": x})["y"]
    np.testing.assert_array_equal(got, np.maximum(x, 0))


def test_bfloat16_is_computed_in_f32_and_rounded_once() -> None:
    x = (np.random.default_rng(5).normal(size=(4, 96)) * 3).astype(dtypes.bf16.numpy)
    for call in ("softmax(%x)", "gelu(%x)", "rms_norm(%x, %x1)", "silu(%x)"):
        texts = [f"graph g (%x: {t}[4, 96], %x1: {t}[96]) {{ %y = {call} return y=%y }}" for t in ("bf16", "f32")]
        narrow, wide = (
            interpret(parse_text(text), {"x": x.astype(d), "x1": x[0].astype(d)})["y"]
            for text, d in zip(texts, (x.dtype, np.float32), strict=True)
        )
        np.testing.assert_array_equal(narrow, wide.astype(x.dtype))


def test_a_symbolic_batch_passes_through_every_normalisation() -> None:
    batch = Dim("batch", 1, 64)
    b = GraphBuilder()
    x = b.input("x", TensorType((batch, 8, batch), F32))
    s = b.input("s", TensorType((8,), F32))
    y = b.emit("group_norm", b.emit("softmax", x), s, s, groups=2)
    y = b.emit("instance_norm", y, s, s)
    y = b.emit("batch_norm", y, s, s, s, s)
    y = b.emit("reduce_mean", y, dimensions=(0, 2))
    graph = b.build({"y": y})
    assert str(y.type) == "f32[8]"
    assert str(expanded(graph).outputs[0].type) == "f32[8]"
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 8, 3)).astype(np.float32), "s": np.ones(8, np.float32)}
    got = interpret(expanded(graph), feeds)["y"]
    np.testing.assert_array_equal(interpret(graph, feeds)["y"], got)
    assert got.shape == (8,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(%x: f32[2, 3]) { %y = softmax(%x) {axis=2}", "softmax: axis is 2, the operand has rank 2"),
        ("(%x: i32[2, 3]) { %y = softmax(%x)", "softmax: x is i32[2, 3], it must be a float"),
        (
            "(%x: f32[2, 3], %s: f32[2]) { %y = layer_norm(%x, %s)",
            "layer_norm: scale is f32[2], it must broadcast to (3,)",
        ),
        (
            "(%x: f32[2, 6, 4], %s: f32[6]) { %y = group_norm(%x, %s, %s) {groups=4}",
            "group_norm: 6 channels do not divide into 4 groups",
        ),
        (
            "(%q: f32[3, 5, 8], %k: f32[2, 5, 8]) { %y = attention(%q, %k, %k)",
            "leading dimensions must be equal, or q's heads a multiple of k's",
        ),
        (
            "(%q: f32[3, 5, 8], %m: bool[5, 4]) { %y = attention(%q, %q, %q, %m)",
            "attention: mask is bool[5, 4], it must broadcast to (3, 5, 5)",
        ),
        (
            "(%x: f32[4, 2, 3], %w: f32[1, 8, 3], %r: f32[1, 8, 2]) { %y, %h, %c = lstm(%x, %w, %r) {clip=3.0}",
            "lstm: clip is 3.0, clipping is not supported; it must be None",
        ),
        (
            '(%x: f32[4, 2, 3], %w: f32[1, 2, 3], %r: f32[1, 2, 2]) { %y, %h = rnn(%x, %w, %r) {activations=("Tahn",)}',
            "rnn: no activation is named 'Tahn'",
        ),
        (
            "(%x: f32[4, 2, 3], %w: f32[1, 2, 3], %r: f32[2, 2, 2]) { %y, %h = rnn(%x, %w, %r)",
            "rnn: r is f32[2, 2, 2], it must be f32[1, 2, 2]",
        ),
        ("(%x: i64[2]) { %y = one_hot(%x) {depth=3, axis=3, dtype=f32}", "one_hot: axis is 3, the result has rank 2"),
        ("(%x: bool[2]) { %y = relu(%x)", "relu: operand 0 is bool[2]"),
    ],
)
def test_a_composite_refuses_what_it_has_no_meaning_for(text: str, message: str) -> None:
    head, call = re.split(r"(?<=\{ )", text, maxsplit=1)
    op = re.search(r"= (\w+)\(", call)
    assert op is not None
    names = call.split(" = ")[0]
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_text(f"graph g {head}{call} return {names} }}")


def test_a_rule_raises_a_type_rule_error_with_a_hint() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((4, 2, 3), F32))
    w = b.input("w", TensorType((1, 2, 3), F32))
    r = b.input("r", TensorType((1, 2, 2), F32))
    with pytest.raises(TypeRuleError, match="did you mean 'tanh'"):
        b.emit_many("rnn", x, w, r, activations=("Tahn",))
