"""Which values get memory, beyond those that grown groups store: the rest is computed by whoever reads it.

Values are judged from the last to the first, so that all the kernels in which one would be computed are known. A value
is stored when it must be (it is an output, or an op reads it as memory), or when computing it again would cost more:
an expensive op that several kernels, or a broadcast, would repeat; a cheap one with more bytes of operands than of its
own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlx.ir.graph import Graph, Node, Value
from rlx.passes.group import EXPENSIVE, SHAPE_OPS, VIEW_OPS, WINDOWS, Group, kind_of

#: Bounds on what one element's expression may contain: nested ops, and values read from memory.
DEEPEST = 32
MOST_LEAVES = 14
#: Kinds whose operands are read as memory, seen through views, not element by element.
_READ_WHOLE = frozenset({"contraction", "convolution", "cond", "while_loop"})


def stored_nodes(
    graph: Graph, grouped: Mapping[Node, int], groups: Sequence[Group], static: frozenset[Value]
) -> set[Node]:
    """The ungrouped nodes whose outputs get memory: each becomes the root of a kernel."""
    outputs = set(graph.outputs)
    cost = _Cone(graph, grouped)
    uses: dict[Value, dict[object, float]] = {}
    whole: set[Value] = set()
    stored: set[Node] = set()

    def use(value: Value, kernel: object, times: float) -> None:
        kernels = uses.setdefault(value, {})
        kernels[kernel] = kernels.get(kernel, 0.0) + times

    for node in reversed(graph.nodes):
        if node in grouped:
            group = groups[grouped[node]]
            for place, value in enumerate(node.inputs):
                if kind_of(node) in _READ_WHOLE:
                    whole.add(value)
                use(value, group, _ratio(node, value, place))
            continue
        value = node.outputs[0]
        alone = kind_of(node) != "elementwise"
        if node.op in SHAPE_OPS:
            root = bool(outputs & set(node.outputs))
        else:
            root = (
                alone
                or bool(outputs & set(node.outputs))
                or value in whole
                or _worth_storing(node, uses.get(value, {}), cost)
                or _ends_static(graph, node, static, cost)
            )
        if root:
            stored.add(node)
        if alone:
            for place, operand in enumerate(node.inputs):
                if _reads_whole(node, place):
                    whole.add(operand)
                use(operand, node, _ratio(node, operand, place))
        elif root:
            for place, operand in enumerate(node.inputs):
                use(operand, node, _ratio(node, operand, place))
        else:
            for place, operand in enumerate(node.inputs):
                for kernel, times in uses.get(value, {}).items():
                    use(operand, kernel, times * _ratio(node, operand, place))
                if value in whole and node.op in VIEW_OPS:
                    whole.add(operand)
    _bound_depth(graph, grouped, stored)
    return stored


def _reads_whole(node: Node, place: int) -> bool:
    kind = kind_of(node)
    if kind in _READ_WHOLE:
        return True
    if kind == "sort":
        keys: Any = node.attrs["num_keys"]
        return place < keys
    return kind in ("update", "scatter") and place == 0


def _ratio(node: Node, operand: Value, place: int) -> float:
    """How often each element of `operand` is read to compute every output of `node` once."""
    made = max((v.type.elements for v in node.outputs), default=0)
    if node.op in WINDOWS:
        window: Any = node.attrs["window"]
        made *= math.prod(window)
    elif node.op.startswith("reduce_") or node.op in ("cond", "while_loop", "sort", "dot_general", "conv_general"):
        return 1.0
    elif node.op == "scatter" and place == 1:
        made = node.inputs[2].type.elements
    return max(1.0, made / operand.type.elements) if operand.type.elements else 1.0


def _worth_storing(node: Node, kernels: Mapping[object, float], cost: _Cone) -> bool:
    value = node.outputs[0]
    times = sum(kernels.values())
    operations, leaves = cost.of(value)
    if value.type.elements <= 4 and operations < 40:
        return False
    if node.op in EXPENSIVE or node.op in WINDOWS:
        return times > 1.2
    if node.op == "gather":
        return times > 1.5
    if node.op == "dynamic_slice":
        return False
    if times >= 4 and operations >= 6:
        return True
    return len(kernels) >= 2 and (leaves >= 2 or (len(kernels) >= 3 and operations >= 8))


def _ends_static(graph: Graph, node: Node, static: frozenset[Value], cost: _Cone) -> bool:
    """Whether `node` is the last that can run in setup, and is more than arithmetic on positions."""
    value = node.outputs[0]
    if value not in static:
        return False
    operations, leaves = cost.of(value)
    if not leaves and operations < 10:
        return False
    queue = list(graph.users.get(value, ()))
    while queue:
        user = queue.pop()
        if user.outputs[0] not in static:
            return True
        if user.op in VIEW_OPS:
            queue.extend(graph.users.get(user.outputs[0], ()))
    return False


class _Cone:
    """Operations and distinct memory leaves of each value's expression, both roughly and with a cap."""

    def __init__(self, graph: Graph, grouped: Mapping[Node, int]) -> None:
        self._found: dict[Value, tuple[int, int]] = {}
        for node in graph.nodes:
            if node in grouped or (kind_of(node) != "elementwise"):
                continue
            operations = 0 if node.op in SHAPE_OPS else 12 if node.op in EXPENSIVE else 1
            leaves = 0
            for value in dict.fromkeys(node.inputs):
                o, n = self.of(value)
                operations += o
                leaves += n
            found = (min(operations, 1000), min(leaves, 1000))
            if node.op == "constant":
                found = (0, int(node.outputs[0].type.elements > 1))
            self._found.update(dict.fromkeys(node.outputs, found))

    def of(self, value: Value) -> tuple[int, int]:
        return self._found.get(value, (0, int(value.type.elements > 1)))


def _bound_depth(graph: Graph, grouped: Mapping[Node, int], stored: set[Node]) -> None:
    """Store more values where expressions would become too deep or read too many others."""
    depth: dict[Value, int] = {}
    leaves: dict[Value, frozenset[Value]] = {}
    for node in graph.nodes:
        if node in grouped or kind_of(node) != "elementwise":
            continue
        inside = dict.fromkeys(node.inputs)
        reach = 1 + max((depth.get(v, 0) for v in inside), default=0)
        read: frozenset[Value] = frozenset()
        for v in inside:
            read |= leaves.get(v, frozenset((v,)))
        deep = reach > DEEPEST or len(read) > MOST_LEAVES
        if deep and node.op not in SHAPE_OPS:
            stored.add(node)
        if node in stored:
            continue
        for v in node.outputs:
            depth[v] = reach
            leaves[v] = read
