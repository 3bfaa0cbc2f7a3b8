"""The reference interpreter: what a graph means, in NumPy, one node after another.

It is the oracle that every backend is compared with, and what constant folding runs. Primitives evaluate as their
records say; composites evaluate through their bodies; regions run when control flow asks for them, so a branch that is
not taken never runs. Results are the same from run to run.

Ownership. Inputs and parameters are read, never written; the arrays that `interpret` returns are the caller's own. An
intermediate value is dropped after its last use. Threads. A call keeps its state to itself: any number may run at once.
Errors. An error raised while a node is evaluated names the node's location in `where`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlx.errors import InterpretError, RLXError, nearest
from rlx.ir import op as ops
from rlx.ir.builder import GraphBuilder
from rlx.ir.graph import Graph, Node, Value
from rlx.ir.specialize import bind_dims, input_dims, specialize
from rlx.ir.types import type_of

#: What NumPy, or a custom call, raises on its own account.
_FOREIGN_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def interpret(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run `graph` on `inputs` (name -> array) and return its outputs (name -> array), in the graph's order.

    Open dimensions take their sizes from the inputs. Raises InterpretError for a missing or unknown input name, and for
    a wrong shape or dtype (both sides shown); IRError where open dimensions are settled in contradiction; and whatever
    an op raises, with the node's location.
    """
    arrays = _checked_names(graph, inputs)
    if input_dims(graph):
        graph = specialize(graph, bind_dims(graph, {name: x.shape for name, x in arrays.items()}))
    for value in graph.inputs:
        given = type_of(arrays[value.name])
        if given != value.type:
            raise InterpretError(f"input {value.name!r} is {given}, graph {graph.name!r} takes {value.type}")
    results = _Run().graph(graph, [arrays[v.name] for v in graph.inputs])
    borrowed = [*arrays.values(), *(p.data for p in graph.parameters)]
    owned: dict[str, np.ndarray] = {}
    for name, array in zip(graph.output_names, results, strict=True):
        owned[name] = array if _is_own(array, [*borrowed, *owned.values()]) else array.copy(order="C")
    return owned


def evaluate_node(node: Node, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The outputs of one node on `arrays`, one for each of its inputs; they may be views of the operands.

    Raises InterpretError where a result has not the type that the node promises, and whatever the op raises, with the
    node's location.
    """
    return _Run().node(node, arrays)


def _checked_names(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    expected = graph.input_types
    for name in inputs:
        if name not in expected:
            close = nearest(name, expected)
            hint = f"did you mean {close!r}?" if close else f"it has: {', '.join(expected) or 'none'}"
            raise InterpretError(f"graph {graph.name!r} has no input named {name!r}", hint=hint)
    missing = [name for name in expected if name not in inputs]
    if missing:
        raise InterpretError(
            f"graph {graph.name!r} needs the input {missing[0]!r}", hint=f"it takes: {', '.join(expected)}"
        )
    return {name: np.asarray(inputs[name]) for name in expected}


def _is_own(array: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    """Whether `array` is nobody else's memory, and laid out as a result should be."""
    flags = array.flags
    if not (flags.owndata and flags.writeable and flags.c_contiguous):
        return False
    return not any(np.may_share_memory(array, other) for other in others)


class _Run:
    """One evaluation: remembers the bodies of composites and the last uses of values, both by node and graph."""

    def __init__(self) -> None:
        self._bodies: dict[Node, Graph] = {}
        self._dying: dict[Graph, list[tuple[Value, ...]]] = {}

    def graph(self, graph: Graph, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        live: dict[Value, np.ndarray] = dict(zip(graph.inputs, arrays, strict=True))
        live.update((p.value, np.asarray(p.data)) for p in graph.parameters)
        for node, dying in zip(graph.nodes, self._last_uses(graph), strict=True):
            live.update(zip(node.outputs, self.node(node, [live[v] for v in node.inputs]), strict=True))
            for value in dying:
                del live[value]
        return tuple(live[v] for v in graph.outputs)

    def node(self, node: Node, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        try:
            results = self._evaluate(node, arrays)
        except RLXError as error:
            if error.where is None:
                error.where = f"at {node.location}, op {node.op}"
            raise
        except _FOREIGN_ERRORS as error:
            raise InterpretError(f"{node.op} failed: {error}", where=f"at {node.location}, op {node.op}") from error
        for i, (array, value) in enumerate(zip(results, node.outputs, strict=True)):
            if type_of(array) != value.type:
                raise InterpretError(
                    f"result {i} of {node.op} is {type_of(array)}, its type rule says {value.type}",
                    where=f"at {node.location}, op {node.op}",
                )
        return results

    def _evaluate(self, node: Node, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        record = ops.get(node.op)
        if record.evaluate is not None:
            return record.evaluate(arrays, node.attrs, ops.RunRegion(node.regions, self.graph))
        body = self._bodies.get(node)
        if body is None:
            body = self._bodies[node] = _body(node)
        return self.graph(body, arrays)

    def _last_uses(self, graph: Graph) -> list[tuple[Value, ...]]:
        """For each node, the values that nothing after it reads."""
        found = self._dying.get(graph)
        if found is None:
            seen = set(graph.outputs)
            found = []
            for node in reversed(graph.nodes):
                dying = tuple(dict.fromkeys(v for v in (*node.inputs, *node.outputs) if v not in seen))
                seen.update(dying)
                found.append(dying)
            found.reverse()
            self._dying[graph] = found
        return found


def _body(node: Node) -> Graph:
    """The body of a composite node as a graph: inputs as the node's, outputs as the node's."""
    builder = GraphBuilder(node.op)
    values = tuple(builder.input(f"operand{i}", v.type) for i, v in enumerate(node.inputs))
    return builder.build(list(ops.expand(builder, node, values)))
