"""Lowers one graph: groups in order, each by its kind's rule."""

from __future__ import annotations

from collections.abc import Callable

from rlx.codegen.lower.attention import lower_attention
from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.contraction import lower_contraction
from rlx.codegen.lower.control import lower_cond, lower_while
from rlx.codegen.lower.convolution import lower_convolution
from rlx.codegen.lower.cumulative import lower_cumulative
from rlx.codegen.lower.joined import lower_joined, lower_paired
from rlx.codegen.lower.rowgroup import lower_rows
from rlx.codegen.lower.scatter import lower_scatter
from rlx.codegen.lower.sorting import lower_sort
from rlx.codegen.lower.stores import lower_concatenate, lower_elementwise, lower_update
from rlx.codegen.lower.windowed import lower_window
from rlx.errors import CustomCallNotCompiled, LoweringError
from rlx.passes.attention import AttentionGroup
from rlx.passes.fuse import fuse
from rlx.passes.group import Group

_RULES: dict[str, Callable[[Scope, Group], None]] = {
    "elementwise": lower_elementwise,
    "rows": lower_rows,
    "concatenate": lower_concatenate,
    "update": lower_update,
    "contraction": lower_contraction,
    "joined": lower_joined,
    "paired": lower_paired,
    "convolution": lower_convolution,
    "window": lower_window,
    "cumulative": lower_cumulative,
    "sort": lower_sort,
    "scatter": lower_scatter,
}


def lower_scope(scope: Scope) -> None:
    """Fill the scope's steps with all that its graph computes.

    Raises LoweringError for an op without a rule, CustomCallNotCompiled for a custom call.
    """
    static = frozenset(scope.static)
    for group in fuse(scope.graph, enabled=scope.program.fuse, attention=scope.attention, static=static):
        node = group.nodes[-1]
        if group.kind == "cond":
            lower_cond(scope, group, lower_scope)
        elif group.kind == "while_loop":
            lower_while(scope, group, lower_scope)
        elif isinstance(group, AttentionGroup):
            lower_attention(scope, group, lower_scope)
        elif group.kind in _RULES:
            _RULES[group.kind](scope, group)
        elif node.op == "custom_call":
            raise CustomCallNotCompiled(
                f"custom call {node.attrs['target']!r} has no native code",
                where=f"at {node.location}",
                hint="run the graph on the reference device, or express the call in primitives",
            )
        else:
            raise LoweringError(f"no lowering rule knows the op {node.op!r}", where=f"at {node.location}")
