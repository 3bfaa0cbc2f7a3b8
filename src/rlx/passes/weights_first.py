"""Products of values with softmax's weights, turned so that the weights stand on the left, as attention is matched.

Models whose queries are pixels keep them last: v [..., D, N] times weights [..., M, N] is [..., D, M]. That is the
transpose of weights times v, sum for sum.
"""

from __future__ import annotations

from typing import Any

from rlx.ir.graph import Graph, Node, Value
from rlx.passes.rewrite import Rewriter, rewrite

_MOVES = frozenset({"reshape", "transpose"})


def weights_first(graph: Graph) -> Graph:
    """`graph` with each product that has weights of a softmax on its right alone turned; itself where none is."""
    return rewrite(graph, _turned)


def _turned(b: Rewriter, node: Node) -> tuple[Value, ...] | None:
    if node.op != "dot_general":
        return None
    x, y = node.inputs
    if not _are_weights(b, y) or _are_weights(b, x):
        return None
    attrs: Any = node.attrs
    sides = {"lhs": "rhs", "rhs": "lhs"}
    swapped = {f"{sides[n[:3]]}{n[3:]}" if n[:3] in sides else n: value for n, value in attrs.items()}
    product = b.emit("dot_general", y, x, **swapped)
    batch, ours = len(attrs["lhs_batch"]), len(attrs["lhs_batch"]) + len(attrs["lhs_contract"])
    left, rank = x.type.rank - ours, product.type.rank
    order = (*range(batch), *range(rank - left, rank), *range(batch, rank - left))
    return (b.emit("transpose", product, permutation=order),)


def _are_weights(b: Rewriter, value: Value) -> bool:
    """Whether `value` is, but for moves, exponentials, or these divided by something."""
    divided = False
    while (node := b.producers.get(value)) is not None:
        if node.op == "exp":
            return True
        if node.op not in _MOVES and (divided or node.op != "div"):
            return False
        divided = divided or node.op == "div"
        value = node.inputs[0]
    return False
