"""Gather, scatter and their kin; top-k, one-hot, and ops whose result sizes depend on data."""

from __future__ import annotations

import math

import numpy as np

from rlx.frontends.onnx.shape import reshaped, sliced
from rlx.frontends.onnx.site import Site, handles
from rlx.ir import dtypes
from rlx.ir.graph import Value

_COMBINERS = {"none": "set", "add": "add", "mul": "mul", "max": "max", "min": "min"}


def wrapped(site: Site, indices: Value, length: int) -> Value:
    """`indices` into an axis of `length`, with negative ones counted from the end."""
    b = site.b
    if indices.type.dtype.kind == "uint":
        return b.convert(indices, dtypes.i64)
    negative = b.binary("lt", indices, 0)
    return b.emit("select", negative, b.binary("add", indices, length), indices)


def take(site: Site, x: Value, indices: Value, axis: int) -> Value:
    """`x` at `indices` along `axis`: [before, *indices, after]. Known evenly spaced indices become a slice."""
    b, rank = site.b, x.type.rank
    sizes, picked = x.type.sizes, indices.type.sizes
    known = b.known(indices)
    if known is not None:
        plain = _as_slice(site, x, known, axis)
        if plain is not None:
            return reshaped(site, plain, (*sizes[:axis], *picked, *sizes[axis + 1 :]))
    indices = wrapped(site, indices, sizes[axis])
    vectors = reshaped(site, indices, (*picked, 1))
    out_rank = rank - 1 + len(picked)
    return b.emit(
        "gather",
        x,
        vectors,
        offset_dims=tuple(d for d in range(out_rank) if not axis <= d < axis + len(picked)),
        collapsed_slice_dims=(axis,),
        start_index_map=(axis,),
        slice_sizes=tuple(1 if a == axis else n for a, n in enumerate(sizes)),
        mode="clip",
    )


def _as_slice(site: Site, x: Value, indices: np.ndarray, axis: int) -> Value | None:
    flat = indices.reshape(-1).astype(np.int64)
    length = x.type.sizes[axis]
    flat = np.where(flat < 0, flat + length, flat)
    if flat.size == 0 or flat.min() < 0 or flat.max() >= length:
        return None
    steps = np.diff(flat)
    if flat.size > 1 and (steps[0] <= 0 or (steps != steps[0]).any()):
        return None
    return sliced(site, x, axis, int(flat[0]), int(flat[-1]) + 1, int(steps[0]) if flat.size > 1 else 1)


@handles("Gather")
def gather(site: Site) -> Value:
    x = site[0]
    return take(site, x, site[1], site.axis("axis", 0, x.type.rank))


def coordinates(site: Site, indices: Value, axis: int, length: int) -> Value:
    """Index vectors [..., rank]: each element's own place, with `indices` for `axis`."""
    b, shape = site.b, indices.type.sizes
    indices = b.convert(wrapped(site, indices, length), dtypes.i64)
    parts = [indices if a == axis else b.iota(shape, a, dtypes.i64) for a in range(len(shape))]
    columns = [reshaped(site, p, (*shape, 1)) for p in parts]
    return columns[0] if len(columns) == 1 else b.emit("concatenate", *columns, dimension=len(shape))


@handles("GatherElements")
def gather_elements(site: Site) -> Value:
    x, indices = site[0], site[1]
    rank = x.type.rank
    axis = site.axis("axis", 0, rank)
    return site.b.emit(
        "gather",
        x,
        coordinates(site, indices, axis, x.type.sizes[axis]),
        offset_dims=(),
        collapsed_slice_dims=tuple(range(rank)),
        start_index_map=tuple(range(rank)),
        slice_sizes=(1,) * rank,
        mode="clip",
    )


def _wrapped_vectors(site: Site, x: Value, indices: Value, first: int) -> Value:
    """Index vectors over the axes of `x` from `first` on, with negative entries counted from the end."""
    b, depth = site.b, indices.type.sizes[-1]
    lengths = np.array(x.type.sizes[first : first + depth], dtype=indices.type.dtype.numpy)
    ends = b.broadcast(b.literal(lengths), indices.type.shape)
    return b.emit("select", b.binary("lt", indices, 0), b.emit("add", indices, ends), indices)


@handles("GatherND")
def gather_nd(site: Site) -> Value:
    x, indices = site[0], site[1]
    batch, rank = site.attr("batch_dims", 0), x.type.rank
    depth = indices.type.sizes[-1]
    lead = indices.type.rank - 1
    kept = rank - batch - depth
    indexed = tuple(range(batch, batch + depth))
    return site.b.emit(
        "gather",
        x,
        _wrapped_vectors(site, x, indices, batch),
        offset_dims=tuple(range(lead, lead + kept)),
        collapsed_slice_dims=indexed,
        start_index_map=indexed,
        operand_batching_dims=tuple(range(batch)),
        start_indices_batching_dims=tuple(range(batch)),
        slice_sizes=(*(1,) * (batch + depth), *x.type.sizes[batch + depth :]),
        mode="clip",
    )


@handles("ScatterElements")
def scatter_elements(site: Site) -> Value:
    x, indices, updates = site[0], site[1], site[2]
    rank = x.type.rank
    axis = site.axis("axis", 0, rank)
    combiner = _COMBINERS[site.choice("reduction", "none", tuple(_COMBINERS))]
    return site.b.emit(
        "scatter",
        x,
        coordinates(site, indices, axis, x.type.sizes[axis]),
        updates,
        update_window_dims=(),
        inserted_window_dims=tuple(range(rank)),
        scatter_dims_to_operand_dims=tuple(range(rank)),
        combiner=combiner,
    )


@handles("ScatterND")
def scatter_nd(site: Site) -> Value:
    x, indices, updates = site[0], site[1], site[2]
    depth, lead = indices.type.sizes[-1], indices.type.rank - 1
    combiner = _COMBINERS[site.choice("reduction", "none", tuple(_COMBINERS))]
    return site.b.emit(
        "scatter",
        x,
        _wrapped_vectors(site, x, indices, 0),
        updates,
        update_window_dims=tuple(range(lead, updates.type.rank)),
        inserted_window_dims=tuple(range(depth)),
        scatter_dims_to_operand_dims=tuple(range(depth)),
        combiner=combiner,
    )


@handles("TensorScatter")
def tensor_scatter(site: Site) -> Value:
    """Writes `update` into each batch row of a cache from that row's index on, along `axis`."""
    b, cache, update = site.b, site[0], site[1]
    axis = site.axis("axis", -2, cache.type.rank)
    length, count = cache.type.sizes[axis], update.type.sizes[axis]
    starts = site.get(2)
    batch = cache.type.sizes[0]
    starts = b.full((batch,), 0, dtypes.i64) if starts is None else b.convert(starts, dtypes.i64)
    rows = b.iota((batch, count), 0, dtypes.i64)
    offsets = b.iota((batch, count), 1, dtypes.i64)
    spread = b.emit("broadcast_in_dim", starts, shape=(batch, count), broadcast_dims=(0,))
    places = b.emit("add", spread, offsets)
    if site.choice("mode", "linear", ("linear", "circular")) == "circular":
        places = b.binary("rem", places, length)
    vectors = b.emit(
        "concatenate", reshaped(site, rows, (batch, count, 1)), reshaped(site, places, (batch, count, 1)), dimension=2
    )
    moved = (0, axis, *(a for a in range(1, update.type.rank) if a != axis))
    return b.emit(
        "scatter",
        cache,
        vectors,
        b.emit("transpose", update, permutation=moved),
        update_window_dims=tuple(range(2, update.type.rank)),
        inserted_window_dims=(0, axis),
        scatter_dims_to_operand_dims=(0, axis),
        combiner="set",
    )


@handles("OneHot")
def one_hot(site: Site) -> Value:
    b, indices, values = site.b, site[0], site[2]
    depth = int(site.array(1, "depth").reshape(-1)[0])
    off, on = (reshaped(site, sliced(site, values, 0, i, i + 1), ()) for i in (0, 1))
    if indices.type.dtype.is_float:
        indices = b.convert(indices, dtypes.i64)
    axis = site.axis("axis", -1, indices.type.rank + 1)
    if indices.type.dtype.kind == "int":
        # What lies outside [-depth, depth) is on nowhere: `depth` is such a place.
        below = b.binary("lt", indices, -depth)
        nowhere = b.full(indices.type.shape, depth, indices.type.dtype)
        indices = b.emit("select", below, nowhere, wrapped(site, indices, depth))
    return b.emit("one_hot", indices, off, on, depth=depth, axis=axis, dtype=values.type.dtype)


@handles("TopK")
def top_k(site: Site) -> list[Value]:
    x = site[0]
    k = int(site.array(1, "k").reshape(-1)[0])
    values, indices = site.b.emit_many(
        "top_k", x, k=k, dimension=site.axis("axis", -1, x.type.rank), largest=bool(site.attr("largest", 1))
    )
    return [values, site.b.convert(indices, dtypes.i64)]


@handles("ReverseSequence")
def reverse_sequence(site: Site) -> Value:
    """Along the time axis, element t < length of a sequence comes from length - 1 - t."""
    b, x = site.b, site[0]
    time, batch = site.attr("time_axis", 0), site.attr("batch_axis", 1)
    lengths = b.convert(site[1], dtypes.i64)
    lengths = b.emit("broadcast_in_dim", lengths, shape=x.type.shape, broadcast_dims=(batch,))
    now = b.iota(x.type.shape, time, dtypes.i64)
    mirrored = b.binary("sub", b.emit("sub", lengths, now), 1)
    index = b.emit("select", b.emit("lt", now, lengths), mirrored, now)
    rank = x.type.rank
    return b.emit(
        "gather",
        x,
        coordinates(site, index, time, x.type.sizes[time]),
        offset_dims=(),
        collapsed_slice_dims=tuple(range(rank)),
        start_index_map=tuple(range(rank)),
        slice_sizes=(1,) * rank,
        mode="clip",
    )


# -- results whose sizes depend on data: computed where the data is known ------------------------------------------


@handles("NonZero")
def non_zero(site: Site) -> Value:
    return site.b.literal(np.array(np.nonzero(site.array(0, "number of nonzero elements")), dtype=np.int64))


@handles("Compress")
def compress(site: Site) -> Value:
    x = site[0]
    keep = np.flatnonzero(site.array(1, "condition, and so the number of kept elements,"))
    if "axis" not in site.node.attrs:
        return take(site, reshaped(site, x, (math.prod(x.type.sizes),)), site.b.literal(keep), 0)
    return take(site, x, site.b.literal(keep), site.axis("axis", 0, x.type.rank))


@handles("Unique")
def unique(site: Site) -> list[Value]:
    data = site.array(0, "number of distinct elements")
    axis = site.attr("axis", None)
    found, first, inverse, counts = np.unique(
        data, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not site.attr("sorted", 1):
        order = np.argsort(first, kind="stable")
        found = np.take(found, order, axis=0 if axis is None else axis)
        first, counts = first[order], counts[order]
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        inverse = rank[inverse]
    b = site.b
    return [b.literal(np.ascontiguousarray(found)), *(b.literal(a.astype(np.int64)) for a in (first, inverse, counts))]
