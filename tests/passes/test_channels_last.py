"""The layout pass: what lies channels last, where transposes are left, and that values keep their bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.ir.graph import Graph, Value
from rlx.ir.interpret import interpret
from rlx.ir.verify import verify
from rlx.passes.channels_last import channels_last
from rlx.passes.fuse import fuse

RNG = np.random.default_rng(5)
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def conv(b: GraphBuilder, x: Value, features: int, name: str) -> Value:
    w = b.parameter(name, RNG.normal(0, 1, (features, x.type.sizes[1], 3, 3)).astype(np.float32))
    ones = (1, 1)
    padding = (ones, ones)
    return b.emit("conv_general", x, w, strides=ones, padding=padding, lhs_dilation=ones, rhs_dilation=ones, groups=1)


def image(b: GraphBuilder) -> Value:
    return b.input("x", TensorType((2, 3, 6, 5), f32))


def rewritten(graph: Graph) -> Graph:
    """The graph after the pass, checked to give the same bits."""
    after = channels_last(graph, lambda node: True)
    verify(after)
    given = {"x": RNG.normal(0, 1, (2, 3, 6, 5)).astype(np.float32)}
    for got, want in zip(interpret(after, given).values(), interpret(graph, given).values(), strict=True):
        np.testing.assert_array_equal(got, want)
    return after


def transposes(graph: Graph) -> list[object]:
    return [n.attrs["permutation"] for n in graph.nodes if n.op == "transpose"]


def test_pointwise_ops_between_convolutions_need_no_transpose_back_but_the_views_that_convolutions_read() -> None:
    b = GraphBuilder()
    bias = b.parameter("bias", RNG.normal(0, 1, 8).astype(np.float32))
    y = conv(b, image(b), 8, "w0")
    y = b.emit("add", y, b.emit("broadcast_in_dim", bias, shape=y.type.shape, broadcast_dims=(1,)))
    z = conv(b, b.binary("max", y, 0.0), 8, "w1")
    after = rewritten(b.build([b.emit("add", z, y)]))
    made = [n for n in after.nodes if n.op in ("add", "max")]
    assert all(n.output.type.sizes == (2, 6, 5, 8) for n in made)
    # one behind each convolution, one as the view that the second reads, one for the output
    assert sorted(map(str, transposes(after))) == sorted(map(str, [TO_LAST] * 2 + [TO_FIRST] * 2))


def pooled(b: GraphBuilder, y: Value) -> Value:
    window = (1, 1, 3, 2)
    return b.emit(
        "reduce_window_max", y, window=window, strides=(1, 1, 2, 1), padding=((0, 0), (0, 0), (1, 0), (0, 1)),
        base_dilation=(1, 1, 1, 1), window_dilation=(1, 1, 1, 1),
    )  # fmt: skip


def gated(b: GraphBuilder, y: Value) -> Value:
    """A squeeze-and-excite gate: one value a channel, broadcast back."""
    means = b.emit("reshape", b.emit("reduce_sum", y, dimensions=(2, 3)), shape=(2, 8, 1, 1))
    return b.emit("mul", y, b.emit("broadcast_in_dim", means, shape=y.type.shape, broadcast_dims=(0, 1, 2, 3)))


def padded(b: GraphBuilder, y: Value) -> Value:
    return b.emit("pad", y, b.constant(1.0, f32), low=(0, 1, 2, 3), high=(0, 0, 1, 0), interior=(0, 0, 0, 1))


def sliced(b: GraphBuilder, y: Value) -> Value:
    return b.emit("slice", y, starts=(0, 2, 1, 0), limits=(2, 8, 6, 5), strides=(1, 3, 2, 1))


def joined(b: GraphBuilder, y: Value) -> Value:
    return b.emit("concatenate", y, conv(b, y, 4, "other"), dimension=1)


@pytest.mark.parametrize("op", [pooled, gated, padded, sliced, joined])
def test_ops_work_on_what_lies_channels_last(op: Callable[[GraphBuilder, Value], Value]) -> None:
    b = GraphBuilder()
    after = rewritten(b.build([op(b, conv(b, image(b), 8, "w"))]))
    assert transposes(after).count(TO_FIRST) <= 1 + (op is joined)
    assert after.producers[after.outputs[0]].op == "transpose"


def test_reductions_keep_the_order_of_what_is_left() -> None:
    b = GraphBuilder()
    y = conv(b, image(b), 8, "w")
    results = [b.emit("reduce_max", y, dimensions=d) for d in ((1,), (2,), (0, 3), (2, 3), (0, 1, 2, 3))]
    after = rewritten(b.build(results))
    assert all(n.inputs[0].type.sizes == (2, 6, 5, 8) for n in after.nodes if n.op == "reduce_max")


def test_what_cannot_follow_reads_the_value_as_it_was() -> None:
    b = GraphBuilder()
    y = conv(b, image(b), 8, "w")
    after = rewritten(b.build([b.emit("reshape", y, shape=(2, 240)), b.emit("cumsum", y, dimension=1)]))
    assert transposes(after) == [TO_LAST, TO_FIRST]


def test_a_model_s_own_transpose_of_what_lies_channels_last_is_none() -> None:
    b = GraphBuilder()
    y = conv(b, image(b), 8, "w")
    after = rewritten(b.build([b.binary("max", b.emit("transpose", y, permutation=TO_LAST), 0.0)]))
    assert transposes(after) == [TO_LAST]


def test_another_transpose_reads_the_value_as_it_lies() -> None:
    b = GraphBuilder()
    y = conv(b, image(b), 8, "w")
    after = rewritten(b.build([b.emit("transpose", y, permutation=(3, 1, 0, 2))]))
    assert transposes(after) == [TO_LAST, (2, 3, 0, 1)]


def test_patches_of_an_image_become_a_sequence_in_place() -> None:
    b = GraphBuilder()
    y = b.emit("reshape", conv(b, image(b), 8, "w"), shape=(2, 8, 30))
    after = rewritten(b.build([b.emit("transpose", y, permutation=(0, 2, 1))]))
    assert transposes(after) == [TO_LAST]
    assert after.producers[after.outputs[0]].op == "reshape"


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 1)])
def test_a_pooled_image_loses_its_spatial_dimensions_in_place(shape: tuple[int, ...]) -> None:
    b = GraphBuilder()
    none = (0, 0)
    y = b.emit(
        "reduce_window_max", conv(b, image(b), 8, "w"), window=(1, 1, 6, 5), strides=(1, 1, 1, 1), padding=(none,) * 4,
        base_dilation=(1, 1, 1, 1), window_dilation=(1, 1, 1, 1),
    )  # fmt: skip
    after = rewritten(b.build([b.emit("reshape", y, shape=shape)]))
    (reshape,) = (n for n in after.nodes if n.op == "reshape")
    assert reshape.output.type.sizes == (2, *shape[2:], 8)


def test_a_sequence_that_is_a_view_of_a_transposed_one_keeps_its_order() -> None:
    """Else all that is ever added to it would be transposed."""
    b = GraphBuilder()
    x = image(b)
    flat = b.emit("reshape", b.emit("cumsum", conv(b, x, 8, "w"), dimension=1), shape=(2, 8, 30))
    sequence = b.emit("transpose", flat, permutation=(0, 2, 1))
    start = b.constant(np.ones((2, 1, 8), np.float32))
    longer = b.emit("concatenate", start, sequence, dimension=1)
    after = rewritten(b.build([b.emit("add", longer, b.constant(np.ones((2, 31, 8), np.float32)))]))
    assert all(n.output.type.sizes == (2, 31, 8) for n in after.nodes if n.op in ("add", "concatenate"))


def test_a_graph_whose_convolutions_the_backend_does_not_take_stays() -> None:
    b = GraphBuilder()
    graph = b.build([conv(b, image(b), 8, "w")])
    assert channels_last(graph, lambda node: False) is graph


def test_a_depthwise_convolution_follows_its_image() -> None:
    ones, b = (1, 1), GraphBuilder()
    attrs = {"strides": ones, "padding": (ones, ones), "lhs_dilation": ones, "rhs_dilation": ones}

    def depthwise(x: Value, name: str) -> Value:
        channels = x.type.sizes[1]
        w = b.parameter(name, RNG.normal(0, 1, (channels, 1, 3, 3)).astype(np.float32))
        return b.emit("conv_general", x, w, groups=channels, **attrs)

    x = image(b)
    after = rewritten(b.build([depthwise(conv(b, depthwise(x, "u"), 8, "w"), "v")]))
    first, *others = (n for n in after.nodes if n.op == "conv_general")
    behind = {n.inputs[0] for n in after.nodes if n.op == "transpose"}
    assert first.output not in behind
    assert all(n.output in behind for n in others)


def test_convolutions_whose_weights_are_computed_stay() -> None:
    b = GraphBuilder()
    x = image(b)
    w = b.emit("slice", x, starts=(0, 0, 0, 0), limits=(2, 3, 3, 3), strides=(1, 1, 1, 1))
    ones = (1, 1)
    attrs = {"strides": ones, "padding": (ones, ones), "lhs_dilation": ones, "rhs_dilation": ones, "groups": 1}
    graph = b.build([b.emit("conv_general", x, w, **attrs)])
    assert channels_last(graph, lambda node: True) is graph


def test_the_transpose_and_what_follows_it_join_the_convolution_s_kernel() -> None:
    b = GraphBuilder()
    x = image(b)
    y = b.emit("add", conv(b, x, 3, "w"), x)
    groups = fuse(rewritten(b.build([conv(b, b.binary("max", y, 0.0), 3, "v")])))
    first = next(g for g in groups if g.kind == "convolution")
    assert [n.op for n in first.nodes] == ["conv_general", "transpose", "add", "max"]
    assert first.outputs[0].type.sizes == (2, 6, 5, 3)


def test_a_sequence_between_convolutions_stays_channels_last() -> None:
    """Transposes of [N, C, L] there and back are the same one, and only the first belongs to the convolution."""
    b = GraphBuilder()
    y = b.emit("reshape", image(b), shape=(2, 3, 30))
    for name, features in (("w", 8), ("v", 4)):
        w = b.parameter(name, RNG.normal(0, 1, (features, y.type.sizes[1], 3)).astype(np.float32))
        y = b.emit(
            "conv_general", y, w, strides=(1,), padding=((1, 1),), lhs_dilation=(1,), rhs_dilation=(1,), groups=1
        )
        y = b.binary("max", y, 0.0)
    first = next(g for g in fuse(rewritten(b.build([y]))) if g.kind == "convolution")
    assert [n.op for n in first.nodes] == ["conv_general", "transpose", "max"]
    assert first.outputs[0].type.sizes == (2, 30, 8)
