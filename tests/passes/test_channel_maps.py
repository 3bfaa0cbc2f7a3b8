"""Per-channel maps behind a convolution go into its weights, and nothing else does."""

from __future__ import annotations

import numpy as np

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.ir.graph import Graph, Value
from rlx.ir.interpret import interpret
from rlx.ir.verify import verify
from rlx.passes import optimize
from rlx.passes.channel_maps import fold_channel_maps

SHAPE = (1, 6, 5, 4)
RNG = np.random.default_rng(7)


def convolved(b: GraphBuilder) -> Value:
    x = b.input("x", TensorType((1, 3, 5, 4), f32))
    w = b.parameter("w", RNG.normal(0, 1, (6, 3, 3, 3)).astype(np.float32))
    attrs = {
        "strides": (1, 1),
        "padding": ((1, 1), (1, 1)),
        "lhs_dilation": (1, 1),
        "rhs_dilation": (1, 1),
        "groups": 1,
    }
    return b.emit("conv_general", x, w, **attrs)


def channels(b: GraphBuilder, name: str) -> Value:
    values = b.parameter(name, RNG.normal(0, 1, 6).astype(np.float32))
    return b.emit("broadcast_in_dim", values, shape=SHAPE, broadcast_dims=(1,))


def check(graph: Graph, after: Graph) -> None:
    verify(after)
    given = {"x": RNG.normal(0, 1, (1, 3, 5, 4)).astype(np.float32)}
    np.testing.assert_allclose(interpret(after, given)["out0"], interpret(graph, given)["out0"], atol=2e-5)


def after_convolution(graph: Graph) -> list[str]:
    """The ops that depend on the input."""
    moving = set(graph.inputs)
    ops = []
    for node in graph.nodes:
        if not moving.isdisjoint(node.inputs):
            moving.update(node.outputs)
            ops.append(node.op)
    return ops


def test_a_batch_norm_leaves_one_sum() -> None:
    b = GraphBuilder()
    vectors = [b.parameter(n, RNG.uniform(0.5, 2, 6).astype(np.float32)) for n in ("scale", "bias", "mean", "var")]
    graph = b.build([b.emit("batch_norm", convolved(b), *vectors, epsilon=1e-5, axis=1)])
    after = optimize(graph)
    assert after_convolution(after) == ["conv_general", "add"]
    check(optimize(graph, level=0), after)


def test_every_op_and_side_of_a_chain_is_kept() -> None:
    b = GraphBuilder()
    y = b.emit("sub", channels(b, "a"), convolved(b))
    y = b.emit("mul", b.broadcast(b.constant(0.5, f32), SHAPE), y)
    y = b.emit("sub", y, channels(b, "c"))
    y = b.emit("mul", y, channels(b, "d"))
    graph = b.build([b.emit("sub", b.emit("add", channels(b, "e"), y), channels(b, "f"))])
    after = optimize(graph)
    assert after_convolution(after) == ["conv_general", "add"]
    check(graph, after)


def test_a_sum_alone_and_values_that_others_read_stay() -> None:
    b = GraphBuilder()
    y = convolved(b)
    summed = b.emit("add", y, channels(b, "a"))
    graph = b.build([summed, b.emit("mul", summed, channels(b, "b"))])
    assert fold_channel_maps(graph) is graph


def test_maps_that_differ_within_a_channel_or_depend_on_inputs_stay() -> None:
    b = GraphBuilder()
    rows = b.emit("broadcast_in_dim", b.parameter("rows", np.ones(5, np.float32)), shape=SHAPE, broadcast_dims=(2,))
    given = b.emit("broadcast_in_dim", b.input("given", TensorType((6,), f32)), shape=SHAPE, broadcast_dims=(1,))
    graph = b.build([b.emit("mul", b.emit("mul", convolved(b), rows), given)])
    assert fold_channel_maps(graph) is graph
