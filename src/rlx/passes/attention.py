"""Attention found in primitives: softmax(f(q k^T)) v, as models and composites alike come to spell it.

    product ─▶ pointwise ops, reshapes, transposes ─▶ scores ─┬▶ reduce_max ─▶ shift
                                                              └▶ exp(scores - shift) = weights ─▶ reduce_sum = total
    mix = weights v, and the division by the total before or after it

The shift may be guarded: 0 where the largest score is -inf, with 1 for the total there. Weights that are NaN may be
replaced by 0 before v, as exporters of PyTorch's attention write it. `grow_attentions` looks at ops,
dtypes and users alone. That the rows which are reduced, spread and contracted are the same ones is for the lowering to
make sure, which knows indices; where they are not, it takes the nodes for what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rlx.ir.dtypes import f32, f64
from rlx.ir.graph import Node, Value
from rlx.passes.group import Group, is_pointwise
from rlx.passes.grow import Neighbourhood, extend

#: Nodes between the product and the scores at most.
LONGEST_PATH = 24

_MOVES = frozenset({"reshape", "transpose"})
_SPREADS = _MOVES | {"broadcast_in_dim"}


@dataclass(frozen=True, eq=False)
class Attention:
    """The joints of one attention.

    product: the dot_general of queries (left) and keys. mix: the dot_general of weights (left) and values.
    scores: what the softmax is taken of. shifted: scores - shift. weights: exp(shifted).
    largest: reduce_max of the scores. shift: what is taken off each row: `largest`, or its guarded form.
    divisor: what each row is divided by. quotient: the division's node.
    divided_late: the division follows the mix; else it gives the mix's left operand.
    blind: whether rows whose every score is -inf have weights 0; else they are NaN.
    cleared: whether weights that are NaN become 0.
    members: all nodes from the product to the later of mix and quotient, in graph order.
    """

    product: Node
    mix: Node
    scores: Value
    shifted: Node
    weights: Value
    largest: Value
    shift: Value
    divisor: Value
    quotient: Node
    divided_late: bool
    blind: bool
    cleared: bool
    members: tuple[Node, ...]

    @property
    def result(self) -> Value:
        return (self.quotient if self.divided_late else self.mix).output


@dataclass(frozen=True, eq=False)
class AttentionGroup(Group):
    """An attention and what follows it."""

    attention: Attention = field(kw_only=True)


def grow_attentions(near: Neighbourhood) -> list[Group]:
    """A group for every attention of the graph whose operands are not all static, each with its epilogue."""
    groups: list[Group] = []
    for node in near.graph.nodes:
        if node.op != "dot_general" or node in near.grouped or node.output in near.static:
            continue
        found = _Matcher(near, node).match()
        if found is not None and near.grouped.isdisjoint(found.members):
            nodes, output = extend(near, found.members, found.result)
            groups.append(AttentionGroup("attention", nodes, (output,), attention=found))
    return groups


class _Matcher:
    """Matches backwards, and once forwards, from the product with v; `nodes` collects what belongs to the attention."""

    def __init__(self, near: Neighbourhood, mix: Node) -> None:
        self.near = near
        self.producers = near.graph.producers
        self.mix = mix
        self.nodes: set[Node] = {mix}

    def match(self) -> Attention | None:
        value = self._through(self.mix.inputs[0], _MOVES)
        node = self.producers.get(value)
        if node is None or value.type.dtype not in (f32, f64) or self.mix.output.type.dtype is not value.type.dtype:
            return None
        cleared = self._without_nan(node)
        if cleared is not None:
            node = self.producers.get(self._through(cleared, _MOVES))
        quotient = None
        if node is not None and node.op == "div":
            self.nodes.add(node)
            quotient, node = node, self.producers.get(self._through(node.inputs[0], _MOVES))
        late = quotient is None
        if node is None or node.op != "exp" or (late and cleared is not None):
            return None
        self.nodes.add(node)
        weights = node.output
        quotient = self._late_quotient() if late else quotient
        shifted = self._made_by(node.inputs[0], "sub")
        if quotient is None or shifted is None:
            return None
        scores = shifted.inputs[0]
        shift = self._through(shifted.inputs[1], _SPREADS)
        divisor = self._through(quotient.inputs[1], _SPREADS)
        largest, blind = self._unguarded(shift, 0.0, None)
        total, blind_total = self._unguarded(divisor, 1.0, largest)
        if blind != blind_total:
            return None
        if not self._reduces(largest, "reduce_max", scores) or not self._reduces(total, "reduce_sum", weights):
            return None
        if self.producers[largest].attrs != self.producers[total].attrs:
            return None
        product = self._product(scores)
        if product is None:
            return None
        members = tuple(sorted(self.nodes, key=self.near.position.__getitem__))
        found = Attention(
            product,
            self.mix,
            scores,
            shifted,
            weights,
            largest,
            shift,
            divisor,
            quotient,
            late,
            blind,
            cleared is not None,
            members,
        )
        inner = (v for n in members for v in n.outputs if v is not found.result)
        return None if any(self.near.used_outside(v, self.nodes) for v in inner) else found

    def _without_nan(self, node: Node) -> Value | None:
        """x for select(x != x, 0, x)."""
        if node.op != "select" or not self._is_splat(node.inputs[1], 0.0):
            return None
        value, test = node.inputs[2], self.producers.get(node.inputs[0])
        if test is None or test.op != "ne" or any(v is not value for v in test.inputs):
            return None
        self.nodes.update((node, test))
        return value

    def _through(self, value: Value, ops: Iterable[str]) -> Value:
        """What `value` is made of by `ops` alone."""
        while (node := self.producers.get(value)) is not None and node.op in ops:
            self.nodes.add(node)
            value = node.inputs[0]
        return value

    def _made_by(self, value: Value, op: str) -> Node | None:
        node = self.producers.get(value)
        if node is None or node.op != op:
            return None
        self.nodes.add(node)
        return node

    def _late_quotient(self) -> Node | None:
        """The division that follows the mix, reshapes and transposes between them."""
        value = self.mix.output
        while True:
            users = self.near.users(value)
            if len(users) != 1 or users[0].inputs[0] is not value:
                return None
            (node,) = users
            if node.op not in (*_MOVES, "div"):
                return None
            self.nodes.add(node)
            if node.op == "div":
                return node
            value = node.output

    def _unguarded(self, row: Value, instead: float, largest: Value | None) -> tuple[Value, bool]:
        """x and True for select(largest == -inf, instead, x); `row` itself and False for anything else."""
        node = self.producers.get(row)
        if node is None or node.op != "select" or not self._is_splat(node.inputs[1], instead):
            return row, False
        test = self.producers.get(node.inputs[0])
        if test is None or test.op != "eq" or not self._is_splat(test.inputs[1], -math.inf):
            return row, False
        if test.inputs[0] is not (node.inputs[2] if largest is None else largest):
            return row, False
        self.nodes.update((node, test))
        return node.inputs[2], True

    def _is_splat(self, value: Value, number: float) -> bool:
        node = self.producers.get(value)
        if node is not None and node.op == "broadcast_in_dim":
            node = self.producers.get(node.inputs[0])
        if node is None or node.op != "constant":
            return False
        array = node.attrs["value"]
        return isinstance(array, np.ndarray) and array.size == 1 and float(array.reshape(())) == number

    def _reduces(self, value: Value, op: str, of: Value) -> bool:
        node = self._made_by(value, op)
        return node is not None and node.inputs[0] is of

    def _product(self, scores: Value) -> Node | None:
        """The dot_general that the scores are pointwise functions of; its path joins `nodes`."""
        found: Node | None = None
        behind: list[Node] = []
        seen: set[Value] = set()
        for value in self._ancestors(scores, seen):
            node = self.producers[value]
            if node.op != "dot_general":
                behind.append(node)
            elif found is None and value.type.dtype is scores.type.dtype:
                found = node
        if found is None or len(behind) > LONGEST_PATH:
            return None
        known = {found.output}
        for node in sorted(behind, key=self.near.position.__getitem__):
            if not known.isdisjoint(node.inputs):
                known.add(node.output)
                self.nodes.add(node)
        self.nodes.add(found)
        return found

    def _ancestors(self, scores: Value, seen: set[Value]) -> Iterator[Value]:
        """Values with as many elements as the scores that they are made of by pointwise ops and moves, and products."""
        queue = [scores]
        while queue and len(seen) <= 2 * LONGEST_PATH:
            value = queue.pop()
            node = self.producers.get(value)
            if node is None or value in seen or value.type.elements != scores.type.elements:
                continue
            if node.op == "dot_general" or node.op in _MOVES or is_pointwise(node):
                seen.add(value)
                yield value
                if node.op != "dot_general":
                    queue.extend(node.inputs)
