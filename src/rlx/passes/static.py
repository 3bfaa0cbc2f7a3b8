"""Static values: those that depend on parameters and constants alone, so that they are known once weights are bound."""

from __future__ import annotations

from rlx.ir.graph import Graph, Value


def static_values(graph: Graph) -> set[Value]:
    """The static values of `graph`; in a region that takes all it reads as inputs, constants and what they make."""
    static = {p.value for p in graph.parameters}
    for node in graph.nodes:
        if node.op not in ("custom_call", "rng_bits") and static.issuperset(node.inputs):
            static.update(node.outputs)
    return static
