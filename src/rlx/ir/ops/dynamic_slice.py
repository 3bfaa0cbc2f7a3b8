"""Windows whose place is known only at run time: reading them and writing them.

Start indices are integer scalars, one a dimension, all of one dtype; a window that would leave the tensor is moved
back inside, so no start is ever an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import ALL, DType, f32, i8, i32, i64, u8, u32
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, define
from rlx.ir.ops import sampling
from rlx.ir.ops.signature import (
    INTEGERS,
    at_least,
    require,
    require_dtype,
    require_fits,
    require_same_dtype,
    require_scalar,
    sizes,
)
from rlx.ir.types import TensorType


def _require_starts(op: str, x: TensorType, starts: Sequence[TensorType], first: int) -> None:
    require(len(starts) == x.rank, f"{op}: {x} needs {x.rank} start indices, got {len(starts)}")
    for i, t in enumerate(starts):
        require_dtype(op, first + i, t, INTEGERS)
        require_scalar(op, first + i, t)
    require_same_dtype(op, starts, first)


def _window(shape: Sequence[int], starts: Sequence[np.ndarray], window: Sequence[int]) -> tuple[slice, ...]:
    begin = [min(max(int(s), 0), d - n) for s, d, n in zip(starts, shape, window, strict=True)]
    return tuple(slice(b, b + n) for b, n in zip(begin, window, strict=True))


def _slice_infer(call: Call) -> tuple[TensorType, ...]:
    x, *starts = at_least("dynamic_slice", call, 1)
    _require_starts("dynamic_slice", x, starts, 1)
    window = sizes("dynamic_slice", call.attrs, "sizes", x.rank)
    for i, n in enumerate(window):
        require_fits("dynamic_slice", f"size of dimension {i}", n, x.shape[i])
    return (TensorType(window, x.dtype),)


def _slice(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    x, *starts = arrays
    return (np.asarray(x[_window(x.shape, starts, attrs["sizes"])]),)


def _slice_samples(rng: np.random.Generator) -> Iterator[Sample]:
    def sample(shape: tuple, d: DType, starts: tuple, index: DType, window: tuple) -> Sample:
        places = (np.array(s, index.numpy) for s in starts)
        return Sample((sampling.random(rng, shape, d), *places), {"sizes": window})

    for d in ALL:
        yield sample((5, 19), d, (1, 2), i64, (3, 9))
    for index in (i8, u8, i32, u32, i64):
        yield sample((5, 19), f32, (9, 100), index, (3, 9))
    for shape, starts, window in (
        ((), (), ()), ((7,), (-3,), (2,)), ((7,), (6,), (7,)), ((2, 3, 5), (1, -(2**31), 2**31 - 1), (1, 2, 3)),
        ((7,), (2,), (0,)), ((0, 3), (0, 1), (0, 2)),
    ):  # fmt: skip
        yield sample(shape, f32, starts, i32, window)


define(
    Op(
        "dynamic_slice",
        "The window of `sizes` that begins at run-time starts: dynamic_slice(x, start of each dimension...).",
        _slice_infer,
        attrs={"sizes": REQUIRED},
        evaluate=_slice,
        samples=_slice_samples,
    )
)


def _update_infer(call: Call) -> tuple[TensorType, ...]:
    x, update, *starts = at_least("dynamic_update_slice", call, 2)
    require_same_dtype("dynamic_update_slice", (x, update))
    _require_starts("dynamic_update_slice", x, starts, 2)
    require(update.rank == x.rank, f"dynamic_update_slice: operand 1 is {update}, its rank must be that of {x}")
    for i, n in enumerate(update.shape):
        require_fits("dynamic_update_slice", f"size of the update's dimension {i}", n, x.shape[i])
    return (x,)


def _update(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    x, update, *starts = arrays
    out = x.copy()
    out[_window(x.shape, starts, update.shape)] = update
    return (out,)


def _update_samples(rng: np.random.Generator) -> Iterator[Sample]:
    def sample(shape: tuple, window: tuple, d: DType, starts: tuple, index: DType) -> Sample:
        places = (np.array(s, index.numpy) for s in starts)
        return Sample((sampling.random(rng, shape, d), sampling.random(rng, window, d), *places))

    for d in ALL:
        yield sample((5, 19), (3, 9), d, (1, 2), i64)
    for index in (i8, u8, i32, u32, i64):
        yield sample((5, 19), (3, 9), f32, (9, 100), index)
    for shape, window, starts in (
        ((), (), ()), ((7,), (2,), (-3,)), ((7,), (7,), (6,)), ((2, 3, 5), (1, 2, 3), (1, -(2**31), 2**31 - 1)),
        ((7,), (0,), (2,)), ((0, 3), (0, 2), (0, 1)),
    ):  # fmt: skip
        yield sample(shape, window, f32, starts, i32)


define(
    Op(
        "dynamic_update_slice",
        "x with `update` written at run-time starts: dynamic_update_slice(x, update, start of each dimension...).",
        _update_infer,
        evaluate=_update,
        samples=_update_samples,
    )
)
