"""Groups: nodes that become one kernel. And what fusion knows of each op."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rlx.ir.graph import Node, Value
from rlx.ir.op import get

#: Ops whose element costs many operations.
EXPENSIVE = frozenset(
    "exp expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh logistic erf cbrt pow atan2"
    " rng_bits".split()
)
#: Ops that only say where an element is: never a kernel of their own unless their result must be in memory.
SHAPE_OPS = frozenset("constant iota broadcast_in_dim reshape transpose rev slice".split())
#: Shape ops of one operand, through which a value in memory is seen as a strided view of that memory.
VIEW_OPS = SHAPE_OPS - {"constant", "iota"}
#: Ops that any reader can compute on the spot, one element at a time, beside pointwise ones.
READABLE = SHAPE_OPS | {"pad", "dynamic_slice", "gather", "rng_bits"}

REDUCTIONS = frozenset("reduce_sum reduce_prod reduce_max reduce_min reduce_and reduce_or".split())
WINDOWS = frozenset("reduce_window_sum reduce_window_max reduce_window_min".split())
#: Windows of up to this many places are spelt out in the element's expression.
SMALL_WINDOW = 32

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

    kind: which lowering rule it takes: elementwise, rows, contraction, convolution, joined, paired, concatenate,
        update, window, cumulative, sort, scatter, cond, while_loop, or an op's own name.
    nodes: members in graph order; for contractions and convolutions the product comes first.
    inlined: nodes outside that its kernel computes as it reads them, in graph order.
    space, reduced: for rows: the shape that reductions run over, and the dimensions they remove, ascending.
    full: for rows: members with one element a place of the space, not one a row.
    parts: for joined and paired: the contractions that share their left operand; of a pair the one that ends it first.
    """

    kind: str
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    inlined: tuple[Node, ...] = ()
    space: tuple[int, ...] = ()
    reduced: tuple[int, ...] = ()
    full: frozenset[Value] = frozenset()
    parts: tuple[Group, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the ops in the kernel, inlined ones included where they compute something."""
        return tuple(node.op for node in (*self.inlined, *self.nodes) if node.op not in SHAPE_OPS) or tuple(
            node.op for node in self.nodes
        )

    @property
    def label(self) -> str:
        """What the kernel computes, for people."""
        names = self.sources
        return "_".join(names[:4]) + (f"_and_{len(names) - 4}_more" if len(names) > 4 else "")


def is_expensive(node: Node) -> bool:
    """Whether computing an element twice costs more than storing it once and loading it."""
    return node.op in EXPENSIVE


def is_pointwise(node: Node) -> bool:
    return get(node.op).pointwise


def kind_of(node: Node) -> str:
    """The kind of the group that `node` alone makes."""
    kind = _KINDS.get(node.op)
    if kind == "window" and math.prod(_window(node)) <= SMALL_WINDOW:
        return "elementwise"
    if kind is not None:
        return kind
    return "elementwise" if node.op in READABLE or is_pointwise(node) else node.op


def group_of(node: Node) -> Group:
    """The node alone."""
    kind = kind_of(node)
    if kind == "rows":
        dimensions: Any = node.attrs["dimensions"]
        return Group(kind, (node,), node.outputs, space=node.inputs[0].type.sizes, reduced=tuple(sorted(dimensions)))
    return Group(kind, (node,), node.outputs)


def _window(node: Node) -> tuple[int, ...]:
    window: Any = node.attrs["window"]
    return window
