"""Fusion: which values get memory, and which nodes become one kernel.

(first form: every node that computes is a group of its own)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlx.ir.graph import Graph, Node, Value
from rlx.ir.op import get

#: Ops whose element costs many operations.
EXPENSIVE = frozenset(
    "exp expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh logistic erf cbrt pow atan2"
    " rng_bits".split()
)
#: Ops that only say where an element is: never a kernel of their own unless their result must be in memory.
SHAPE_OPS = frozenset("constant iota broadcast_in_dim reshape transpose rev slice".split())
#: Ops that any reader can compute on the spot, one element at a time.
READABLE = SHAPE_OPS | {"pad", "dynamic_slice", "gather", "rng_bits"}

REDUCTIONS = frozenset("reduce_sum reduce_prod reduce_max reduce_min reduce_and reduce_or".split())
WINDOWS = frozenset("reduce_window_sum reduce_window_max reduce_window_min".split())

_KINDS = {
    "dot_general": "contraction",
    "conv_general": "convolution",
    "concatenate": "concatenate",
    "dynamic_update_slice": "update",
    "scatter": "scatter",
    "sort": "sort",
    "cond": "cond",
    "while_loop": "while_loop",
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin"), "cumulative"),
    **dict.fromkeys(REDUCTIONS, "rows"),
    **dict.fromkeys(WINDOWS, "window"),
}


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes that become one kernel (a few for concatenations and copies), and the values they give memory to.

    kind: which lowering rule it takes: elementwise, rows, contraction, convolution, concatenate, update, window,
        cumulative, sort, scatter, cond, while_loop, or an op's own name.
    nodes: members in graph order; for contractions and convolutions the product comes first.
    inlined: nodes outside that its kernel computes as it reads them.
    space, reduced: for rows: the shape that reductions run over, and the dimensions they remove, ascending.
    full: for rows: members with one element a place of the space, not one a row.
    """

    kind: str
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    inlined: tuple[Node, ...] = ()
    space: tuple[int, ...] = ()
    reduced: tuple[int, ...] = ()
    full: frozenset[Value] = frozenset()

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the member ops, in order."""
        return tuple(node.op for node in self.nodes)

    @property
    def label(self) -> str:
        """What the kernel computes, for people."""
        names = [op for op in self.sources if op not in SHAPE_OPS] or [self.nodes[-1].op]
        return "_".join(names[:4]) + ("_etc" if len(names) > 4 else "")


def is_expensive(node: Node) -> bool:
    """Whether computing an element twice costs more than storing it once and loading it."""
    return node.op in EXPENSIVE


def fuse(graph: Graph, *, enabled: bool = True, static: frozenset[Value] = frozenset()) -> tuple[Group, ...]:
    """The groups of `graph` in an order in which each reads only what earlier ones have written."""
    outputs = set(graph.outputs)
    groups: list[Group] = []
    for node in graph.nodes:
        if node.op in SHAPE_OPS and not (outputs & set(node.outputs)):
            continue
        groups.append(group_of(node))
    return tuple(groups)


def group_of(node: Node) -> Group:
    """The node alone."""
    kind = _KINDS.get(node.op)
    if kind is None:
        kind = "elementwise" if node.op in READABLE or get(node.op).pointwise else node.op
    if kind == "rows":
        dimensions: Any = node.attrs["dimensions"]
        return Group(
            kind, (node,), node.outputs, space=node.inputs[0].type.sizes, reduced=tuple(sorted(dimensions))
        )
    return Group(kind, (node,), node.outputs)
