"""scatter: a copy of the operand, or the operand itself where it dies, into which updates are combined one by one.

Updates apply in row-major order of the indices, so their loops are serial. Window dimensions that no index moves never
meet across updates: all but the last of them are the grid. The last window dimension is the vector loop.
"""

from __future__ import annotations

from typing import Any

from rlx.codegen.kernel import Apply, Cost, Expr, Load, Store
from rlx.codegen.lower.affine import ZERO, Affine
from rlx.codegen.lower.axes import Axis, make_axes
from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.nest import Nest
from rlx.codegen.lower.reader import Reader, both, in_range
from rlx.codegen.lower.stores import in_place, store_value
from rlx.passes.group import Group


def lower_scatter(scope: Scope, group: Group) -> None:
    """A copy where one is needed, then one kernel."""
    node = group.nodes[-1]
    x, indices, updates = node.inputs
    result = node.output
    static = result in scope.static
    attrs: Any = node.attrs
    view = in_place(scope, x, result)
    if view is None:
        view = scope.allocate(result)
        store_value(scope, x, view, label="copy", node=node, static=static)
    scope.views[result] = view
    if 0 in updates.type.sizes:
        return

    window_dims = attrs["update_window_dims"]
    batching = attrs["operand_batching_dims"]
    index_batching = attrs["scatter_indices_batching_dims"]
    moved = attrs["scatter_dims_to_operand_dims"]
    removed = (*attrs["inserted_window_dims"], *batching)
    kept = [d for d in range(x.type.rank) if d not in removed]
    batch_dims = [d for d in range(updates.type.rank) if d not in window_dims]
    sizes = updates.type.sizes

    builder = KernelBuilder()
    space = builder.space
    reader = Reader(scope, builder)
    nest = Nest(builder)
    at: dict[int, Affine] = {}
    axis_of: dict[int, Axis] = {}
    for d, n in enumerate(sizes):
        axes, (at[d],) = make_axes(builder, (n,), (n,) if n != 1 else (), "i")
        if axes:
            axis_of[d] = axes[0]
    operand_dim = dict(zip(window_dims, kept, strict=True))
    safe = [d for d in window_dims if operand_dim[d] not in moved]
    safe += [batch_dims[b] for b in index_batching]
    vector = window_dims[-1] if window_dims and window_dims[-1] in axis_of else None
    grid_dims = [d for d in safe if d in axis_of and d != vector]
    serial = [d for d in (*batch_dims, *window_dims) if d in axis_of and d not in grid_dims and d != vector]
    grid_index, grid = nest.grid([axis_of[d] for d in grid_dims])

    batch = tuple(at[d] for d in batch_dims)
    place: list[Affine] = [ZERO] * x.type.rank
    extent = [1] * x.type.rank
    for d, target in operand_dim.items():
        place[target] = at[d]
        extent[target] = sizes[d]
    inside: Expr | None = None
    for k, d in enumerate(moved):
        index = (*batch, Affine(k))
        last = x.type.sizes[d] - extent[d]
        inside = both(inside, in_range(reader.read(indices, index), last))
        place[d] = space.add(place[d], reader.clamped(indices, index, last))
    for d, b in zip(batching, index_batching, strict=True):
        place[d] = batch[b]

    update = reader.read(updates, tuple(at[d] for d in range(updates.type.rank)))
    store = builder.store(view, tuple(place), update, inside)
    combiner = attrs["combiner"]
    if combiner != "set":
        held = Load(store.memory, store.index, inside)
        store = Store(store.memory, store.index, Apply(combiner, (held, update), update.dtype), inside)
    nest.kept_inside.add(store.memory)
    loops = [axis_of[d] for d in (*serial, *([] if vector is None else [vector]))]
    nest.loops(loops, [store], innermost="serial" if vector is None else "vector")
    launch = builder.launch(
        group.label,
        grid_index,
        grid,
        tuple(nest.body),
        cost=Cost(float(updates.type.elements), float(3 * updates.type.nbytes)),
        location=node.location,
        sources=group.sources,
    )
    scope.emit(launch, static)
