"""Common subexpression elimination: nodes of one op, operands, attributes and regions are computed once.

The first of equal nodes stays. Regions are compared by fingerprint; each region is its own scope.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from rlx.ir.fingerprint import fingerprint
from rlx.ir.graph import Attribute, Graph, Node, Value
from rlx.ir.op import get
from rlx.passes.rewrite import Rewriter, rewrite


def eliminate_common(graph: Graph) -> Graph:
    """`graph` with equal nodes merged; itself where there are none."""
    seen: dict[tuple[Rewriter, Hashable], tuple[Value, ...]] = {}  # a rewriter a scope, kept alive by its keys

    def visit(rewriter: Rewriter, node: Node) -> tuple[Value, ...] | None:
        if node.op == "custom_call":
            return None
        key = (rewriter, _key(node))
        found = seen.get(key)
        if found is None:
            seen[key] = node.outputs
        return found

    return rewrite(graph, visit)


def _key(node: Node) -> Hashable:
    inputs = tuple(id(v) for v in node.inputs)
    if get(node.op).commutative:
        inputs = tuple(sorted(inputs))
    attrs = tuple(attribute_key(node.attrs[name]) for name in sorted(node.attrs))
    return (node.op, inputs, attrs, tuple(fingerprint(region) for region in node.regions), _types(node))


def _types(node: Node) -> Hashable:
    return tuple((v.type.shape, v.type.dtype) for v in node.outputs) if not node.inputs else ()


def attribute_key(value: Attribute) -> Hashable:
    """A key that differs whenever type or bits differ: True, 1, 1.0, -0.0 and 0.0 are five values."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, tuple):
        return tuple(attribute_key(v) for v in value)
    if isinstance(value, float):
        return ("float", value.hex())
    return (type(value), value)
