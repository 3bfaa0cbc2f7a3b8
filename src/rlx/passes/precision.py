"""Precision policies: what a user may trade for speed, by name, as a change of the graph.

bf16: every product of activations with weights (a `dot_general` of two f32 operands, one of which depends on
parameters and constants alone) takes both operands rounded to bf16, to nearest even, and sums in f32. All else stays
as it is: products of two activations, convolutions, norms, the results' dtype. The rewritten graph says exactly this in
`convert` ops, so that every backend, and the reference interpreter, gives it the same meaning.

Error: an operand moves by at most 2^-8 of itself (half of bf16's spacing of 2^-7), so a product's sum by at most about
2^-7 of the sum of the absolute values of its terms, to which f32 accumulation adds as ever.
"""

from __future__ import annotations

from rlx.ir.dtypes import bf16, f32
from rlx.ir.graph import Graph, Node, Value
from rlx.passes.cse import eliminate_common
from rlx.passes.dead import eliminate_dead
from rlx.passes.rewrite import Rewriter, rewrite

#: Ops beneath which rounding moves: whatever computes the value can round it as it stores it.
_VIEWS = frozenset({"reshape", "transpose"})


def apply_precision(graph: Graph, precision: str) -> Graph:
    """`graph`, primitives alone, under the policy of that name ("f32", "bf16"); itself where nothing changes."""
    if precision == "f32":
        return graph
    rounder = _Rounder({parameter.value for parameter in graph.parameters})
    return eliminate_dead(eliminate_common(rewrite(graph, rounder.visit)))


class _Rounder:
    """Rounds the operands of products with weights. static: values that depend on parameters and constants alone."""

    def __init__(self, static: set[Value]) -> None:
        self.static = static

    def visit(self, rewriter: Rewriter, node: Node) -> tuple[Value, ...] | None:
        static = self.static.issuperset(node.inputs) and node.op != "custom_call" and not node.regions
        if static:
            self.static.update(node.outputs)
        if node.op != "dot_general" or static or self.static.isdisjoint(node.inputs):
            return None
        if any(v.type.dtype is not f32 for v in (*node.inputs, node.output)):
            return None
        operands = [self._rounded(rewriter, v) for v in node.inputs]
        return (rewriter.emit("dot_general", *operands, **{**node.attrs, "preferred_dtype": f32}),)

    def _rounded(self, rewriter: Rewriter, value: Value) -> Value:
        """`value` in bf16, rounded before the views that lead to it."""
        views: list[Node] = []
        base = value
        while (node := rewriter.producers.get(base)) is not None and node.op in _VIEWS:
            views.append(node)
            (base,) = node.inputs
        rounded = rewriter.emit("convert", base, dtype=bf16)
        made = [rounded]
        for node in reversed(views):
            rounded = rewriter.emit(node.op, rounded, **node.attrs)
            made.append(rounded)
        if value in self.static:
            self.static.update(made)
        return rounded
