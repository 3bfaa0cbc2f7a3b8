"""Carries an index forward through ops: where the element of an operand ends up in a result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rlx.codegen.lower.affine import ZERO, Index
from rlx.codegen.lower.reader import Reader, reshaped
from rlx.ir.graph import Node, Value
from rlx.ir.op import get


def carry_forward(reader: Reader, nodes: Iterable[Node], index: dict[Value, Index]) -> None:
    """Add to `index` what the outputs of `nodes` are indexed by, for those whose operands are there.

    Pointwise ops keep the index; reshape and transpose change it; a broadcast is left to whoever knows the space.
    """
    for node in nodes:
        known = next((v for v in node.inputs if v in index), None)
        if known is None or node.outputs[0] in index:
            continue
        given = index[known]
        if get(node.op).pointwise:
            index[node.output] = given
        elif node.op == "reshape":
            index[node.output] = reshaped(reader, given, known.type.sizes, node.output.type.sizes)
        elif node.op == "transpose":
            permutation: Any = node.attrs["permutation"]
            index[node.output] = tuple(given[d] for d in permutation)
        elif node.op == "broadcast_in_dim" and known.type.elements == node.output.type.elements:
            dims: Any = node.attrs["broadcast_dims"]
            place = dict(zip(dims, given, strict=True))
            index[node.output] = tuple(place.get(d, ZERO) for d in range(node.output.type.rank))
