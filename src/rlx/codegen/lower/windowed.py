"""Windows too large to spell out: each output element accumulates over the places of its window in loops."""

from __future__ import annotations

from typing import Any

from rlx.codegen.kernel import Expr
from rlx.codegen.lower.accumulation import accumulated
from rlx.codegen.lower.affine import Index, as_dtype
from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.identity import accumulator_dtype
from rlx.codegen.lower.reader import Reader
from rlx.codegen.lower.rows import Reduction, row_kernel
from rlx.codegen.lower.window import WINDOW_COMBINERS, window_term
from rlx.passes.group import Group


def lower_window(scope: Scope, group: Group) -> None:
    """One row kernel: rows are output elements, the reduced dimensions are the window's."""
    node = group.nodes[0]
    (output,) = group.outputs
    view = scope.allocate(output)
    scope.views[output] = view
    result = node.output
    if 0 in result.type.sizes:
        return
    combine = WINDOW_COMBINERS[node.op]
    dtype = accumulator_dtype(combine, result.type.dtype)
    window: Any = node.attrs["window"]

    def term(reader: Reader, row: Index, at: Index) -> Expr:
        return window_term(reader, node, row, at, None)

    reduction = Reduction(result, combine, dtype, term, lambda e: as_dtype(e, result.type.dtype))
    launch = row_kernel(
        scope,
        accumulated(group, reduction, result.type.sizes, window, output, view),
        label=group.label,
        location=node.location,
        sources=group.sources,
    )
    scope.emit(launch, output in scope.static)
