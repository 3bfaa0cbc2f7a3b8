"""gather and scatter: many windows of one tensor, read or written at places given by an index tensor.

The last dimension of `indices` holds index vectors; its other dimensions are the batch. Entry k of a vector is the
window's start along operand dimension start_index_map[k] (scatter_dims_to_operand_dims[k]). Along each dimension of
operand_batching_dims the window has size 1 and starts at the batch coordinate of the dimension that the same entry
of start_indices_batching_dims (scatter_indices_batching_dims) names. All as jax.lax.gather and jax.lax.scatter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlx.ir.dtypes import ALL, DType, bool_, f16, f32, i8, i16, i32, i64, u8
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, Tolerance, define
from rlx.ir.ops import precision, sampling
from rlx.ir.ops.signature import (
    COMPLEXES,
    INTEGERS,
    choice,
    dimensions,
    operands,
    require,
    require_dtype,
    require_fits,
    sizes,
    without,
)
from rlx.ir.types import TensorType


def _require_index_maps(
    op: str, x: TensorType, indices: TensorType, attrs: Attrs, start_map: str, batching: str, index_batching: str
) -> None:
    """What gather and scatter ask alike of the maps from index vectors to dimensions of x."""
    require_dtype(op, 1, indices, INTEGERS)
    require(indices.rank >= 1, f"{op}: operand 1 is {indices}, it needs a last dimension of index vectors")
    starts = dimensions(op, attrs, start_map, x.rank)
    require(
        indices.shape[-1] == len(starts),
        f"{op}: index vectors of {indices} have {indices.shape[-1]} entries, {start_map} {starts} names {len(starts)}",
    )
    operand_batch = dimensions(op, attrs, batching, x.rank, ordered=True)
    index_batch = dimensions(op, attrs, index_batching, indices.rank - 1)
    require(
        len(operand_batch) == len(index_batch),
        f"{op}: {batching} {operand_batch} and {index_batching} {index_batch} must have equally many entries",
    )
    require(not set(starts) & set(operand_batch), f"{op}: {start_map} {starts} and {batching} {operand_batch} overlap")
    for a, b in zip(operand_batch, index_batch, strict=True):
        require(
            x.shape[a] == indices.shape[b],
            f"{op}: batching dimension {a} of {x} and dimension {b} of {indices} must be equal",
        )


def _starts(
    x_shape: Sequence[int],
    indices: np.ndarray,
    start_map: Sequence[int],
    batching: Sequence[int],
    index_batching: Sequence[int],
) -> list[np.ndarray]:
    """For each dimension of x the windows' starts, i64, over the batch shape of `indices`."""
    batch_shape = indices.shape[:-1]
    # Starts beyond i64 are far outside either way.
    vectors = np.minimum(indices, np.uint64(1 << 62)) if indices.dtype == np.uint64 else indices
    vectors = vectors.astype(np.int64)
    starts = [np.zeros(batch_shape, np.int64) for _ in x_shape]
    for k, d in enumerate(start_map):
        starts[d] = vectors[..., k]
    for d, b in zip(batching, index_batching, strict=True):
        counted = np.arange(batch_shape[b]).reshape(-1, *[1] * (len(batch_shape) - b - 1))
        starts[d] = np.broadcast_to(counted, batch_shape)
    return starts


def _places(starts: Sequence[np.ndarray], window: Sequence[int], removed: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Index arrays, one a dimension of x, that broadcast to batch shape + window shape (less `removed` dimensions)."""
    kept = [d for d in range(len(window)) if d not in removed]
    places = []
    for d, start in enumerate(starts):
        place = start.reshape(start.shape + (1,) * len(kept))
        if d in kept:
            at = kept.index(d)
            place = place + np.arange(window[d]).reshape(-1, *[1] * (len(kept) - at - 1))
        places.append(place)
    return tuple(places)


# -- gather --------------------------------------------------------------------------------------------------------


def _gather_infer(call: Call) -> tuple[TensorType, ...]:
    x, indices = operands("gather", call, 2)
    attrs = call.attrs
    maps = ("start_index_map", "operand_batching_dims", "start_indices_batching_dims")
    _require_index_maps("gather", x, indices, attrs, *maps)
    choice("gather", attrs, "mode", ("clip", "fill"))
    window = sizes("gather", attrs, "slice_sizes", x.rank)
    for d, n in enumerate(window):
        require_fits("gather", f"slice size of dimension {d}", n, x.shape[d])
    collapsed = dimensions("gather", attrs, "collapsed_slice_dims", x.rank, ordered=True)
    batching = attrs["operand_batching_dims"]
    require(
        not set(collapsed) & set(batching), f"gather: collapsed_slice_dims {collapsed} and batching {batching} overlap"
    )
    for d in (*collapsed, *batching):
        require(window[d] == 1, f"gather: slice size of dimension {d} is {window[d]}, it must be 1 to be left out")
    kept = without(window, (*collapsed, *batching))
    rank = indices.rank - 1 + len(kept)
    offset = dimensions("gather", attrs, "offset_dims", rank, ordered=True)
    require(
        len(offset) == len(kept),
        f"gather: offset_dims {offset} must have one entry for each of the {len(kept)} window dimensions that are kept",
    )
    return (TensorType(_interleave(indices.shape[:-1], kept, offset), x.dtype),)


def _interleave(batch: Sequence[Any], window: Sequence[Any], window_dims: Sequence[int]) -> tuple[Any, ...]:
    """What lies along each dimension: `window` at the dimensions `window_dims` and `batch` at the others, in order."""
    rest, inside = iter(batch), iter(window)
    return tuple(next(inside) if d in window_dims else next(rest) for d in range(len(batch) + len(window)))


def _fill_value(dtype: np.dtype) -> np.ndarray:
    """What `fill` gives for windows out of bounds: NaN, the least signed, the greatest unsigned integer, False."""
    if dtype.kind == "b":
        return np.array(False)
    if dtype.kind == "u" or dtype == np.dtype("uint4"):
        return np.asarray(precision.highest(dtype))
    if dtype.kind == "i" or dtype == np.dtype("int4"):
        return np.asarray(precision.lowest(dtype))
    return np.array(np.nan).astype(dtype)


def _gather(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    x, indices = arrays
    window = attrs["slice_sizes"]
    batching = attrs["operand_batching_dims"]
    removed = (*attrs["collapsed_slice_dims"], *batching)
    starts = _starts(x.shape, indices, attrs["start_index_map"], batching, attrs["start_indices_batching_dims"])
    inside = np.ones(indices.shape[:-1], np.bool_)
    clipped = []
    for start, d, n in zip(starts, x.shape, window, strict=True):
        inside &= (start >= 0) & (start <= d - n)
        clipped.append(np.clip(start, 0, d - n))
    kept = without(window, removed)
    shape = indices.shape[:-1] + tuple(kept)
    values = np.broadcast_to(x[_places(clipped, window, removed)], shape) if x.size else np.empty(shape, x.dtype)
    if attrs["mode"] == "fill":
        mask = inside.reshape(inside.shape + (1,) * len(kept))
        values = np.where(mask, values, _fill_value(x.dtype)).astype(x.dtype)
    batch_rank = indices.ndim - 1
    offset = attrs["offset_dims"]
    order = _interleave(tuple(range(batch_rank)), tuple(range(batch_rank, values.ndim)), offset)
    return (values.transpose(order),)


def _gather_samples(rng: np.random.Generator) -> Iterator[Sample]:
    def rows(d: DType, index: DType, mode: str) -> Sample:
        """Whole rows by one index, as an embedding: some indices lie outside."""
        low, high = max(-2, index.numpy.type(0) if index.kind == "uint" else -2), 8
        indices = rng.integers(low, high, (2, 5, 1)).astype(index.numpy)
        attrs = _gather_attrs((2,), (0,), (0,), (1, 3), mode)
        return Sample((sampling.random(rng, (7, 3), d), indices), attrs)

    for mode in ("clip", "fill"):
        for d in ALL:
            yield rows(d, i64, mode)
        for index in (i8, u8, i16, i32):
            yield rows(f32, index, mode)
        # Windows by two coordinates, window dimensions between batch dimensions.
        x, indices = sampling.random(rng, (6, 5, 4), f32), rng.integers(-1, 6, (3, 2, 2)).astype(np.int32)
        yield Sample((x, indices), _gather_attrs((1, 3), (1,), (1, 0), (2, 1, 4), mode))
        # Batching dimensions, as along-axis gathers have.
        x, indices = sampling.random(rng, (3, 7, 2), f32), rng.integers(-2, 9, (2, 5, 3, 1)).astype(np.int32)
        batched = {"operand_batching_dims": (0,), "start_indices_batching_dims": (2,)}
        yield Sample((x, indices), {**_gather_attrs((1,), (1,), (1,), (1, 1, 2), mode), **batched})
        # A single scalar place, no index vector at all, nothing gathered.
        x = sampling.random(rng, (7,), f32)
        yield Sample((x, np.array([3], np.int32)), _gather_attrs((), (0,), (0,), (1,), mode))
        yield Sample((x, np.zeros((2, 0), np.int32)), _gather_attrs((1,), (), (), (4,), mode))
        yield Sample((x, np.zeros((0, 1), np.int32)), _gather_attrs((1,), (), (0,), (3,), mode))


def _gather_attrs(offset: tuple, collapsed: tuple, start_map: tuple, window: tuple, mode: str) -> Attrs:
    return {
        "offset_dims": offset,
        "collapsed_slice_dims": collapsed,
        "start_index_map": start_map,
        "slice_sizes": window,
        "mode": mode,
    }


define(
    Op(
        "gather",
        "Windows of `slice_sizes` from x at the places that `indices` names: gather(x, indices); clip moves windows"
        " inside, fill gives NaN (the least signed, the greatest unsigned integer, False) for windows out of bounds.",
        _gather_infer,
        attrs={
            "offset_dims": REQUIRED,
            "collapsed_slice_dims": REQUIRED,
            "start_index_map": REQUIRED,
            "operand_batching_dims": (),
            "start_indices_batching_dims": (),
            "slice_sizes": REQUIRED,
            "mode": "clip",
        },
        evaluate=_gather,
        samples=_gather_samples,
    )
)

# -- scatter -------------------------------------------------------------------------------------------------------

COMBINERS = ("set", "add", "mul", "min", "max")


def _scatter_infer(call: Call) -> tuple[TensorType, ...]:
    x, indices, updates = operands("scatter", call, 3)
    attrs = call.attrs
    maps = ("scatter_dims_to_operand_dims", "operand_batching_dims", "scatter_indices_batching_dims")
    _require_index_maps("scatter", x, indices, attrs, *maps)
    require(
        updates.dtype is x.dtype, f"scatter: operand 2 is {updates}, but operand 0 is {x}: their dtypes must be equal"
    )
    combiner = choice("scatter", attrs, "combiner", COMBINERS)
    if combiner in ("add", "mul"):
        require(x.dtype is not bool_, f"scatter: {x} has no {combiner}")
    if combiner in ("min", "max"):
        require(x.dtype not in COMPLEXES, f"scatter: {x} has no {combiner}")
    inserted = dimensions("scatter", attrs, "inserted_window_dims", x.rank, ordered=True)
    batching = attrs["operand_batching_dims"]
    require(
        not set(inserted) & set(batching), f"scatter: inserted_window_dims {inserted} and batching {batching} overlap"
    )
    kept = without(x.shape, (*inserted, *batching))
    window_dims = dimensions("scatter", attrs, "update_window_dims", updates.rank, ordered=True)
    require(
        len(window_dims) == len(kept),
        f"scatter: update_window_dims {window_dims} must have one entry for each of the {len(kept)} window dimensions"
        f" of {x}",
    )
    for d, size in zip(window_dims, kept, strict=True):
        require_fits("scatter", f"window dimension {d} of the updates", updates.shape[d], size)
    batch = without(updates.shape, window_dims)
    require(
        batch == indices.shape[:-1],
        f"scatter: the updates {updates} have batch dimensions {batch}, the indices {indices} have"
        f" {indices.shape[:-1]}",
    )
    return (x,)


def _scatter(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    x, indices, updates = arrays
    window_dims = attrs["update_window_dims"]
    batching = attrs["operand_batching_dims"]
    removed = (*attrs["inserted_window_dims"], *batching)
    of_update = iter(window_dims)
    window = [1 if d in removed else updates.shape[next(of_update)] for d in range(x.ndim)]
    starts = _starts(
        x.shape, indices, attrs["scatter_dims_to_operand_dims"], batching, attrs["scatter_indices_batching_dims"]
    )
    inside = np.ones(indices.shape[:-1], np.bool_)
    for start, d, n in zip(starts, x.shape, window, strict=True):
        inside &= (start >= 0) & (start <= d - n)
    # Batch dimensions first, so that flat order is the row-major order of the indices; windows outside drop out.
    order = [d for d in range(updates.ndim) if d not in window_dims] + list(window_dims)
    chosen = updates.transpose(order)[inside]
    places = _places([s[inside] for s in starts], window, removed)
    flat = np.zeros(chosen.shape, np.int64)
    for place, d in zip(places, x.shape, strict=True):
        flat = flat * d + place
    return (_combined(attrs["combiner"], x, flat.reshape(-1), chosen.reshape(-1)),)


def _combined(combiner: str, x: np.ndarray, flat: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """x with `updates` combined into the elements numbered `flat`, in order."""
    if combiner == "set":
        out = x.reshape(-1).copy()
        out[flat] = updates
        return out.reshape(x.shape)
    with np.errstate(all="ignore"):
        if combiner in ("min", "max"):
            high = combiner == "max"
            out = precision.order_key(x, nan_high=high).reshape(-1).copy()
            (np.maximum if high else np.minimum).at(out, flat, precision.order_key(updates, nan_high=high))
            return precision.from_order_key(out, x.dtype).reshape(x.shape)
        out = x.reshape(-1).copy()  # updates come one after the other, and each rounds to x's dtype
        (np.add if combiner == "add" else np.multiply).at(out, flat, updates)
        return out.reshape(x.shape)


def _scatter_samples(rng: np.random.Generator) -> Iterator[Sample]:
    def rows(d: DType, index: DType, combiner: str) -> Sample:
        indices = rng.integers(0 if index.kind == "uint" else -2, 9, (6, 1)).astype(index.numpy)
        arrays = (sampling.random(rng, (7, 3), d), indices, sampling.random(rng, (6, 3), d))
        return Sample(arrays, _scatter_attrs((1,), (0,), (0,), combiner))

    for combiner in COMBINERS:
        for d in ALL:
            if not (d is bool_ and combiner in ("add", "mul")) and not (d.is_complex and combiner in ("min", "max")):
                yield rows(d, i64, combiner)
        for index in (i8, u8, i32):
            yield rows(f32, index, combiner)
        # Windows smaller than the operand, by two coordinates, window dimensions between batch dimensions.
        x, updates = sampling.random(rng, (6, 5, 4), f32), sampling.random(rng, (3, 2, 2, 3), f32)
        indices = rng.integers(-1, 6, (3, 2, 2)).astype(np.int32)
        yield Sample((x, indices, updates), _scatter_attrs((1, 3), (1,), (1, 0), combiner))
        x, updates = sampling.random(rng, (3, 7, 2), f16), sampling.random(rng, (5, 2, 3), f16)
        indices = rng.integers(-2, 9, (5, 3, 1)).astype(np.int32)
        batched = {"operand_batching_dims": (0,), "scatter_indices_batching_dims": (1,)}
        yield Sample((x, indices, updates), {**_scatter_attrs((1,), (1,), (1,), combiner), **batched})
        x = sampling.random(rng, (7,), f32)
        yield Sample(
            (x, np.array([3], np.int32), sampling.random(rng, (), f32)), _scatter_attrs((), (0,), (0,), combiner)
        )
        yield Sample(
            (x, np.zeros((0, 1), np.int32), sampling.random(rng, (0, 3), f32)), _scatter_attrs((1,), (), (0,), combiner)
        )


def _scatter_attrs(window_dims: tuple, inserted: tuple, to_operand: tuple, combiner: str) -> Attrs:
    return {
        "update_window_dims": window_dims,
        "inserted_window_dims": inserted,
        "scatter_dims_to_operand_dims": to_operand,
        "combiner": combiner,
    }


define(
    Op(
        "scatter",
        "x with windows of `updates` combined into it at the places that `indices` names: scatter(x, indices, updates);"
        " windows out of bounds are dropped, the others apply in row-major order of the indices.",
        _scatter_infer,
        attrs={
            "update_window_dims": REQUIRED,
            "inserted_window_dims": REQUIRED,
            "scatter_dims_to_operand_dims": REQUIRED,
            "operand_batching_dims": (),
            "scatter_indices_batching_dims": (),
            "combiner": REQUIRED,
        },
        evaluate=_scatter,
        samples=_scatter_samples,
        tolerance=Tolerance(terms=True),
    )
)
