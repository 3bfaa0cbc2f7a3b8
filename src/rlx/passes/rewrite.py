"""How passes build new graphs: walk the old one in order, keep, replace or add nodes, and substitute values.

A `Rewriter` is a `GraphBuilder` that starts with the old graph's inputs and parameters. Nodes that do not change are
shared, and a changed node keeps its output values, so that only replaced values need substitution. Types never change:
replacing a value by one of another type is an IRError. Nothing here recurses over the depth of a graph; regions are
visited one nesting level at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rlx.errors import IRError
from rlx.ir.builder import GraphBuilder
from rlx.ir.graph import Attribute, Graph, Node, Value


class Rewriter(GraphBuilder):
    """Collects the nodes of the new graph and the values that replace old ones."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.name, source=graph.source)
        self.graph = graph
        self._inputs = list(graph.inputs)
        self._parameters = list(graph.parameters)
        self._substitutes: dict[Value, Value] = {}
        self.producers: dict[Value, Node] = {}

    def append(self, node: Node) -> tuple[Value, ...]:
        """Take over a node as it stands; `producers` knows its outputs from here on."""
        for value in node.outputs:
            self.producers[value] = node
        return super().append(node)

    def emit_many(
        self, op: str, *inputs: Value, regions: Sequence[Graph] = (), **attrs: Attribute
    ) -> tuple[Value, ...]:
        """Apply `op`, as a builder does; `producers` knows its outputs from here on."""
        outputs = super().emit_many(op, *inputs, regions=regions, **attrs)
        for value in outputs:
            self.producers[value] = self._nodes[-1]
        return outputs

    def resolve(self, value: Value) -> Value:
        """What `value` of the old graph is in the new one."""
        return self._substitutes.get(value, value)

    def replace(self, old: Value, new: Value) -> None:
        """From here on, uses of `old` become uses of `new`. Raises IRError where the types differ."""
        if old.type != new.type:
            raise IRError(f"a value of type {old.type} cannot be replaced by one of type {new.type}")
        if old is not new:
            self._substitutes[old] = new

    def finish(self) -> Graph:
        """The new graph, with the old one's signature; the old graph itself where nothing changed."""
        outputs = tuple(self.resolve(v) for v in self.graph.outputs)
        old = self.graph
        if (
            len(self._nodes) == len(old.nodes)
            and all(a is b for a, b in zip(self._nodes, old.nodes, strict=True))
            and all(a is b for a, b in zip(outputs, old.outputs, strict=True))
        ):
            return old
        return replace(old, nodes=tuple(self._nodes), outputs=outputs)


#: Looks at a node, its operands substituted already, and returns its replacement values, or None to keep it.
Visit = Callable[[Rewriter, Node], tuple[Value, ...] | None]


def rewrite(graph: Graph, visit: Visit) -> Graph:
    """The graph after `visit` has seen every node in order, inside regions first."""
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        regions = tuple(rewrite(region, visit) for region in node.regions)
        kept = resolved(rewriter, node, regions)
        with rewriter.at(node.location):
            values = visit(rewriter, kept)
        if values is None:
            rewriter.append(kept)
        else:
            for old, new in zip(node.outputs, values, strict=True):
                rewriter.replace(old, new)
    return rewriter.finish()


def resolved(rewriter: Rewriter, node: Node, regions: tuple[Graph, ...]) -> Node:
    """`node` with substituted operands and the given regions; itself where both are the same."""
    inputs = tuple(rewriter.resolve(v) for v in node.inputs)
    if all(a is b for a, b in zip(inputs, node.inputs, strict=True)) and all(
        a is b for a, b in zip(regions, node.regions, strict=True)
    ):
        return node
    return replace(node, inputs=inputs, regions=regions)


def inline_graph(rewriter: GraphBuilder, graph: Graph, arguments: tuple[Value, ...]) -> tuple[Value, ...]:
    """Append the nodes of the closed `graph` applied to `arguments`; fresh values, so that it may happen many times."""
    values: dict[Value, Value] = dict(zip(graph.inputs, arguments, strict=True))
    for node in graph.nodes:
        outputs = tuple(Value(v.type, v.name) for v in node.outputs)
        rewriter.append(replace(node, inputs=tuple(values[v] for v in node.inputs), outputs=outputs))
        values.update(zip(node.outputs, outputs, strict=True))
    return tuple(values[v] for v in graph.outputs)
