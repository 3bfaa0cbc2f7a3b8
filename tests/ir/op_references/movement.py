"""Ops that move elements: where each element of the result comes from, by the definitions of StableHLO."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from op_references.numbers import Arrays, Attrs, convert_one, dtype_of, extreme, from_scalars, round_to, scalars, wrap
from rlx.ir.dtypes import DType, bool_, by_name


def collect(shape: Sequence[int], dtype: DType, element: Callable[[tuple[int, ...]], Any]) -> np.ndarray:
    """The array whose element at each index is `element(index)`."""
    out = np.zeros(shape, dtype.numpy)
    for index in np.ndindex(*shape):
        out[index] = element(index)
    return out


def iota(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    to, axis = attrs["dtype"], attrs["dimension"]
    return collect(attrs["shape"], to, lambda i: to.numpy.type(convert_one(i[axis], by_name("i64"), to)))


def broadcast(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    dims = attrs["broadcast_dims"]

    def element(index: tuple[int, ...]) -> Any:
        return x[tuple(0 if x.shape[i] == 1 else index[d] for i, d in enumerate(dims))]

    return collect(attrs["shape"], dtype_of(x), element)


def reshape(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    return np.frombuffer(arrays[0].tobytes(), arrays[0].dtype).reshape(attrs["shape"])


def transpose(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    order = attrs["permutation"]
    shape = [x.shape[d] for d in order]
    return collect(shape, dtype_of(x), lambda i: x[tuple(i[order.index(d)] for d in range(x.ndim))])


def rev(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    flipped = attrs["dimensions"]
    return collect(
        x.shape, dtype_of(x), lambda i: x[tuple(x.shape[d] - 1 - p if d in flipped else p for d, p in enumerate(i))]
    )


def slice_(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    triples = list(zip(attrs["starts"], attrs["limits"], attrs["strides"], strict=True))
    shape = [len(range(*t)) for t in triples]
    return collect(shape, dtype_of(x), lambda i: x[tuple(t[0] + p * t[2] for p, t in zip(i, triples, strict=True))])


def pad(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, value = arrays
    low, high, interior = attrs["low"], attrs["high"], attrs["interior"]
    shape = [d + max(d - 1, 0) * n + lo + hi for d, n, lo, hi in zip(x.shape, interior, low, high, strict=True)]

    def element(index: tuple[int, ...]) -> Any:
        at = [divmod(p - lo, n + 1) for p, lo, n in zip(index, low, interior, strict=True)]
        inside = all(rest == 0 and 0 <= place < d for (place, rest), d in zip(at, x.shape, strict=True))
        return x[tuple(place for place, _ in at)] if inside else value[()]

    return collect(shape, dtype_of(x), element)


def concatenate(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    axis = attrs["dimension"]
    sources = [(x, i) for x in arrays for i in range(x.shape[axis])]
    shape = list(arrays[0].shape)
    shape[axis] = len(sources)

    def element(index: tuple[int, ...]) -> Any:
        x, at = sources[index[axis]]
        return x[index[:axis] + (at,) + index[axis + 1 :]]

    return collect(shape, dtype_of(arrays[0]), element)


def clamped(start: int, size: int, window: int) -> int:
    return min(max(int(start), 0), size - window)


def dynamic_slice(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, *starts = arrays
    window = attrs["sizes"]
    begin = [clamped(s, d, n) for s, d, n in zip(starts, x.shape, window, strict=True)]
    return collect(window, dtype_of(x), lambda i: x[tuple(b + p for b, p in zip(begin, i, strict=True))])


def dynamic_update_slice(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, update, *starts = arrays
    begin = [clamped(s, d, n) for s, d, n in zip(starts, x.shape, update.shape, strict=True)]

    def element(index: tuple[int, ...]) -> Any:
        at = tuple(p - b for p, b in zip(index, begin, strict=True))
        inside = all(0 <= p < n for p, n in zip(at, update.shape, strict=True))
        return update[at] if inside else x[index]

    return collect(x.shape, dtype_of(x), element)


def window_start(
    x: np.ndarray,
    indices: np.ndarray,
    batch: tuple[int, ...],
    starts: Sequence[int],
    batching: Sequence[int],
    index_batching: Sequence[int],
) -> list[int]:
    begin = [0] * x.ndim
    for k, d in enumerate(starts):
        begin[d] = int(indices[(*batch, k)])
    for d, b in zip(batching, index_batching, strict=True):
        begin[d] = batch[b]
    return begin


def fill_value(dtype: DType) -> Any:
    if dtype is bool_:
        return False
    if dtype.is_integer:
        return dtype.numpy.type(-(1 << (dtype.bits - 1)) if dtype.kind == "int" else (1 << dtype.bits) - 1)
    return dtype.numpy.type(math.nan)


def gather(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, indices = arrays
    offset, window = attrs["offset_dims"], attrs["slice_sizes"]
    removed = {*attrs["collapsed_slice_dims"], *attrs["operand_batching_dims"]}
    kept = [d for d in range(x.ndim) if d not in removed]
    rank = indices.ndim - 1 + len(kept)
    batch_dims = [d for d in range(rank) if d not in offset]
    shape = [0] * rank
    for d, size in (
        *zip(batch_dims, indices.shape[:-1], strict=True),
        *zip(offset, (window[k] for k in kept), strict=True),
    ):
        shape[d] = size
    maps = (attrs["start_index_map"], attrs["operand_batching_dims"], attrs["start_indices_batching_dims"])

    def element(index: tuple[int, ...]) -> Any:
        begin = window_start(x, indices, tuple(index[d] for d in batch_dims), *maps)
        if attrs["mode"] == "fill" and any(not 0 <= b <= d - n for b, d, n in zip(begin, x.shape, window, strict=True)):
            return fill_value(dtype_of(x))
        at = [clamped(b, d, n) for b, d, n in zip(begin, x.shape, window, strict=True)]
        for place, d in zip(offset, kept, strict=True):
            at[d] += index[place]
        return x[tuple(at)]

    return collect(shape, dtype_of(x), element)


def scatter(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, indices, updates = arrays
    dtype = dtype_of(x)
    window_dims, combiner = attrs["update_window_dims"], attrs["combiner"]
    removed = {*attrs["inserted_window_dims"], *attrs["operand_batching_dims"]}
    kept = [d for d in range(x.ndim) if d not in removed]
    batch_dims = [d for d in range(updates.ndim) if d not in window_dims]
    maps = (
        attrs["scatter_dims_to_operand_dims"],
        attrs["operand_batching_dims"],
        attrs["scatter_indices_batching_dims"],
    )
    window = [1] * x.ndim
    for d, k in zip(window_dims, kept, strict=True):
        window[k] = updates.shape[d]
    # Each sum or product of floats in f64, rounded at once: updates follow one another.
    rounds = combiner in ("add", "mul") and dtype.is_float
    out = dict(zip(np.ndindex(*x.shape), x.reshape(-1) if combiner == "set" else scalars(x), strict=True))
    for index in sorted(np.ndindex(*updates.shape), key=lambda i: [i[d] for d in batch_dims]):
        begin = window_start(x, indices, tuple(index[d] for d in batch_dims), *maps)
        if any(not 0 <= b <= d - n for b, d, n in zip(begin, x.shape, window, strict=True)):
            continue
        for d, k in zip(window_dims, kept, strict=True):
            begin[k] += index[d]
        place = tuple(begin)
        update = updates[index] if combiner == "set" else scalars(updates[index])[0]
        if combiner in ("min", "max"):
            out[place] = extreme(combiner, dtype)(out[place], update)
        else:
            result = update if combiner == "set" else out[place] + update if combiner == "add" else out[place] * update
            out[place] = round_to(result, dtype) if rounds else result
    if combiner == "set":
        return collect(x.shape, dtype, lambda i: out[i])
    values = list(out.values())
    if dtype.is_integer:
        values = [wrap(v, dtype) for v in values]
    return from_scalars(values, x.shape, dtype)
