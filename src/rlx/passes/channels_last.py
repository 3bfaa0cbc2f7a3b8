"""Layout: values between convolutions lie channels last, [N, ..., C], where the backend computes them so.

The graph says so with transposes. A convolution that the backend takes gets one behind it, and another that undoes it;
whatever can work on the transposed value (pointwise ops, pooling, reductions, padding, slices, concatenations) does,
and the second transpose moves behind it. At the end transposes are left where the layouts meet, and nothing reads most
of them. Values keep their bits, but for sums of transposed convolutions, which leave out zeros. A depthwise convolution
is taken only where its image lies channels last already: it does too little with each element to be worth bringing them
into another order.

A model has transposes of its own. Behind a value that lies channels last they meet the pass's and cancel. But a
sequence [N, L, C] that a model once transposed from [N, C, L] is no image: nothing moves behind such a transpose of
three dimensions, or all that the sequence is added to would have to follow. One of four or more is a layout's.

No simplification may follow: it would cancel the pairs that say how values lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from rlx.ir.graph import Graph, Node, Value
from rlx.passes.cse import eliminate_common
from rlx.passes.dead import eliminate_dead
from rlx.passes.group import REDUCTIONS, WINDOWS, is_pointwise
from rlx.passes.rewrite import Rewriter, rewrite
from rlx.passes.static import static_values
from rlx.passes.transposed_conv import as_convolution, is_transposed

#: Ops with one attribute entry a dimension, and those attributes.
_BY_DIMENSION = {
    "pad": ("low", "high", "interior"),
    "slice": ("starts", "limits", "strides"),
    **dict.fromkeys(WINDOWS, ("window", "strides", "padding", "base_dilation", "window_dilation")),
}


def channels_last(graph: Graph, takes: Callable[[Node], bool]) -> Graph:
    """`graph` with what follows the convolutions that `takes` accepts in channels-last order; itself where none is.

    takes: asked for each convolution with static weights.
    """
    static = static_values(graph)
    taken = {
        node.output for node in graph.nodes if node.op == "conv_general" and node.inputs[1] in static and takes(node)
    }
    if not taken:
        return graph

    return eliminate_dead(eliminate_common(rewrite(graph, _Layout(static, taken).visit)))


def _is_depthwise(node: Node) -> bool:
    groups: Any = node.attrs["groups"]
    return groups > 1 and groups == node.inputs[0].type.sizes[1]


def _order(rank: int) -> tuple[int, ...]:
    """Where each dimension of [N, ..., C] comes from in [N, C, ...]."""
    return (0, *range(2, rank), 1)


def _undo(rank: int) -> tuple[int, ...]:
    """Where each dimension of [N, C, ...] comes from in [N, ..., C]."""
    return (0, rank - 1, *range(1, rank - 1))


def _under(b: Rewriter, value: Value) -> Value | None:
    """The channels-last value that `value` is a view of; None where it lies otherwise."""
    node = b.producers.get(value)
    rank = value.type.rank
    if node is None or node.op != "transpose" or rank < 3 or node.attrs["permutation"] != _undo(rank):
        return None
    return node.inputs[0]


def _transposed(b: Rewriter, value: Value) -> Value:
    """`value` [N, C, ...] as [N, ..., C]; what is broadcast stays broadcast."""
    found = _under(b, value)
    if found is not None:
        return found
    order = _order(value.type.rank)
    node = b.producers.get(value)
    if node is None or node.op != "broadcast_in_dim":
        return b.emit("transpose", value, permutation=order)
    (x,) = node.inputs
    dims: Any = node.attrs["broadcast_dims"]
    places = [order.index(d) for d in dims]
    ascending = tuple(sorted(range(len(places)), key=places.__getitem__))
    if ascending != tuple(range(len(places))):
        x = b.emit("transpose", x, permutation=ascending)
    shape = tuple(value.type.shape[d] for d in order)
    return b.emit("broadcast_in_dim", x, shape=shape, broadcast_dims=tuple(sorted(places)))


class _Layout:
    """One rewrite. own: the transposes [N, ..., C] -> [N, C, ...] that it has made."""

    def __init__(self, static: AbstractSet[Value], taken: AbstractSet[Value]) -> None:
        self._static, self._taken = static, taken
        self._own: set[Value] = set()

    def visit(self, b: Rewriter, node: Node) -> tuple[Value, ...] | None:
        if not node.outputs or node.outputs[0] in self._static:
            return None
        if node.outputs[0] in self._taken:
            if _is_depthwise(node) and _under(b, node.inputs[0]) is None:
                return None
            if is_transposed(node):
                return (self._first(b, as_convolution(b, node)),)
            y = b.emit(node.op, *node.inputs, **node.attrs)
            return (self._first(b, _transposed(b, y)),)
        rule = self._rule(node)
        value = None if rule is None else rule(b, node)
        return None if value is None else (value,)

    def _first(self, b: Rewriter, value: Value) -> Value:
        """[N, ..., C] seen as [N, C, ...]."""
        seen = b.emit("transpose", value, permutation=_undo(value.type.rank))
        self._own.add(seen)
        return seen

    def _lies_so(self, b: Rewriter, value: Value) -> bool:
        """Whether what is computed of `value` should lie channels last, as it does."""
        return value in self._own or (value.type.rank > 3 and _under(b, value) is not None)

    def _rule(self, node: Node) -> Callable[[Rewriter, Node], Value | None] | None:
        if len(node.outputs) != 1 or (node.output.type.rank < 3 and node.op not in (*REDUCTIONS, "reshape")):
            return None
        if node.op in _BY_DIMENSION:
            return self._by_dimension
        if node.op in REDUCTIONS:
            return _reduction
        rules = {"concatenate": self._concatenation, "transpose": self._transpose, "reshape": self._reshape}
        return rules.get(node.op, self._pointwise if is_pointwise(node) else None)

    def _pointwise(self, b: Rewriter, node: Node) -> Value | None:
        if not any(self._lies_so(b, v) for v in node.inputs) or any(v.type.rank < 3 for v in node.inputs):
            return None
        return self._first(b, b.emit(node.op, *(_transposed(b, v) for v in node.inputs), **node.attrs))

    def _by_dimension(self, b: Rewriter, node: Node) -> Value | None:
        x, *others = node.inputs
        found = _under(b, x)
        if found is None or not self._lies_so(b, x):
            return None
        order = _order(x.type.rank)
        attrs = {name: _reordered(node.attrs[name], order) for name in _BY_DIMENSION[node.op]}
        return self._first(b, b.emit(node.op, found, *others, **{**node.attrs, **attrs}))

    def _concatenation(self, b: Rewriter, node: Node) -> Value | None:
        """Where most of what is joined lies channels last."""
        elements = sum(v.type.elements for v in node.inputs if self._lies_so(b, v))
        if 2 * elements <= node.output.type.elements:
            return None
        dimension: Any = node.attrs["dimension"]
        parts = [_transposed(b, v) for v in node.inputs]
        joined = b.emit("concatenate", *parts, dimension=_order(node.output.type.rank).index(dimension))
        return self._first(b, joined)

    def _transpose(self, b: Rewriter, node: Node) -> Value | None:
        """A model's own transpose of what lies channels last: of that as it lies, or nothing at all."""
        (x,) = node.inputs
        if x not in self._own:
            return None
        permutation: Any = node.attrs["permutation"]
        found, undo = b.producers[x].inputs[0], _undo(x.type.rank)
        joint = tuple(undo[d] for d in permutation)
        return found if joint == tuple(range(x.type.rank)) else b.emit("transpose", found, permutation=joint)

    def _reshape(self, b: Rewriter, node: Node) -> Value | None:
        """Where batch and channels stay dimensions of their own: [N, C, H, W] as [N, C, H * W], or the reverse."""
        (x,) = node.inputs
        sizes = node.output.type.shape
        if x not in self._own or len(sizes) < 2 or sizes[:2] != x.type.shape[:2]:
            return None
        y = b.emit("reshape", b.producers[x].inputs[0], shape=(sizes[0], *sizes[2:], sizes[1]))
        return self._first(b, y) if len(sizes) > 2 else y


def _reordered(values: Any, order: Sequence[int]) -> tuple[Any, ...]:
    return tuple(values[d] for d in order)


def _reduction(b: Rewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    found = _under(b, x)
    if found is None:
        return None
    order, dimensions = _order(x.type.rank), node.attrs["dimensions"]
    assert isinstance(dimensions, tuple)
    reduced = b.emit(node.op, found, dimensions=tuple(order.index(d) for d in dimensions))
    left = [d for d in order if d not in dimensions]
    back = tuple(left.index(d) for d in sorted(left))
    return reduced if back == tuple(range(len(back))) else b.emit("transpose", reduced, permutation=back)
