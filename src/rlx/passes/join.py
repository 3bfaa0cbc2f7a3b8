"""Joining products: those that share their left operand become one, over the columns of all.

The projections of attention (q, k and v) or of a gated layer read the same activations, each times weights of its own.
As one kernel they read the activations once, start once, and give threads more to share. Every part keeps what follows
it and the value it ends in, so a joined product computes what its parts would, bit for bit.

Parts have one left operand, contracted alike and without batch dimensions, and right operands of one dtype that are
known when weights are bound. No part needs another's result, on whatever path; but for pairs: a product whose result
nothing reads but what follows another one, element by element (up, in gate * up), never gets memory. Both sums are at
hand when that is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlx.ir.graph import Graph, Node, Value
from rlx.passes.group import Group, is_pointwise

#: Parts of one joined product at most: each adds its epilogue's code to the kernel.
MOST_PARTS = 8


def join_products(
    graph: Graph, groups: Sequence[Group], static: frozenset[Value], apart: frozenset[Node] = frozenset()
) -> list[Group]:
    """`groups` with products joined where that is possible; a joined group stands where its first part stood.

    apart: products that stay alone.
    """
    found: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        key = None if group.nodes[0] in apart else _key(group, static)
        if key is not None:
            found.setdefault(key, []).append(group)
    candidates = [parts for parts in found.values() if len(parts) > 1]
    if not candidates:
        return list(groups)
    reach = _Reach(graph, groups)
    joined: dict[Group, Group | None] = {}
    for parts in candidates:
        for outer, inner in _pairs(graph, reach, parts):
            joined[inner] = None
            joined[outer] = _joined("paired", (outer, inner), outer.outputs, reach.position)
        for kept in _independent(reach, [part for part in parts if part not in joined]):
            if len(kept) > 1:
                joined.update(dict.fromkeys(kept))
                outputs = tuple(v for part in kept for v in part.outputs)
                joined[kept[0]] = _joined("joined", kept, outputs, reach.position)
    replaced = (joined.get(group, group) for group in groups)
    return [group for group in replaced if group is not None]


def _key(group: Group, static: frozenset[Value]) -> tuple[object, ...] | None:
    """What parts of one joined product have in common; None for what cannot be joined."""
    product = group.nodes[0]
    if group.kind != "contraction":
        return None
    x, y = product.inputs
    if product.attrs["lhs_batch"] or x in static or y not in static or 0 in product.output.type.sizes:
        return None
    return x, product.attrs["lhs_contract"], y.type.dtype, product.output.type.dtype


def _joined(kind: str, parts: Sequence[Group], outputs: tuple[Value, ...], position: Mapping[Node, int]) -> Group:
    first = parts[0].nodes[0]
    rest = sorted((n for part in parts for n in part.nodes if n is not first), key=position.__getitem__)
    return Group(kind, (first, *rest), outputs, parts=tuple(parts))


def _pairs(graph: Graph, reach: _Reach, parts: Sequence[Group]) -> list[tuple[Group, Group]]:
    """(outer, inner) parts of which the outer alone reads what the inner gives, at the place of its own sum."""
    found: list[tuple[Group, Group]] = []
    taken: set[Group] = set()
    for inner in parts:
        (value,) = inner.outputs
        readers = graph.users.get(value, ())
        outer = reach.group_of.get(readers[0]) if readers else None
        if outer is None or outer is inner or outer not in parts or outer in taken or inner in taken:
            continue
        if value in graph.outputs or any(reach.group_of.get(reader) is not outer for reader in readers):
            continue
        last = max(reach.position[reader] for reader in readers)
        before = [n for n in outer.nodes[1:] if reach.position[n] <= last]
        if all(is_pointwise(n) for n in (*before, *inner.nodes[1:])):
            found.append((outer, inner))
            taken |= {outer, inner}
    return found


def _independent(reach: _Reach, parts: Sequence[Group]) -> list[list[Group]]:
    """`parts` dealt, in order, into sets in which none needs another's result."""
    sets: list[list[Group]] = []
    for part in parts:
        for chosen in sets:
            if len(chosen) < MOST_PARTS and not any(reach.either_way(part, other) for other in chosen):
                chosen.append(part)
                break
        else:
            sets.append([part])
    return sets


class _Reach:
    """Which groups need which groups' results, groups taken whole."""

    def __init__(self, graph: Graph, groups: Sequence[Group]) -> None:
        self.graph = graph
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.group_of = {node: group for group in groups for node in group.nodes}

    def either_way(self, a: Group, b: Group) -> bool:
        return self._reaches(a, b) or self._reaches(b, a)

    def _reaches(self, a: Group, b: Group) -> bool:
        """Whether a path leads from the results of `a` to a member of `b`. Nothing behind b's last member is looked at:
        a circle that closes there is found, and undone, when groups are put in order.
        """
        last = max(self.position[n] for n in b.nodes)
        targets = set(b.nodes)
        queue = [*a.outputs]
        seen: set[Node] = set(a.nodes)
        while queue:
            for user in self.graph.users.get(queue.pop(), ()):
                if user in targets:
                    return True
                if user in seen or self.position[user] > last:
                    continue
                group = self.group_of.get(user)
                members = (user,) if group is None else group.nodes
                seen.update(members)
                queue.extend(v for node in members for v in node.outputs)
        return False
