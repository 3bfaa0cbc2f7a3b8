"""A graph in parts that take turns: those that the device runs, and those left to the host.

A part holds nodes of one side whose operands earlier parts give, as many as can stand together: a value crosses between
device and host only where its producer and its reader stand on different sides. Constants belong to every part that
reads them. Where some of the host's nodes depend on weights alone, all that does is in parts that run once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rlx.ir import Graph, Node, Parameter, Value


@dataclass(frozen=True)
class Part:
    """One part: a whole graph of its own.

    once: what it computes depends on weights and constants alone.
    inputs, outputs: for each input and output of `graph`, the name of what it reads or writes in the whole: "inputN",
        "outputN", or "valueN" for what only passes between parts.
    """

    graph: Graph
    on_host: bool
    once: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def partition(graph: Graph, on_host: Collection[Node]) -> tuple[Part, ...]:
    """Parts in the order in which they run. on_host: the nodes that the device cannot run."""
    constants = {node for node in graph.nodes if not node.inputs and node not in on_host}
    once = _once(graph, on_host)
    turns: dict[Node, int] = {}  # the device has the even turns, the host the odd ones
    start = end = 0
    for nodes in ([n for n in graph.nodes if n in once], [n for n in graph.nodes if n not in once]):
        start = end + end % 2
        for node in nodes:
            if node not in constants:
                side = int(node in on_host)
                producers = (graph.producers.get(v) for v in node.inputs)
                first = max((turns[p] for p in producers if p in turns), default=start)
                first = max(first, start)
                turns[node] = first + (first % 2 != side)
        end = max(turns.values(), default=-1) + 1
    return _Cut(graph, constants, turns, start).parts(max(end, start + 1))


def _once(graph: Graph, on_host: Collection[Node]) -> set[Node]:
    """Nodes that depend on weights and constants alone, where the host has some of them; results are made anew."""
    weights, results = {p.value for p in graph.parameters}, set(graph.outputs)
    found: set[Node] = set()
    for node in graph.nodes:
        producers = [graph.producers.get(v) for v in node.inputs if v not in weights]
        known = all(p is not None and (p in found or not p.inputs) for p in producers)
        if node.inputs and node.op != "custom_call" and known and results.isdisjoint(node.outputs):
            found.add(node)
    if found.isdisjoint(on_host):
        return set()
    return found | {p for n in found for v in n.inputs if (p := graph.producers.get(v)) is not None and p in on_host}


class _Cut:
    """start: the first turn of what runs each time."""

    def __init__(self, graph: Graph, constants: Collection[Node], turns: dict[Node, int], start: int) -> None:
        self.graph, self.constants, self.turns, self.start = graph, constants, turns, start
        self.names = {value: f"input{i}" for i, value in enumerate(graph.inputs)}
        self.parameters = {p.value: p for p in graph.parameters}
        for node, turn in turns.items():
            readers = (r for v in node.outputs for r in graph.users.get(v, ()))
            if any(turns[r] != turn for r in readers):
                for value in node.outputs:
                    self.names[value] = f"value{len(self.names)}"

    def parts(self, count: int) -> tuple[Part, ...]:
        cut = [self._part(turn) for turn in range(count)]
        return tuple(part for part in cut if part is not None)

    def _part(self, turn: int) -> Part | None:
        nodes = [node for node in self.graph.nodes if self.turns.get(node) == turn]
        inside = dict.fromkeys(v for node in nodes for v in node.outputs)
        exported = [
            (f"output{i}", value)
            for i, value in enumerate(self.graph.outputs)
            if value in inside or (turn == self.start and self._turn_of(value) is None)
        ]
        exported += [(self.names[v], v) for v in inside if v in self.names and self._crosses(v, turn)]
        if not exported:
            return None
        read = dict.fromkeys([*(v for node in nodes for v in node.inputs), *(v for _, v in exported)])
        copied = [n for n in self.graph.nodes if n in self.constants and any(v in read for v in n.outputs)]
        inside |= dict.fromkeys(v for node in copied for v in node.outputs)
        new: dict[Value, Value] = {}
        inputs, parameters, sources = [], [], []
        for value in read:
            if value in self.parameters:
                new[value] = Value(value.type, value.name)
                parameters.append(Parameter(self.parameters[value].name, new[value], self.parameters[value].data))
            elif value not in inside:
                new[value] = Value(value.type, self.names[value])
                inputs.append(new[value])
                sources.append(self.names[value])
        body = tuple(
            Node(n.op, tuple(new.get(v, v) for v in n.inputs), n.outputs, n.attrs, n.regions, n.location)
            for n in (*copied, *nodes)
        )
        outputs = tuple(new.get(v, v) for _, v in exported)
        names = tuple(name for name, _ in exported)
        name = f"{self.graph.name}.{turn}"
        made = Graph(name, tuple(inputs), tuple(parameters), body, outputs, names, self.graph.source)
        return Part(made, turn % 2 == 1, turn < self.start, tuple(sources), names)

    def _turn_of(self, value: Value) -> int | None:
        producer = self.graph.producers.get(value)
        return None if producer is None else self.turns.get(producer)

    def _crosses(self, value: Value, turn: int) -> bool:
        return any(self.turns[r] != turn for r in self.graph.users.get(value, ()))
