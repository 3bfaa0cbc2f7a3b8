"""Graphs: typed SSA, immutable once built.

A `Graph` has named inputs, named parameters (weights, with their data), nodes in topological order, and named outputs.
A `Value` is defined once: by an input, a parameter or a node; values compare by identity. A `Node` applies one op to
values; control flow carries its bodies as `regions`, which are closed graphs: whatever a body reads comes in as an
operand. Nothing here changes after construction; passes build new graphs (`rlx.ir.builder.GraphBuilder`), sharing
nodes where they can. Threads may share graphs freely.

Parameter data is a NumPy array, often memory-mapped; a graph never copies or writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rlx.ir.dim import Dim
from rlx.ir.dtypes import DType
from rlx.ir.location import UNKNOWN, Location
from rlx.ir.printer import print_graph
from rlx.ir.types import TensorType

#: What an attribute may hold. Arrays appear only as the value of `constant`.
Attribute = int | float | bool | str | DType | Dim | np.ndarray | None | tuple["Attribute", ...]


class Value:
    """One SSA value: a type and, where the source gave one, a name. Identity is equality."""

    __slots__ = ("name", "type")

    def __init__(self, type: TensorType, name: str = "") -> None:
        self.type = type
        self.name = name

    def __repr__(self) -> str:
        return f"%{self.name or hex(id(self))[-5:]}: {self.type}"


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One application of the op named `op`."""

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attrs: Mapping[str, Attribute]
    regions: tuple[Graph, ...] = ()
    location: Location = UNKNOWN

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value


@dataclass(frozen=True, eq=False, slots=True)
class Parameter:
    """A weight: a value whose data the graph brings along."""

    name: str
    value: Value
    data: np.ndarray


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole computation, or the body of a control-flow op.

    inputs: values in order; their names are unique and not empty in a top-level graph.
    outputs: values in order, `output_names` beside them; one value may be several outputs.
    source: what it was made from, for messages; never part of a fingerprint.
    """

    name: str
    inputs: tuple[Value, ...]
    parameters: tuple[Parameter, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...]
    source: str = ""

    @cached_property
    def producers(self) -> Mapping[Value, Node]:
        """The node that defines each value; inputs and parameters are absent."""
        return {out: node for node in self.nodes for out in node.outputs}

    @cached_property
    def users(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read each value, in order, once each; graph outputs do not count as nodes."""
        found: dict[Value, dict[Node, None]] = {}
        for node in self.nodes:
            for value in node.inputs:
                found.setdefault(value, {})[node] = None
        return {value: tuple(nodes) for value, nodes in found.items()}

    @property
    def input_types(self) -> dict[str, TensorType]:
        """Names -> types, in order."""
        return {v.name: v.type for v in self.inputs}

    @property
    def output_types(self) -> dict[str, TensorType]:
        """Names -> types, in order."""
        return {name: v.type for name, v in zip(self.output_names, self.outputs, strict=True)}

    def walk(self) -> Iterator[tuple[Graph, Node]]:
        """Every node with the graph that holds it, regions included, outer before inner."""
        for node in self.nodes:
            yield self, node
            for region in node.regions:
                yield from region.walk()

    def __str__(self) -> str:
        return print_graph(self)
