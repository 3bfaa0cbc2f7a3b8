"""Products of values with softmax's weights, turned so that the weights stand on the left, as attention is matched.

Models whose queries are pixels keep them last: v [..., D, N] times weights [..., M, N] is [..., D, M]. That is the
transpose of weights times v, sum for sum.
"""

from __future__ import annotations

from typing import Any

from rlx.ir.graph import Graph, Node, Value
from rlx.passes.rewrite import Rewriter, rewrite

_MOVES = frozenset({"reshape", "transpose"})
#: What brings a row's largest score back to each of its scores, guarded against rows of -inf (select) or not.
_SPREADS = _MOVES | {"broadcast_in_dim", "select"}


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
    product = b.emit(
        "dot_general", y, x, lhs_contract=attrs["rhs_contract"], rhs_contract=attrs["lhs_contract"],
        lhs_batch=attrs["rhs_batch"], rhs_batch=attrs["lhs_batch"], preferred_dtype=attrs["preferred_dtype"],
    )  # fmt: skip
    batch, ours = len(attrs["lhs_batch"]), len(attrs["lhs_batch"]) + len(attrs["lhs_contract"])
    left, rank = x.type.rank - ours, product.type.rank
    order = (*range(batch), *range(rank - left, rank), *range(batch, rank - left))
    return (b.emit("transpose", product, permutation=order),)


def _are_weights(b: Rewriter, value: Value) -> bool:
    """Whether `value` is, but for moves, what a softmax divides by its rows' sums, or has divided."""
    node = _maker(b, value, _MOVES)
    if node is not None and node.op == "div":
        node = _maker(b, node.inputs[0], _MOVES)
    if node is None or node.op != "exp":
        return False
    shifted = b.producers.get(node.inputs[0])
    if shifted is None or shifted.op != "sub":
        return False
    largest = _maker(b, shifted.inputs[1], _SPREADS)
    return largest is not None and largest.op == "reduce_max"


def _maker(b: Rewriter, value: Value, ops: frozenset[str]) -> Node | None:
    """The node that `value` comes from by way of the last operands of `ops`."""
    node = b.producers.get(value)
    while node is not None and node.op in ops:
        node = b.producers.get(node.inputs[-1])
    return node
