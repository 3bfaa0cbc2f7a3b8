"""Parts of a tensor and tensors with something around them, at places known when the graph is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import ALL, DType, f32
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, define
from rlx.ir.ops import sampling
from rlx.ir.ops.signature import (
    ints,
    operands,
    require,
    require_fits,
    require_same_dtype,
    require_scalar,
    sizes,
)
from rlx.ir.types import TensorType

# -- slice ---------------------------------------------------------------------------------------------------------


def _slice_infer(call: Call) -> tuple[TensorType, ...]:
    (x,) = operands("slice", call, 1)
    starts = sizes("slice", call.attrs, "starts", x.rank)
    limits = sizes("slice", call.attrs, "limits", x.rank)
    strides = ints("slice", call.attrs, "strides", x.rank)
    shape = []
    for i, (start, limit, stride) in enumerate(zip(starts, limits, strides, strict=True)):
        require(stride >= 1, f"slice: stride {stride} of dimension {i} must be at least 1")
        require_fits("slice", f"limit of dimension {i}", limit, x.shape[i])
        ordered = not (isinstance(start, int) and isinstance(limit, int)) or start <= limit
        require(ordered, f"slice: start {start} of dimension {i} is beyond its limit {limit}")
        shape.append(limit - start if stride == 1 else (limit - start + stride - 1) // stride)
    return (TensorType(tuple(shape), x.dtype),)


def _slice(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    ranges = zip(attrs["starts"], attrs["limits"], attrs["strides"], strict=True)
    return (np.asarray(arrays[0][tuple(slice(*r) for r in ranges)]),)


def _slice_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in ALL:
        yield Sample((sampling.random(rng, (5, 19), d),), {"starts": (1, 2), "limits": (4, 17), "strides": (1, 3)})
    for shape, starts, limits, strides in (
        ((), (), (), ()),
        ((7,), (0,), (7,), (1,)),
        ((7,), (3,), (3,), (2,)),
        ((2, 3, 5), (0, 1, 0), (2, 3, 5), (1, 1, 1)),
        ((0, 3), (0, 0), (0, 2), (1, 1)),
        ((9,), (1,), (9,), (4,)),
    ):
        yield Sample((sampling.random(rng, shape, f32),), {"starts": starts, "limits": limits, "strides": strides})


define(
    Op(
        "slice",
        "Elements starts[i], starts[i] + strides[i], ... below limits[i] along each dimension i.",
        _slice_infer,
        attrs={"starts": REQUIRED, "limits": REQUIRED, "strides": REQUIRED},
        evaluate=_slice,
        samples=_slice_samples,
    )
)

# -- pad -----------------------------------------------------------------------------------------------------------


def _pad_infer(call: Call) -> tuple[TensorType, ...]:
    x, value = operands("pad", call, 2)
    require_same_dtype("pad", (x, value))
    require_scalar("pad", 1, value)
    low, high = (ints("pad", call.attrs, name, x.rank) for name in ("low", "high"))
    interior = ints("pad", call.attrs, "interior", x.rank)
    shape = []
    for i, d in enumerate(x.shape):
        require(interior[i] >= 0, f"pad: interior {interior[i]} of dimension {i} is negative")
        spread = d if interior[i] == 0 or d == 0 else d + (d - 1) * interior[i]
        size = spread + low[i] + high[i]
        require(
            not isinstance(size, int) or size >= 0,
            f"pad: low {low[i]} and high {high[i]} cut more from dimension {i} of {x} than its {spread} elements",
        )
        shape.append(size)
    return (TensorType(tuple(shape), x.dtype),)


def pad_array(
    x: np.ndarray, value: np.ndarray | np.generic, low: Sequence[int], high: Sequence[int], interior: Sequence[int]
) -> np.ndarray:
    """`x` padded with `value` as `pad` says: `interior` elements between neighbours, then edges, negative ones cut."""
    spread = [d + max(d - 1, 0) * n for d, n in zip(x.shape, interior, strict=True)]
    out = np.full([s + lo + hi for s, lo, hi in zip(spread, low, high, strict=True)], value, x.dtype)
    into, taken = [], []
    for d, lo, n, size in zip(x.shape, low, interior, out.shape, strict=True):
        step = n + 1
        first = max(0, -(lo // step)) if lo < 0 else 0
        last = min(d, max(first, -((lo - size) // step)))
        taken.append(slice(first, last))
        start = lo + first * step
        into.append(slice(start, start + (last - first - 1) * step + 1, step) if last > first else slice(0, 0))
    out[tuple(into)] = x[tuple(taken)]
    return out


def _pad(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    return (pad_array(arrays[0], arrays[1], attrs["low"], attrs["high"], attrs["interior"]),)


def _pad_samples(rng: np.random.Generator) -> Iterator[Sample]:
    def sample(shape: tuple[int, ...], d: DType, low: tuple, high: tuple, interior: tuple) -> Sample:
        arrays = (sampling.random(rng, shape, d), sampling.random(rng, (), d))
        return Sample(arrays, {"low": low, "high": high, "interior": interior})

    for d in ALL:
        yield sample((3, 7), d, (1, 0), (2, 3), (0, 1))
    for shape, low, high, interior in (
        ((), (), (), ()),
        ((7,), (-2,), (-3,), (0,)),
        ((7,), (-3,), (2,), (2,)),
        ((7,), (2,), (-4,), (1,)),
        ((4,), (-1,), (-1,), (3,)),
        ((3,), (-3,), (0,), (0,)),
        ((1,), (0,), (0,), (5,)),
        ((0, 3), (1, 0), (1, 0), (2, 0)),
        ((2, 3, 5), (0, 1, 2), (1, 0, 0), (0, 0, 0)),
    ):
        yield sample(shape, f32, low, high, interior)


define(
    Op(
        "pad",
        "x with the scalar padding_value around it and between elements: pad(x, padding_value); low[i] and high[i] are"
        " added at the ends of dimension i (cut, where negative), interior[i] between neighbours.",
        _pad_infer,
        attrs={"low": REQUIRED, "high": REQUIRED, "interior": REQUIRED},
        evaluate=_pad,
        samples=_pad_samples,
    )
)
