"""Growing groups: from a product along its epilogue, from a reduction over everything that shares its rows.

A group stays convex: no path leaves it and comes back. Growth visits the users of members in graph order; a node that
does not join taints what depends on it, and nothing tainted may join.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rlx.ir.graph import Graph, Node, Value
from rlx.passes.group import EXPENSIVE, REDUCTIONS, Group, is_pointwise, kind_of

#: Members of one group at most: bounds the depth of its expressions.
LARGEST_GROUP = 40


@dataclass
class Neighbourhood:
    """What growth needs to know of a graph: positions, users, what is grouped already, what is static."""

    graph: Graph
    static: frozenset[Value]
    position: dict[Node, int] = field(init=False)
    outputs: set[Value] = field(init=False)
    grouped: set[Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.position = {node: i for i, node in enumerate(self.graph.nodes)}
        self.outputs = set(self.graph.outputs)

    def users(self, value: Value) -> tuple[Node, ...]:
        return self.graph.users.get(value, ())

    def used_outside(self, value: Value, members: set[Node]) -> bool:
        """Whether an output of the graph, or a node that is no member, reads `value`."""
        return value in self.outputs or any(u not in members for u in self.users(value))


#: Asks whether a node may join; it may look at members so far.
Joins = Callable[[Node], bool]


def grow_forward(
    near: Neighbourhood, seeds: Iterable[Value], members: list[Node], joins: Joins, joined: Callable[[Node], bool]
) -> None:
    """Add users of `seeds` and of what joins, in graph order; `joined` hears of each and says whether to go on."""
    inside: set[Value] = set(seeds)
    inside_nodes = set(members)
    tainted: set[Value] = set()
    queue: list[int] = []
    queued: set[int] = set()
    waiting: set[int] = set()  # queued users of members: growth ends when there are none
    nodes = near.graph.nodes

    def push(value: Value, direct: bool) -> None:
        for user in near.users(value):
            place = near.position[user]
            if user in inside_nodes:
                continue
            if place not in queued:
                queued.add(place)
                heapq.heappush(queue, place)
            if direct:
                waiting.add(place)

    for value in inside:
        push(value, True)
    while waiting and len(members) < LARGEST_GROUP:
        place = heapq.heappop(queue)
        waiting.discard(place)
        node = nodes[place]
        free = node not in near.grouped and tainted.isdisjoint(node.inputs)
        if free and not inside.isdisjoint(node.inputs) and joins(node):
            members.append(node)
            inside_nodes.add(node)
            inside.update(node.outputs)
            if not joined(node):
                return
            for value in node.outputs:
                push(value, True)
        else:
            tainted.update(node.outputs)
            for value in node.outputs:
                push(value, False)


# -- epilogues -----------------------------------------------------------------------------------------------------


def grow_epilogue(near: Neighbourhood, product: Node) -> Group:
    """The product with as much of what follows as ends in one value: bias, activation, residual, a final transpose."""
    nodes, output = extend(near, (product,), product.output)
    return Group(kind_of(product), nodes, (output,))


def extend(near: Neighbourhood, core: tuple[Node, ...], result: Value) -> tuple[tuple[Node, ...], Value]:
    """The nodes of `core`, which ends in `result` alone, with what follows, and the one value that they then end in."""
    members = list(core)
    static = result in near.static
    best = (len(members), result)
    live: set[Value] = {result}
    convolution = core[0].op == "conv_general"

    def joins(node: Node) -> bool:
        if len(node.outputs) != 1 or (node.output in near.static) != static:
            return False
        if is_pointwise(node):
            return True
        if not convolution:
            return keeps_innermost(node)
        # Of [N, C, L] the transpose that puts channels first again is the same one: it is the reader's.
        return puts_channels_last(node) and not any(map(puts_channels_last, members))

    def joined(node: Node) -> bool:
        nonlocal best
        inside = set(members)
        live.add(node.output)
        for value in (*node.inputs, node.output):
            if value in live and not near.used_outside(value, inside):
                live.discard(value)
        if node.output in near.outputs or near.users(node.output):
            live.add(node.output)
        if live == {node.output}:
            best = (len(members), node.output)
        # A value that the graph itself gives out stays live for ever: nothing beyond it can end in one value.
        return near.outputs.isdisjoint(live - {node.output})

    if result not in near.outputs:
        grow_forward(near, (result,), members, joins, joined)
    count, output = best
    kept = tuple(members[:count])
    near.grouped.update(kept)
    return kept, output


def puts_channels_last(node: Node) -> bool:
    """Whether `node` is the transpose of [N, C, ...] to [N, ..., C]."""
    rank = node.output.type.rank
    return node.op == "transpose" and rank > 2 and node.attrs["permutation"] == (0, *range(2, rank), 1)


def keeps_innermost(node: Node) -> bool:
    """Whether `node` is a reshape or transpose under which runs of the last dimension stay runs."""
    if node.op == "transpose":
        permutation: Any = node.attrs["permutation"]
        return bool(permutation) and permutation[-1] == len(permutation) - 1
    if node.op == "reshape":
        before, after = node.inputs[0].type.sizes, node.output.type.sizes
        return bool(before) and bool(after) and before[-1] > 0 and after[-1] % before[-1] == 0
    return False


# -- rows ----------------------------------------------------------------------------------------------------------


class _RowGroup:
    """A row group while it grows. Each row value knows which dimension of the space each of its own stands for."""

    def __init__(self, near: Neighbourhood, seed: Node) -> None:
        dimensions: Any = seed.attrs["dimensions"]
        self.near = near
        self.space = seed.inputs[0].type.sizes
        self.reduced = tuple(sorted(dimensions))
        self.kept = tuple(d for d in range(len(self.space)) if d not in self.reduced)
        self.static = seed.output in near.static
        self.members = [seed]
        self.full: set[Value] = set()
        self.rows: dict[Value, tuple[int | None, ...]] = {seed.output: self.kept}

    def joins(self, node: Node) -> bool:
        if len(node.outputs) != 1 or (node.output in self.near.static) != self.static:
            return False
        inputs = [v for v in node.inputs if v in self.full or v in self.rows]
        all_full = all(v in self.full for v in inputs)
        shape = node.output.type.sizes
        if is_pointwise(node):
            if all_full:
                return shape == self.space
            if any(v in self.full for v in inputs):
                return False
            return len({self.rows[v] for v in inputs}) == 1
        if node.op in REDUCTIONS:
            dimensions: Any = node.attrs["dimensions"]
            same = node.inputs[0].type.sizes == self.space and tuple(sorted(dimensions)) == self.reduced
            return same and all_full
        if node.op == "broadcast_in_dim" and not all_full:
            return self._stands_for(node) is not None
        if node.op == "reshape" and not all_full:
            return self._reshaped(node) is not None
        return False

    def join(self, node: Node) -> None:
        """Note what the outputs of a node that joins are."""
        value = node.output
        inputs = [v for v in node.inputs if v in self.full or v in self.rows]
        if node.op in REDUCTIONS:
            self.rows[value] = self.kept
        elif is_pointwise(node):
            if all(v in self.full for v in inputs):
                self.full.add(value)
            else:
                self.rows[value] = self.rows[inputs[0]]
        elif node.op == "broadcast_in_dim":
            dims = self._stands_for(node)
            assert dims is not None
            if value.type.sizes == self.space and dims == tuple(range(len(self.space))):
                self.full.add(value)
            else:
                self.rows[value] = dims
        else:
            dims = self._reshaped(node)
            assert dims is not None
            self.rows[value] = dims

    def _stands_for(self, node: Node) -> tuple[int | None, ...] | None:
        """What the dimensions of a broadcast row value stand for: all of the space, or the row's with ones between."""
        (x,) = node.inputs
        own, to, dims = self.rows[x], node.output.type.sizes, node.attrs["broadcast_dims"]
        result: list[int | None] = [None] * len(to)
        for d, target, n in zip(own, dims, x.type.sizes, strict=True):  # type: ignore[arg-type]  # a tuple of ints
            if n != 1:
                result[target] = d
        if to == self.space and all(r is None or r == d for d, r in enumerate(result)):
            if all(r is not None or self.space[d] == 1 or d in self.reduced for d, r in enumerate(result)):
                return tuple(range(len(to)))
            return None
        ones = all(n == 1 for n, r in zip(to, result, strict=True) if r is None)
        return tuple(result) if ones and node.output.type.elements == x.type.elements else None

    def _reshaped(self, node: Node) -> tuple[int | None, ...] | None:
        """What the dimensions of a reshaped row value stand for, if only ones come and go."""
        (x,) = node.inputs
        parts = [(d, n) for d, n in zip(self.rows[x], x.type.sizes, strict=True) if n != 1]
        if [n for _, n in parts] != [n for n in node.output.type.sizes if n != 1]:
            return None
        rest = iter(parts)
        return tuple(None if n == 1 else next(rest)[0] for n in node.output.type.sizes)

    # -- siblings and producers ------------------------------------------------------------------------------------

    def pull_producers(self) -> None:
        """Take in pointwise producers over the space: those that only members read, and those worth storing once.

        A producer that others read as well must come before all of them, or the group would wait for itself.
        """
        near = self.near
        members = set(self.members)
        last = max(near.position[n] for n in members)
        queue = [v for n in self.members for v in n.inputs]
        while queue and len(members) < LARGEST_GROUP:
            value = queue.pop()
            node = near.graph.producers.get(value)
            if node is None or node in members or node in near.grouped or not is_pointwise(node):
                continue
            if value.type.sizes != self.space or (value in near.static) != self.static:
                continue
            outside = [u for u in near.users(value) if u not in members]
            if outside and any(near.position[u] < last for u in outside):
                continue
            wide = [v for v in dict.fromkeys(node.inputs) if v.type.elements * 2 > value.type.elements]
            if (outside or value in near.outputs) and len(wide) < 2 and node.op not in EXPENSIVE:
                continue
            members.add(node)
            self.full.add(value)
            queue.extend(node.inputs)
        self.members = sorted(members, key=near.position.__getitem__)

    def finish(self) -> Group:
        """Drop members that nothing inside reads and that cost nothing elsewhere; store what others read."""
        near = self.near
        members = set(self.members)
        for node in reversed(self.members):
            if node.op in ("broadcast_in_dim", "reshape") and not any(u in members for u in near.users(node.output)):
                members.discard(node)
        self.members = [n for n in self.members if n in members]
        stored: dict[Value, None] = {}
        for node in self.members:
            value = node.output
            if not near.used_outside(value, members):
                continue
            # A broadcast row is not worth memory: whoever reads it outside reads the row.
            while (made := near.graph.producers[value]).op in ("broadcast_in_dim", "reshape") and made in members:
                value = made.inputs[0]
            stored[value] = None
        near.grouped.update(members)
        full = frozenset(v for v in self.full if near.graph.producers[v] in members)
        return Group("rows", tuple(self.members), tuple(stored), space=self.space, reduced=self.reduced, full=full)


def grow_rows(near: Neighbourhood, seed: Node) -> Group:
    """The reduction with all that shares its rows."""
    group = _RowGroup(near, seed)

    def joined(node: Node) -> bool:
        group.join(node)
        return True

    grow_forward(near, (seed.output,), group.members, group.joins, joined)
    group.pull_producers()
    return group.finish()
