"""Running reductions: a carry that walks along one dimension, every other dimension in parallel."""

from __future__ import annotations

from typing import Any

from rlx.codegen.kernel import Accumulate, Apply, Cost, Declare, Load, Local, Memory, Stmt, Store
from rlx.codegen.lower.affine import Affine, as_dtype
from rlx.codegen.lower.axes import make_axes
from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.identity import accumulator_dtype, identity
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.nest import Nest
from rlx.codegen.lower.reader import Reader
from rlx.passes.group import Group

COMBINERS = {"cumsum": "add", "cumprod": "mul", "cummax": "max", "cummin": "min"}
#: Neighbouring rows that walk side by side in the vector loop.
LANES = 128


def lower_cumulative(scope: Scope, group: Group) -> None:
    """One kernel: rows are the grid; where rows lie side by side, a piece of them is the vector loop."""
    node = group.nodes[-1]
    (x,) = node.inputs
    result = node.output
    view = scope.allocate(result)
    scope.views[result] = view
    shape = result.type.sizes
    if 0 in shape:
        return
    along: Any = node.attrs["dimension"]
    combine = COMBINERS[node.op]
    dtype = accumulator_dtype(combine, x.type.dtype)
    start = identity(combine, dtype)
    rows = tuple(n for d, n in enumerate(shape) if d != along)
    across = along != len(shape) - 1 and shape[-1] >= 4

    builder = KernelBuilder()
    reader = Reader(scope, builder)
    extents = tuple(n for n in rows if n != 1)
    chunk = LANES if across and extents[-1] > LANES else 0
    row_axes, row = make_axes(builder, rows, extents, "i", chunk)
    walk, (step,) = make_axes(builder, (shape[along],), (shape[along],), "r")
    place: Affine = step
    if node.attrs["reverse"]:
        place = builder.space.shift(builder.space.scale(step, -1), shape[along] - 1)
    index = (*row[:along], place, *row[along:])
    term = as_dtype(reader.read(x, index), dtype)

    nest = Nest(builder)
    if across:
        lanes = row_axes[-1:]
        grid_index, grid = nest.grid(row_axes[:-1])
        carry = Memory("l0", dtype, (1,), 0, True)
        nest.kept_inside.add(carry)
        nest.add(Local(carry, lanes[0].extent))
        nest.loops(lanes, [Store(carry, (lanes[0].var,), start)])
        total = Apply(combine, (Load(carry, (lanes[0].var,)), term), dtype)
        body: list[Stmt] = [
            builder.store(view, index, as_dtype(total, result.type.dtype)),
            Store(carry, (lanes[0].var,), total),
        ]
        nest.loops((*walk, *lanes), body)
    else:
        grid_index, grid = nest.grid(row_axes)
        var = builder.var("s", dtype)
        nest.kept_inside.add(var)
        nest.add(Declare(var, start))
        body = [Accumulate(var, combine, term), builder.store(view, index, as_dtype(var, result.type.dtype))]
        nest.loops(walk, body, innermost="serial")
    launch = builder.launch(
        group.label,
        grid_index,
        grid,
        tuple(nest.body),
        cost=Cost(float(result.type.elements), float(2 * result.type.nbytes)),
        location=node.location,
        sources=group.sources,
    )
    scope.emit(launch, result in scope.static)
