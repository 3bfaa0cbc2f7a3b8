"""Names and their values while a model's graph is imported.

A `Scope` binds the names of one ONNX graph to values of one builder. Bodies of control flow see the names around them:
an inlined body (a branch that is taken) shares the builder; a region has its own, and what it reads from outside
becomes an operand (`captures`), except known values, which it knows too. Weights are parameters of the outermost
graph, made when first read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlx.errors import InvalidModel, RLXError, UnknownModelOp, nearest
from rlx.frontends.onnx.node import REQUIRED, AttributeOfCall, DecodedModel, ModelFunction, ModelGraph, ModelNode
from rlx.frontends.onnx.partial import FOLD_LIMIT, PartialBuilder
from rlx.frontends.onnx.site import Outputs, Site, handlers
from rlx.frontends.onnx.upgrade import upgrade
from rlx.ir.graph import Value

#: What Python and NumPy raise for attributes of the wrong kind, missing dimensions and sizes beyond memory.
_FOREIGN_ERRORS = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)
#: Bytes of floating-point data up to which a constant is part of the program; larger ones are parameters.
SMALL_BYTES = 1024


def is_weight(data: np.ndarray) -> bool:
    """Whether `data` becomes a parameter: floats over SMALL_BYTES, or more elements than the import computes with."""
    inexact = data.dtype.kind in "fcV" and data.nbytes > SMALL_BYTES
    return inexact or data.size > FOLD_LIMIT or (data.dtype.itemsize == 1 and data.nbytes > SMALL_BYTES)


class Scope:
    """One ONNX graph's names. `import_graph` fills a scope; a `sealed` one, a function's, sees no names around it."""

    def __init__(
        self, model: DecodedModel, builder: PartialBuilder, outer: Scope | None = None, *, sealed: bool = False
    ) -> None:
        self.model = model
        self.builder = builder
        self.outer = outer
        self.sealed = sealed
        self.names: dict[str, Value] = {}
        self.initializers: Mapping[str, np.ndarray] = {}
        self.captures: dict[Value, Value] = {}

    # -- names -----------------------------------------------------------------------------------------------------

    def bind(self, name: str, value: Value) -> None:
        """`name` means `value` from here on."""
        self.names[name] = value
        if not value.name:
            value.name = name

    def lookup(self, name: str) -> Value:
        """The value of `name`, here or around. Raises InvalidModel where nothing defines it."""
        value = self.names.get(name)
        if value is None:
            if name in self.initializers:
                value = self.weight(name, self.initializers[name])
            elif self.outer is not None and not self.sealed:
                value = self._from_outer(self.outer.lookup(name))
            else:
                raise InvalidModel(f"nothing defines the value {name!r} before it is used")
            self.names[name] = value
        return value

    def weight(self, name: str, data: np.ndarray) -> Value:
        """A constant of the model: a known value where it is small, else a parameter of the outermost graph."""
        if not is_weight(data):
            return self.builder.literal(data, name)
        if self.outer is None:
            return self.builder.parameter(name, data)
        return self._from_outer(self.outer.weight(name, data))

    def _from_outer(self, value: Value) -> Value:
        outer = self.outer
        if outer is None or outer.builder is self.builder:
            return value
        known = outer.builder.known(value)
        if known is not None:
            return self.builder.literal(known, value.name)
        if value not in self.captures:
            self.captures[value] = self.builder.capture(value, outer.builder.data_of(value))
        return self.captures[value]

    def inlined(self) -> Scope:
        """The scope of a body whose nodes go into this builder."""
        return Scope(self.model, self.builder, self)

    def region(self, name: str) -> Scope:
        """The scope of a body that becomes a region of its own."""
        return Scope(self.model, PartialBuilder(name, source=self.builder.source), self)

    def roots(self, value: Value) -> tuple[str, ...]:
        """The model's inputs that `value` is computed from."""
        if self.outer is None:
            return self.builder.roots(value)
        if self.outer.builder is self.builder:
            return self.outer.roots(value)
        inside = set(self.builder.reached(value))
        found = [root for outer, inner in self.captures.items() if inner in inside for root in self.outer.roots(outer)]
        return tuple(dict.fromkeys(found))

    # -- nodes -----------------------------------------------------------------------------------------------------

    def import_graph(self, graph: ModelGraph) -> list[Value]:
        """Import a graph's nodes into this scope, whose inputs are bound already; its outputs' values."""
        self.initializers = graph.initializers
        self.import_nodes(graph.nodes)
        return [self.lookup(name) for name in graph.outputs]

    def import_nodes(self, nodes: Sequence[ModelNode]) -> None:
        """Import nodes in order. Errors name the node they come from."""
        for node in nodes:
            with self.builder.at(node.location):
                results = self._import_checked(node)
                outputs = (results,) if isinstance(results, Value) else results
                for name, value in zip(node.outputs, outputs, strict=False):
                    if name:
                        if value is None:
                            raise InvalidModel(f"{node.full_name} has no rule for its output {name!r}")
                        self.bind(name, value)

    def _import_checked(self, node: ModelNode) -> Outputs:
        """`_import_node`, with Python's own complaints about a node's content turned into InvalidModel."""
        try:
            return self._import_node(node)
        except RLXError:
            raise
        except _FOREIGN_ERRORS as error:
            raise InvalidModel(
                f"{node.full_name} node {node.location.name!r} has operands or attributes that do not fit: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _import_node(self, node: ModelNode) -> Outputs:
        function = self.model.functions.get((node.domain, node.op))
        if function is not None:
            return self._call(function, Site(node, self))
        node = upgrade(node)
        table = handlers()
        handler = table.get((node.domain, node.op))
        if handler is None:
            close = nearest(node.op, [op for domain, op in table if domain == node.domain])
            raise UnknownModelOp(
                f"no rule for op {node.op!r} (domain {node.domain or 'ai.onnx'!r}, opset {node.opset}), "
                f"used by node {node.location.name!r}",
                hint=f"the nearest op with a rule is {close!r}" if close else None,
            )
        return handler(Site(node, self))

    def _call(self, function: ModelFunction, site: Site) -> list[Value | None]:
        """A function of the model, inlined: its body sees its operands alone."""
        body = Scope(self.model, self.builder, self, sealed=True)
        for index, name in enumerate(function.inputs):
            value = site.get(index)
            if value is not None:
                body.bind(name, value)
        given = {**function.attrs, **site.node.attrs}
        for node in function.nodes:
            absent = tuple("" if isinstance(x, str) and x in function.inputs and x not in body.names else x
                           for x in node.inputs)  # fmt: skip
            body.import_nodes([_with_attributes(node, absent, given)])
        return [body.lookup(name) for name in function.outputs]


def _with_attributes(node: ModelNode, inputs: tuple[str | np.ndarray, ...], given: Mapping[str, object]) -> ModelNode:
    """A node of a function's body, with references to the call's attributes filled in."""
    attrs = {}
    for name, value in node.attrs.items():
        if isinstance(value, AttributeOfCall):
            value = given.get(value.name, REQUIRED)
            if value is REQUIRED:
                continue
        attrs[name] = value
    return ModelNode(node.op, node.domain, node.opset, inputs, node.outputs, attrs, node.location)
