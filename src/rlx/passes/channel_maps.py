"""Per-channel maps behind a convolution go into its weights: batch norms above all.

A convolution whose weights are static may be followed by sums, differences and products with static values that are the
same for a whole channel. Such a chain is one map of each channel, y * scale + shift; scale times the weights is
computed once, when weights are bound, and one sum is left of the chain.

This is the one pass that changes how results round: each weight rounds once more, each sum less often. The error
stays within the tolerance of the convolution itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlx.ir.dtypes import f32, f64
from rlx.ir.graph import Graph, Node, Value
from rlx.passes.rewrite import Rewriter, rewrite
from rlx.passes.static import static_values


@dataclass(frozen=True)
class _Step:
    """y becomes `op` of y and the channels' values; reversed: of those and y."""

    op: str
    operand: Value
    reversed: bool


def fold_channel_maps(graph: Graph) -> Graph:
    """`graph` with chains of per-channel maps folded into the convolutions before them; itself where there are none."""
    static = static_values(graph)
    chains: dict[Value, tuple[Node, list[_Step]]] = {}
    for node in graph.nodes:
        if node.op == "conv_general" and node.inputs[1] in static and node.output.type.dtype in (f32, f64):
            last, steps = _chain(graph, node, static)
            if len(steps) > 1 or any(s.op == "mul" for s in steps):
                chains[last] = (node, steps)
    if not chains:
        return graph

    def visit(b: Rewriter, node: Node) -> tuple[Value, ...] | None:
        found = chains.get(node.outputs[0]) if node.outputs else None
        return None if found is None else (_folded(b, *found),)

    return rewrite(graph, visit)


def _chain(graph: Graph, convolution: Node, static: set[Value]) -> tuple[Value, list[_Step]]:
    """The longest chain of maps behind a convolution whose inner results nothing else reads, and its result."""
    value, steps = convolution.output, list[_Step]()
    while True:
        users = graph.users.get(value, ())
        if len(users) != 1 or value in graph.outputs or users[0].op not in ("add", "sub", "mul"):
            return value, steps
        (user,) = users
        left, right = user.inputs
        other = right if left is value else left
        if other not in static or _channels_under(graph.producers, other) is None:
            return value, steps
        steps.append(_Step(user.op, other, right is value))
        value = user.output


def _channels_under(producers: Any, value: Value) -> Value | None:
    """What `value` [N, C, ...] is a broadcast of: a value whose only dimension that is not 1 becomes C."""
    node = producers.get(value)
    if node is None or node.op != "broadcast_in_dim":
        return None
    (x,) = node.inputs
    dims: Any = node.attrs["broadcast_dims"]
    return x if all(n == 1 or d == 1 for n, d in zip(x.type.shape, dims, strict=True)) else None


def _folded(b: Rewriter, convolution: Node, steps: list[_Step]) -> Value:
    x, w = (b.resolve(v) for v in convolution.inputs)
    shape, dtype = convolution.output.type.shape, convolution.output.type.dtype
    features = (shape[1],)
    scale, shift = None, None
    for step in steps:
        found = _channels_under(b.producers, b.resolve(step.operand))
        assert found is not None
        channels = _spread(b, found, features)
        if step.op == "mul":
            scale = channels if scale is None else b.emit("mul", scale, channels)
            shift = None if shift is None else b.emit("mul", shift, channels)
            continue
        if step.reversed and step.op == "sub":
            minus = b.full(features, -1.0, dtype)
            scale = minus if scale is None else b.emit("neg", scale)
            shift = None if shift is None else b.emit("neg", shift)
        elif step.op == "sub":
            channels = b.emit("neg", channels)
        shift = channels if shift is None else b.emit("add", shift, channels)
    if scale is not None:
        w = b.emit("mul", w, b.emit("broadcast_in_dim", scale, shape=w.type.shape, broadcast_dims=(0,)))
    with b.at(convolution.location):
        y = b.emit("conv_general", x, w, **convolution.attrs)
    return y if shift is None else b.emit("add", y, b.emit("broadcast_in_dim", shift, shape=shape, broadcast_dims=(1,)))


def _spread(b: Rewriter, channels: Value, features: tuple[Any, ...]) -> Value:
    """The values of all channels as a vector."""
    if channels.type.elements == 1 and features != (1,):
        flat = b.emit("reshape", channels, shape=()) if channels.type.rank else channels
        return b.broadcast(flat, features)
    return channels if channels.type.shape == features else b.emit("reshape", channels, shape=features)
