"""Composites become their bodies, unless the backend claims them by name.

Bodies may use composites again: these are inlined or left likewise. `dispatch_report` says for each composite of a
graph which way it goes, before anything is changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlx.ir.graph import Attribute, Graph, Node, Value
from rlx.ir.op import complete_attrs, get
from rlx.passes.rewrite import Rewriter, resolved


def inline_composites(graph: Graph, claimed: frozenset[str] = frozenset()) -> Graph:
    """`graph` in primitives and claimed composites alone, inside regions too."""
    rewriter = _Inliner(graph, claimed)
    for node in graph.nodes:
        regions = tuple(inline_composites(region, claimed) for region in node.regions)
        node = resolved(rewriter, node, regions)
        if not rewriter.inlines(node.op):
            rewriter.append(node)
            continue
        with rewriter.at(node.location):
            values = rewriter.expand(node)
        for old, new in zip(node.outputs, values, strict=True):
            rewriter.replace(old, new)
    return rewriter.finish()


def dispatch_report(graph: Graph, claimed: frozenset[str] = frozenset()) -> tuple[tuple[str, str, str], ...]:
    """(composite, location, "native" or "inlined") for each composite node of `graph`, regions included, in order."""
    return tuple(
        (node.op, str(node.location), "native" if node.op in claimed else "inlined")
        for _, node in graph.walk()
        if get(node.op).is_composite
    )


class _Inliner(Rewriter):
    """Emitting an unclaimed composite emits its body instead: composites within composites need nothing more."""

    def __init__(self, graph: Graph, claimed: frozenset[str]) -> None:
        super().__init__(graph)
        self.claimed = claimed

    def inlines(self, op: str) -> bool:
        return get(op).is_composite and op not in self.claimed

    def expand(self, node: Node) -> tuple[Value, ...]:
        body = get(node.op).expand
        assert body is not None
        return body(self, node.inputs, node.attrs)

    def emit_many(
        self, op: str, *inputs: Value, regions: Sequence[Graph] = (), **attrs: Attribute
    ) -> tuple[Value, ...]:
        """As a builder's; bodies that emit control flow get its regions inlined as well."""
        if self.inlines(op):
            record = get(op)
            assert record.expand is not None
            return record.expand(self, inputs, complete_attrs(record, attrs))
        inlined = tuple(inline_composites(region, self.claimed) for region in regions)
        return super().emit_many(op, *inputs, regions=inlined, **attrs)
