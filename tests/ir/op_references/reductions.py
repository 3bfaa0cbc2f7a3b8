"""Reductions, running reductions, windows, and what sorts: plain loops over Python numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from op_references.numbers import Arrays, Attrs, assemble, combine, dtype_of, from_scalars, scalars


def reduce(op: str, arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    axes = attrs["dimensions"]
    kept = [d for d in range(x.ndim) if d not in axes]

    def element(index: tuple[int, ...]) -> Any:
        places = dict(zip(kept, index, strict=True))
        ranges = [[places[d]] if d in places else range(x.shape[d]) for d in range(x.ndim)]
        return combine(op, [scalars(x[i])[0] for i in itertools.product(*ranges)], dtype_of(x))

    return assemble([x.shape[d] for d in kept], dtype_of(x), element)


def rank_key(v: Any, nan_high: bool = True) -> tuple[bool, Any]:
    nan = isinstance(v, float) and math.isnan(v)
    return nan if nan_high else not nan, 0 if nan else v


def lines(x: np.ndarray, axis: int) -> Iterator[tuple[tuple[Any, ...], list[Any]]]:
    """(index with a slice along `axis`, the elements there as Python numbers)."""
    for index in np.ndindex(*x.shape[:axis], *x.shape[axis + 1 :]):
        place = (*index[:axis], slice(None), *index[axis:])
        yield place, scalars(x[place])


def arg_extreme(op: str, arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    axis, high = attrs["dimension"], op == "argmax"
    out = np.zeros(x.shape[:axis] + x.shape[axis + 1 :], attrs["dtype"].numpy)
    for place, values in lines(x, axis):
        keys = [rank_key(v, high) for v in values]
        best = keys.index(max(keys) if high else min(keys))
        out[tuple(p for d, p in enumerate(place) if d != axis)] = best
    return out


def cumulative(op: str, arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    dtype = dtype_of(x)
    out = np.zeros(x.shape, dtype.numpy)
    for place, values in lines(x, attrs["dimension"]):
        ordered = values[::-1] if attrs["reverse"] else values
        name = op.replace("cum", "reduce_")
        found = [combine(name, ordered[: i + 1], dtype) for i in range(len(ordered))]
        out[place] = from_scalars(found[::-1] if attrs["reverse"] else found, (len(found),), dtype)
    return out


def sort(arrays: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...]:
    axis = attrs["dimension"]
    out = tuple(x.copy() for x in arrays)
    for place, _ in lines(arrays[0], axis):
        keys = [scalars(x[place]) for x in arrays[: attrs["num_keys"]]]
        order = sorted(
            range(arrays[0].shape[axis]), key=lambda i: [rank_key(k[i]) for k in keys], reverse=attrs["descending"]
        )
        for x, sorted_ in zip(arrays, out, strict=True):
            sorted_[place] = x[place][np.array(order, np.int64)]
    return out


def top_k(arrays: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...]:
    (x,) = arrays
    axis, k = attrs["dimension"] % x.ndim, attrs["k"]
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    values, found = np.zeros(shape, x.dtype), np.zeros(shape, np.int32)
    for place, line in lines(x, axis):
        order = sorted(range(len(line)), key=lambda i: rank_key(line[i]), reverse=attrs["largest"])[:k]
        found[place] = order
        values[place] = x[place][np.array(order, np.int64)]
    return values, found


def reduce_window(op: str, arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    names = ("window", "strides", "padding", "base_dilation", "window_dilation")
    dims = list(zip(x.shape, *(attrs[n] for n in names), strict=True))
    shape = []
    for d, w, s, (lo, hi), b, wd in dims:
        room = (0 if d == 0 else (d - 1) * b + 1) + lo + hi - ((w - 1) * wd + 1)
        shape.append(room // s + 1 if room >= 0 else 0)

    def element(index: tuple[int, ...]) -> Any:
        found = []
        for inner in itertools.product(*(range(w) for w in attrs["window"])):
            at = [
                divmod(i * s + k * wd - lo, b)
                for i, k, (_, _, s, (lo, _), b, wd) in zip(index, inner, dims, strict=True)
            ]
            if all(rest == 0 and 0 <= place < d for (place, rest), d in zip(at, x.shape, strict=True)):
                found.append(scalars(x[tuple(place for place, _ in at)])[0])
        return combine(op, found, dtype_of(x))

    return assemble(shape, dtype_of(x), element)
