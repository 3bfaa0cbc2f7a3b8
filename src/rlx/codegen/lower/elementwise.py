"""Kernels that store each element of an iteration space once: pointwise chains, copies, gathers, pieces of a whole.

The space is walked in the order of the first store's memory. The last axis is the vector loop, everything outside it is
the grid; one long axis is cut into chunks, so that there is work for every worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlx.codegen.kernel import Cost, Store
from rlx.codegen.lower.affine import Index
from rlx.codegen.lower.axes import Axis, Uses, make_axes, merged_extents, split_extents, trivial_extents
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.nest import Nest
from rlx.codegen.lower.reader import Reader, Values
from rlx.codegen.program import Launch
from rlx.ir.location import UNKNOWN, Location

#: A lone axis longer than this is cut into pieces of about this many elements.
CHUNK = 4096
#: Grids of fewer indices than this have their vector axis cut as well, where it is long.
FEW = 32

#: Makes the stores of the element at an index of the space.
EmitStores = Callable[[Reader, Index], Sequence[Store]]


@dataclass
class _Built:
    builder: KernelBuilder
    axes: tuple[Axis, ...]
    stores: Sequence[Store]
    uses: Uses


def elementwise(
    values: Values,
    shape: tuple[int, ...],
    emit: EmitStores,
    *,
    label: str,
    order: tuple[int, ...] | None = None,
    location: Location = UNKNOWN,
    sources: tuple[str, ...] = (),
) -> Launch:
    """One kernel that runs `emit` for every index of `shape`.

    order: the dimensions from slowest to fastest, as the stores lie in memory; default: as they stand.
    """
    order = tuple(range(len(shape))) if order is None else order
    sizes = tuple(shape[d] for d in order)

    def build(extents: tuple[int, ...], chunk: int = 0) -> _Built:
        builder = KernelBuilder()
        axes, walked = make_axes(builder, sizes, extents, "i", chunk)
        index = tuple(walked[order.index(d)] for d in range(len(shape)))
        stores = emit(Reader(values, builder), index)
        return _Built(builder, axes, stores, Uses.of(stores))

    built = build(trivial_extents(sizes))
    for _ in range(3):
        extents = split_extents(built.axes, built.builder)
        if extents is None:
            break
        built = build(extents)
    extents = merged_extents(built.axes, built.uses)
    chunk = chunk_of(extents)
    if extents != tuple(a.extent for a in built.axes) or chunk:
        built = build(extents, chunk)

    nest = Nest(built.builder)
    index, grid = nest.grid(built.axes[:-1])
    nest.loops(built.axes[-1:], built.stores)
    return built.builder.launch(
        label,
        index,
        grid,
        tuple(nest.body),
        cost=cost_of(built.uses, built.axes, built.builder),
        location=location,
        sources=sources,
    )


def chunk_of(extents: tuple[int, ...]) -> int:
    """How to cut the last axis: 0 for not at all, else the length of a piece, an even divisor where there is one."""
    if not extents or extents[-1] <= 2 * CHUNK or math.prod(extents[:-1]) >= FEW:
        return 0
    last = extents[-1]
    for chunk in range(CHUNK, CHUNK // 2, -64):
        if last % chunk == 0:
            return chunk
    return CHUNK


def cost_of(uses: Uses, axes: Sequence[Axis], builder: KernelBuilder) -> Cost:
    """Operations, and bytes of distinct elements that the addresses touch."""
    total = math.prod(a.extent for a in axes)
    bytes_moved = 0.0
    extents = {a.var: a.extent for a in axes}
    for memory in builder.args:
        touched = 1
        for terms in uses.addresses:
            if tuple(s for _, s in terms) == memory.strides:
                touched = max(touched, math.prod(extents.get(v, 1) for v, s in terms if s))  # type: ignore[arg-type]
        bytes_moved += touched * memory.dtype.itemsize
    return Cost(float(total * uses.applies), bytes_moved)
