"""Precision policies: what a user may trade for speed, by name, as a change of the graph.

A policy changes products of activations with weights: each `dot_general` of two f32 operands, one of which depends on
parameters and constants alone; bf16 also each `conv_general` of one group with such weights. All else stays as it is:
products of two activations, depthwise and grouped convolutions, norms, the results' dtype. The rewritten graph says
exactly what is computed, so that every backend, and the reference interpreter, gives it the same meaning.

bf16: both operands are rounded to bf16, to nearest even, and summed in f32. What a convolution reads so is rounded for
    all who read it, a residual sum too, unless the graph itself gives it out: it lies in memory once, in half the
    bytes.
    Error: an operand moves by at most 2^-8 of itself (half of bf16's spacing of 2^-7), so a product's sum by at most
    about 2^-7 of the sum of the absolute values of its terms, to which f32 accumulation adds as ever.
int8-dynamic: where the weights are the right operand, each column of theirs and each row of activations is divided by
    its greatest absolute value over 127 and rounded to i8, to nearest even; sums are exact, in i32, and scaled back in
    f32. Rows that hold NaN or infinity give NaN.
    Error: half a step of each operand: a sum of k terms moves by at most about k (|x| / 254 |w| + |w| / 254 |x|), where
    |x| and |w| are the greatest absolute values of its row and its column.
"""

from __future__ import annotations

from typing import Any

from rlx.ir.dtypes import bf16, f32, i8, i32
from rlx.ir.graph import Graph, Node, Value
from rlx.passes.cse import eliminate_common
from rlx.passes.dead import eliminate_dead
from rlx.passes.rewrite import Rewriter, rewrite

#: The largest i8 that steps are counted up to, and the least value that a row's greatest is taken for.
_LARGEST, _LEAST = 127.0, 2.0**-100
#: Ops beneath which rounding moves: whatever computes the value can round it as it stores it.
_VIEWS = frozenset({"reshape", "transpose"})


def apply_precision(graph: Graph, precision: str) -> Graph:
    """`graph`, primitives alone, under the policy of that name ("f32", "bf16"); itself where nothing changes."""
    if precision == "f32":
        return graph
    policy = {"bf16": _Rounder, "int8-dynamic": _Quantizer}[precision]({p.value for p in graph.parameters})
    after = eliminate_dead(eliminate_common(rewrite(graph, policy.visit)))
    return policy.finish(after) if after is not graph else graph


class _Policy:
    """Visits products with weights. static: values that depend on parameters and constants alone."""

    def __init__(self, static: set[Value]) -> None:
        self.static = static

    def product(self, rewriter: Rewriter, node: Node) -> Value | None:
        """What the policy puts in a product's place; None to keep it."""
        raise NotImplementedError

    def convolution(self, rewriter: Rewriter, node: Node) -> Value | None:
        """What the policy puts in the place of a convolution with static weights; None to keep it."""
        return None

    def finish(self, graph: Graph) -> Graph:
        """`graph` once every node was visited."""
        return graph

    def visit(self, rewriter: Rewriter, node: Node) -> tuple[Value, ...] | None:
        static = self.static.issuperset(node.inputs) and node.op != "custom_call" and not node.regions
        if static:
            self.static.update(node.outputs)
        if node.op not in ("dot_general", "conv_general") or static or self.static.isdisjoint(node.inputs):
            return None
        if any(v.type.dtype is not f32 for v in (*node.inputs, node.output)):
            return None
        if node.op == "dot_general":
            found = self.product(rewriter, node)
        else:
            found = self.convolution(rewriter, node) if node.inputs[1] in self.static else None
        return None if found is None else (found,)


def _through_views(rewriter: Rewriter, value: Value, *, keep_last: bool = False) -> tuple[Value, list[Node]]:
    """The value beneath the views that lead to `value`, and these from there on. keep_last: only such views that leave
    the last dimension in its place.
    """
    views: list[Node] = []
    while (node := rewriter.producers.get(value)) is not None and node.op in _VIEWS:
        (below,) = node.inputs
        if keep_last and not _keeps_last(node):
            break
        views.append(node)
        value = below
    return value, views[::-1]


def _keeps_last(view: Node) -> bool:
    before, after = view.inputs[0].type.sizes, view.output.type.sizes
    attrs: Any = view.attrs
    if not before or not after or before[-1] != after[-1] or 0 in before:
        return False
    return view.op == "reshape" or attrs["permutation"][-1] == len(before) - 1


class _Rounder(_Policy):
    def product(self, rewriter: Rewriter, node: Node) -> Value:
        operands = [self._rounded(rewriter, v) for v in node.inputs]
        attrs: Any = {**node.attrs, "preferred_dtype": f32}
        return rewriter.emit(node.op, *operands, **attrs)

    def convolution(self, rewriter: Rewriter, node: Node) -> Value | None:
        return self.product(rewriter, node) if node.attrs["groups"] == 1 else None

    def _rounded(self, rewriter: Rewriter, value: Value) -> Value:
        """`value` in bf16, rounded before the views that lead to it."""
        base, views = _through_views(rewriter, value)
        rounded = rewriter.emit("convert", base, dtype=bf16)
        made = [rounded]
        for view in views:
            attrs: Any = view.attrs
            rounded = rewriter.emit(view.op, rounded, **attrs)
            made.append(rounded)
        if value in self.static:
            self.static.update(made)
        return rounded

    def finish(self, graph: Graph) -> Graph:
        """Round what convolutions read for all who read it."""
        read = {_read_by(graph, node.inputs[0]) for node in graph.nodes if node.op == "conv_general"}
        shared = {v for v in read if v is not None and len(graph.users[v]) > 1 and v not in graph.outputs}

        def visit(rewriter: Rewriter, node: Node) -> tuple[Value, ...] | None:
            if not shared.isdisjoint(node.outputs):
                (made,) = rewriter.emit_many(node.op, *node.inputs, regions=node.regions, **node.attrs)
                return (rewriter.emit("convert", rewriter.emit("convert", made, dtype=bf16), dtype=f32),)
            if node.op != "convert" or node.output.type.dtype is not bf16:
                return None
            widening = rewriter.producers.get(node.inputs[0])
            again = widening is not None and widening.op == "convert" and widening.inputs[0].type.dtype is bf16
            return widening.inputs if again and widening is not None else None

        return eliminate_dead(eliminate_common(rewrite(graph, visit))) if shared else graph


def _read_by(graph: Graph, value: Value) -> Value | None:
    """The f32 value that one node alone makes, and that `value` is a view of in bf16; None where there is none."""
    while (node := graph.producers.get(value)) is not None and node.op in _VIEWS:
        (value,) = node.inputs
    if node is None or node.op != "convert" or node.output.type.dtype is not bf16:
        return None
    (wide,) = node.inputs
    maker = graph.producers.get(wide)
    return wide if wide.type.dtype is f32 and maker is not None and len(maker.outputs) == 1 else None


class _Quantizer(_Policy):
    def product(self, rewriter: Rewriter, node: Node) -> Value | None:
        x, w = node.inputs
        attrs: Any = node.attrs
        if x in self.static or attrs["lhs_batch"] or 0 in (*x.type.sizes, *w.type.sizes) or not attrs["lhs_contract"]:
            return None
        last = attrs["lhs_contract"] == (x.type.rank - 1,)
        base, views = _through_views(rewriter, x, keep_last=True) if last else (x, [])
        whole, step = _quantized(rewriter, base, (base.type.rank - 1,) if last else attrs["lhs_contract"])
        for view in views:
            whole = _viewed(rewriter, view, whole, 0)
            step = _viewed(rewriter, view, step, 1)
        weights, width = _quantized(rewriter, w, attrs["rhs_contract"])
        total = rewriter.emit("dot_general", whole, weights, **{**attrs, "preferred_dtype": i32})
        total = rewriter.emit("convert", total, dtype=f32)
        shape = total.type.sizes
        rows = tuple(range(step.type.rank))
        columns = tuple(range(len(shape) - width.type.rank, len(shape)))
        for scale, dimensions in ((step, rows), (width, columns)):
            spread = rewriter.emit("broadcast_in_dim", scale, shape=shape, broadcast_dims=dimensions)
            total = rewriter.emit("mul", total, spread)
        return total


def _quantized(rewriter: Rewriter, value: Value, dimensions: tuple[int, ...]) -> tuple[Value, Value]:
    """`value` in i8, and its steps: one for all that lies along `dimensions`."""
    most = rewriter.emit("reduce_max", rewriter.emit("abs", value), dimensions=dimensions)
    floor = rewriter.broadcast(rewriter.constant(_LEAST, f32), most.type.shape)
    most = rewriter.emit("max", most, floor)
    full = rewriter.broadcast(rewriter.constant(_LARGEST, f32), most.type.shape)
    kept = tuple(d for d in range(value.type.rank) if d not in dimensions)
    inverse = rewriter.emit("div", full, most)
    spread = rewriter.emit("broadcast_in_dim", inverse, shape=value.type.sizes, broadcast_dims=kept)
    whole = rewriter.emit("convert", rewriter.emit("round", rewriter.emit("mul", value, spread)), dtype=i8)
    return whole, rewriter.emit("div", most, full)


def _viewed(rewriter: Rewriter, view: Node, value: Value, less: int) -> Value:
    """The view of `value`, which lacks the last `less` dimensions of what the view was made for."""
    attrs: Any = view.attrs
    if view.op == "reshape":
        shape = view.output.type.sizes
        return rewriter.emit("reshape", value, shape=shape[: len(shape) - less])
    permutation = attrs["permutation"]
    return rewriter.emit("transpose", value, permutation=permutation[: len(permutation) - less])
