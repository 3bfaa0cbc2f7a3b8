"""Kernels that store each element of an iteration space once: pointwise chains, copies, gathers, pieces of a whole.

The space is walked in row-major order. The last axis is the vector loop, everything outside it is the grid; one long
axis is cut into chunks, so that there is work for every worker. A load that lies along another axis, as transposes
have, is walked in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rlx.codegen.kernel import Cost, Expr, Store
from rlx.codegen.lower.affine import Index
from rlx.codegen.lower.axes import Axis, Uses, make_axes, merged_extents, split_extents, trivial_extents
from rlx.codegen.lower.inplace import in_place_operands
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.nest import Nest
from rlx.codegen.lower.reader import Reader, Values
from rlx.codegen.program import Launch
from rlx.ir.location import UNKNOWN, Location

#: A lone axis longer than this is cut into pieces of about this many elements.
CHUNK = 4096
#: Grids of fewer indices than this have their vector axis cut as well, where it is long.
FEW = 32
#: Sides of a block where a load is contiguous along another axis than the stores. ACROSS: along the vector axis where
#: elements are gathered, each from another cache line: many lines of a power of two apart do not fit. IN_REGISTERS:
#: bits of elements that come in whole vectors instead. LINE: elements of about one cache line.
BLOCK = 64
ACROSS = 16
IN_REGISTERS = (32, 64)
LINE = 8

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
    location: Location = UNKNOWN,
    sources: tuple[str, ...] = (),
) -> Launch:
    """One kernel that runs `emit` for every index of `shape`."""

    def build(extents: tuple[int, ...], chunk: int = 0) -> _Built:
        builder = KernelBuilder()
        axes, index = make_axes(builder, shape, extents, "i", chunk)
        stores = emit(Reader(values, builder), index)
        return _Built(builder, axes, stores, Uses.of(stores))

    built = build(trivial_extents(shape))
    for _ in range(3):
        extents = split_extents(built.axes, built.builder)
        if extents is None:
            break
        built = build(extents)
    extents = merged_extents(built.axes, built.uses)
    if extents != tuple(a.extent for a in built.axes):
        built = build(extents)
    turned, across = turned_axis(built.axes, built.uses)
    if turned is not None:
        side = built.axes[turned].extent
        if side > BLOCK and side % BLOCK == 0:
            # The rest of the axis joins the grid.
            extents = (*extents[:turned], side // BLOCK, BLOCK, *extents[turned + 1 :])
            turned += 1
        built = build(extents, across if extents[-1] > across else 0)
    elif chunk := chunk_of(extents):
        built = build(extents, chunk)
    inner = (() if turned is None else (built.axes[turned],)) + built.axes[-1:]

    nest = Nest(built.builder)
    index, grid = nest.grid([axis for axis in built.axes if axis not in inner])
    nest.loops(inner, built.stores)
    step = built.builder.launch(
        label,
        index,
        grid,
        tuple(nest.body),
        cost=cost_of(built.uses, built.axes, built.builder),
        location=location,
        sources=sources,
    )
    return replace(step, in_place=in_place_operands(built.stores, built.axes, step.kernel.args, step.operands))


def turned_axis(axes: Sequence[Axis], uses: Uses) -> tuple[int | None, int]:
    """The place of an axis along which a load is contiguous that strides along the vector axis, None for none; and how
    long a block's side along the vector axis is.

    Walking both axes in blocks then reads each cache line once, where whole rows would read it once an element.
    """
    if len(axes) < 2:
        return None, 0
    last = axes[-1]
    for memory, terms in uses.addresses:
        if memory.writable or abs(uses.stride(terms, last)) < LINE:
            continue
        for place, axis in enumerate(axes[:-1]):
            if uses.stride(terms, axis) == 1 and axis.extent >= LINE <= last.extent:
                return place, BLOCK if memory.dtype.bits in IN_REGISTERS else ACROSS
    return None, 0


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
    extents: dict[Expr, int] = {a.var: a.extent for a in axes}
    for memory in builder.args:
        touched = 1
        for seen, terms in uses.addresses:
            if seen is memory:
                touched = max(touched, math.prod(extents[v] for v, s in terms if s and v in extents))
        bytes_moved += touched * memory.dtype.itemsize
    return Cost(float(total * uses.applies), bytes_moved)
