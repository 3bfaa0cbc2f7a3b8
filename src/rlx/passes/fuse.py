"""Fusion: which values get memory, and which nodes become one kernel.

First, attention is found (`grow_attentions`), and products and convolutions take what follows them (`grow_epilogue`).
Then reductions take all that shares their rows (`grow_rows`). What is left either gets memory, and becomes the root of
an elementwise kernel, or is computed by its readers (`stored_nodes`). Products that share an operand are joined
(`join_products`). Groups come out in an order in which each reads only what earlier ones have written.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

from rlx.errors import LoweringError
from rlx.ir.graph import Graph, Node, Value
from rlx.passes.attention import grow_attentions
from rlx.passes.group import REDUCTIONS, SHAPE_OPS, Group, group_of
from rlx.passes.grow import Neighbourhood, grow_epilogue, grow_rows
from rlx.passes.join import join_products
from rlx.passes.place import stored_nodes


def fuse(
    graph: Graph, *, enabled: bool = True, attention: bool = True, static: frozenset[Value] = frozenset()
) -> tuple[Group, ...]:
    """The groups of `graph`, in order of execution.

    enabled: False makes a group of every node that computes.
    attention: whether attention becomes one group; else it is two products and a softmax.
    static: values that are known once parameters are: they share no group with others.
    """
    if not enabled:
        outputs = set(graph.outputs)
        alone = [n for n in graph.nodes if n.op not in SHAPE_OPS or not outputs.isdisjoint(n.outputs)]
        return tuple(_ordered(graph, [group_of(node) for node in alone])[0])
    near = Neighbourhood(graph, static)
    groups = grow_attentions(near) if attention else []
    products = (n for n in graph.nodes if n.op in ("dot_general", "conv_general") and n not in near.grouped)
    groups += [grow_epilogue(near, n) for n in products]
    groups += [grow_rows(near, n) for n in graph.nodes if n.op in REDUCTIONS and n not in near.grouped]
    apart: set[Node] = set()
    while True:
        grouped = {node: i for i, group in enumerate(groups) for node in group.nodes}
        stored = stored_nodes(graph, grouped, groups, static)
        joined = join_products(graph, groups, static, frozenset(apart))
        ordered, stuck = _ordered(graph, joined + [group_of(node) for node in graph.nodes if node in stored])
        if not stuck:
            return tuple(ordered)
        parted = {part.nodes[0] for group in stuck for part in group.parts}
        if parted:
            apart |= parted
        else:
            groups = _dissolved(groups, stuck)


def _ordered(graph: Graph, groups: list[Group]) -> tuple[list[Group], set[Group]]:
    """The groups in order, with what each inlines; and those that wait for each other in a circle."""
    maker: dict[Value, int] = {v: i for i, group in enumerate(groups) for v in group.outputs}
    position = {node: i for i, node in enumerate(graph.nodes)}
    waits: list[set[int]] = []
    inlined: list[tuple[Node, ...]] = []
    for i, group in enumerate(groups):
        members = set(group.nodes)
        seen: dict[Node, None] = {}
        needs: set[int] = set()
        queue = [v for node in group.nodes for v in node.inputs]
        while queue:
            value = queue.pop()
            node = graph.producers.get(value)
            if node is None or node in members:
                continue
            if value in maker:
                needs.add(maker[value])
            elif node not in seen:
                seen[node] = None
                queue.extend(node.inputs)
        waits.append(needs - {i})
        inlined.append(tuple(sorted(seen, key=position.__getitem__)))
    followers: list[list[int]] = [[] for _ in groups]
    for i, needs in enumerate(waits):
        for j in needs:
            followers[j].append(i)
    ready = [(position[g.nodes[0]], i) for i, g in enumerate(groups) if not waits[i]]
    heapq.heapify(ready)
    missing = [len(needs) for needs in waits]
    result: list[Group] = []
    done: set[int] = set()
    while ready:
        _, i = heapq.heappop(ready)
        done.add(i)
        result.append(replace(groups[i], inlined=inlined[i]))
        for j in followers[i]:
            missing[j] -= 1
            if missing[j] == 0:
                heapq.heappush(ready, (position[groups[j].nodes[0]], j))
    return result, {g for i, g in enumerate(groups) if i not in done}


def _dissolved(groups: list[Group], stuck: set[Group]) -> list[Group]:
    """The groups without the largest of those that wait for each other; its product or reduction stays, alone."""
    largest = max((g for g in groups if g in stuck), key=lambda g: len(g.nodes), default=None)
    if largest is None or len(largest.nodes) == 1:
        raise LoweringError("groups wait for each other: the graph's nodes are not in order")
    seeds = [n for n in largest.nodes if n.op in REDUCTIONS or n.op in ("dot_general", "conv_general")]
    return [g for g in groups if g is not largest] + [group_of(n) for n in seeds]
