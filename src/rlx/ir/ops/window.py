"""Reductions over sliding windows: pooling and its kin.

Windows have the full rank of the operand. Base dilation puts holes between elements, padding (negative ones cut)
surrounds the result, window dilation spreads a window's elements; holes and padding act as the identity of the
reduction, so a mean is a sum divided by a count of one's own making.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import DType, f32
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, Tolerance, define
from rlx.ir.ops import precision, sampling
from rlx.ir.ops.reduce import Reduction, reduce_max, reduce_min, reduce_sum
from rlx.ir.ops.signature import NUMERIC, ORDERED, Evaluate, Infer, ints, operands, pairs, require, require_dtype
from rlx.ir.ops.slicing import pad_array
from rlx.ir.types import Size, TensorType


def window_count(size: Size, window: int, stride: int, padding: tuple[int, int], base: int, dilation: int) -> Size:
    """How many windows lie along a dimension of `size`: none where the padded size is below the window's reach."""
    spread = size if base == 1 or size == 0 else (size - 1) * base + 1
    room = spread + padding[0] + padding[1] - ((window - 1) * dilation + 1)
    if isinstance(room, int) and room < 0:
        return 0
    return room + 1 if stride == 1 else room // stride + 1


def window_counts(
    shape: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """`window_count` of each dimension of an array."""
    each = zip(shape, window, strides, padding, base, dilation, strict=True)
    return [int(window_count(*dim)) for dim in each]  # type: ignore[arg-type]  # ints give ints


def windows(x: np.ndarray, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> np.ndarray:
    """A read-only view [*counts, *window] of every window of `x`, which is padded and dilated already."""
    reach = [(n - 1) * d + 1 for n, d in zip(window, dilation, strict=True)]
    # NumPy's view knows its own dtypes alone: take the bits of the others.
    bits = x.view(np.dtype(f"u{x.itemsize}")) if x.dtype.kind == "V" or x.itemsize == 1 else x
    view = np.lib.stride_tricks.sliding_window_view(bits, reach)
    places = tuple(slice(None, None, s) for s in strides)
    return view[places + tuple(slice(None, None, d) for d in dilation)].view(x.dtype)


def _infer(name: str, accepted: Sequence[DType]) -> Infer:
    def rule(call: Call) -> tuple[TensorType, ...]:
        (x,) = operands(name, call, 1)
        require_dtype(name, 0, x, accepted)
        parts = {
            key: ints(name, call.attrs, key, x.rank)
            for key in ("window", "strides", "base_dilation", "window_dilation")
        }
        for key, values in parts.items():
            require(all(v >= 1 for v in values), f"{name}: {key} {values} must be at least 1 everywhere")
        padding = pairs(name, call.attrs, "padding", x.rank)
        shape = []
        for i, d in enumerate(x.shape):
            w, s, b, wd = (values[i] for values in parts.values())
            shape.append(window_count(d, w, s, padding[i], b, wd))
        return (TensorType(tuple(shape), x.dtype),)

    return rule


def _evaluate(reduction: Reduction, identity: Callable[[np.dtype], np.ndarray | np.generic]) -> Evaluate:
    def evaluate(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        window, strides, dilation = attrs["window"], attrs["strides"], attrs["window_dilation"]
        padding, base = attrs["padding"], attrs["base_dilation"]
        counts = window_counts(x.shape, window, strides, padding, base, dilation)
        if 0 in counts:
            return (np.zeros(counts, x.dtype),)
        low, high = ([p[side] for p in padding] for side in (0, 1))
        padded = pad_array(x, np.asarray(identity(x.dtype)).astype(x.dtype), low, high, [b - 1 for b in base])
        with np.errstate(all="ignore"):
            return (reduction(windows(padded, window, strides, dilation), tuple(range(x.ndim, 2 * x.ndim))),)

    return evaluate


def _samples(accepted: Sequence[DType], extreme: bool) -> sampling.Samples:
    def attrs(window, strides=None, padding=None, base=None, dilation=None) -> Attrs:
        ones = (1,) * len(window)
        return {
            "window": window,
            "strides": strides or ones,
            "padding": padding or ((0, 0),) * len(window),
            "base_dilation": base or ones,
            "window_dilation": dilation or ones,
        }

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for d in accepted:
            yield Sample((sampling.random(rng, (3, 19), d, -9, 9),), attrs((2, 3), (1, 2), ((1, 0), (1, 1))))
            if extreme:
                edges = rng.permutation(sampling.edges(d))
                yield Sample((edges,), attrs((2,), (1,), ((1, 1),)))
        for shape, attr in (
            ((1, 2, 9, 11), attrs((1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), (1, 1), (1, 1)))),
            ((1, 2, 8, 7), attrs((1, 1, 2, 2), (1, 1, 2, 2))),
            ((13,), attrs((3,), (2,), ((2, 1),), (2,), (3,))),
            ((13,), attrs((13,), (1,), ((12, 0),))),
            ((9,), attrs((3,), (1,), ((-2, -1),))),
            ((5,), attrs((9,))),
            ((0, 3), attrs((1, 2), (1, 1), ((1, 1), (0, 0)))),
            ((1,), attrs((1,))),
            ((), attrs(())),
        ):
            yield Sample((sampling.random(rng, shape, f32),), attr)

    return samples


for _name, _summary, _reduction, _identity, _accepted, _terms in (
    ("reduce_window_sum", "The sum of each window.", reduce_sum, lambda d: np.zeros((), d), NUMERIC, True),
    ("reduce_window_max", "The largest of each window.", reduce_max, precision.lowest, ORDERED, False),
    ("reduce_window_min", "The smallest of each window.", reduce_min, precision.highest, ORDERED, False),
):
    define(
        Op(
            _name,
            _summary,
            _infer(_name, _accepted),
            attrs={
                "window": REQUIRED,
                "strides": REQUIRED,
                "padding": REQUIRED,
                "base_dilation": REQUIRED,
                "window_dilation": REQUIRED,
            },
            evaluate=_evaluate(_reduction, _identity),
            samples=_samples(_accepted, not _terms),
            tolerance=Tolerance(terms=_terms),
        )
    )
