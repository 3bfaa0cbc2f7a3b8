"""Inputs for the op tests: edge values of each dtype, random values, and the shapes that find mistakes.

Everything is drawn from the generator that is handed in, so equal seeds give equal samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from rlx.ir.dtypes import DType
from rlx.ir.op import Attrs, Sample

if TYPE_CHECKING:
    Generator = np.random.Generator
else:
    Generator = "np.random.Generator"  # 10 ms to import, and few processes draw samples

Samples = Callable[[Generator], Iterator[Sample]]
#: Shapes that find mistakes: odd sizes past a vector's width, size 1, empty, rank 0.
SHAPES: tuple[tuple[int, ...], ...] = ((3, 37), (1,), (0, 3), ())


def edges(dtype: DType) -> np.ndarray:
    """The values of `dtype` where rules change: zeros, ones, limits, denormals, infinities, NaN. One dimension."""
    np_dtype = dtype.numpy
    if dtype.kind == "bool":
        return np.array([False, True])
    if dtype.is_integer:
        info = ml_dtypes.iinfo(np_dtype)
        found = [info.min, info.min + 1, -7, -2, -1, 0, 1, 2, 3, 5, 7, info.max - 1, info.max]
        return np.array(
            sorted({x for x in found if info.min <= x <= info.max}), np.int64 if info.min else np.uint64
        ).astype(np_dtype)
    if dtype.is_complex:
        parts = np.array([-1.5, -0.25, 0.5, 2.0])
        return (parts[:, None] + 1j * parts[None, :]).reshape(-1).astype(np_dtype)
    info = ml_dtypes.finfo(np_dtype)
    tiny, least, most, eps = (float(x) for x in (info.tiny, info.smallest_subnormal, info.max, info.eps))
    found = [
        0.0,
        least,
        tiny,
        0.25,
        0.5,
        1 - eps / 2,
        1.0,
        1 + eps,
        1.5,
        2.0,
        2.5,
        3.0,
        7.0,
        20.0,
        100.0,
        most / 2,
        most,
        np.inf,
    ]
    with np.errstate(all="ignore"):
        return np.array([*found, *(-x for x in found), np.nan], np.float64).astype(np_dtype)


def random(
    rng: np.random.Generator, shape: Sequence[int], dtype: DType, low: float = -4.0, high: float = 4.0
) -> np.ndarray:
    """Uniform values: floats in [low, high), integers over [low, high) within their limits, fair bools."""
    shape = tuple(shape)
    if dtype.kind == "bool":
        return np.asarray(rng.integers(0, 2, shape).astype(np.bool_))
    if dtype.is_integer:
        info = ml_dtypes.iinfo(dtype.numpy)
        least, most = max(int(low), int(info.min)), min(int(high), int(info.max))
        return np.asarray(rng.integers(least, most + 1, shape)).astype(dtype.numpy)
    values = rng.uniform(low, high, shape)
    if dtype.is_complex:
        values = values + 1j * rng.uniform(low, high, shape)
    return np.asarray(values).astype(dtype.numpy)


def whole_range(rng: np.random.Generator, shape: Sequence[int], dtype: DType) -> np.ndarray:
    """Random bytes as `dtype`: every integer, and floats of every exponent, NaN among them."""
    shape = tuple(shape)
    if dtype.kind == "bool" or dtype.bits == 4:
        return random(rng, shape, dtype, -8, 15)
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(rng.bytes(count * dtype.itemsize), dtype.numpy).reshape(shape).copy()


def pointwise(
    dtypes: Sequence[DType],
    count: int,
    *,
    low: float = -4.0,
    high: float = 4.0,
    attrs: Sequence[Attrs] = ({},),
) -> Samples:
    """Samples for a pointwise op of `count` operands of one dtype.

    For each dtype: all combinations of edge values (of a random subset, for three operands), random values of an odd
    shape, and, for the first dtype, every shape of `SHAPES`. low, high: where the random values lie.
    """

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for attr in attrs:
            for i, dtype in enumerate(dtypes):
                yield Sample(combinations(rng, edges(dtype), count), attr)
                for shape in SHAPES if i == 0 else SHAPES[:1]:
                    yield Sample(tuple(random(rng, shape, dtype, low, high) for _ in range(count)), attr)

    return samples


def combinations(rng: np.random.Generator, values: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """`count` arrays that hold all combinations of `values` (of 7 random ones of them, for more than two arrays)."""
    if count > 2 and len(values) > 7:
        values = rng.permutation(values)[:7]
    grid = np.meshgrid(*[np.arange(len(values))] * count, indexing="ij")
    return tuple(values[g.reshape(-1)] for g in grid)
