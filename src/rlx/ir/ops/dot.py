"""The general contraction of two tensors.

Narrow floats accumulate in f32, f32 in f32, f64 in f64; integers in the result's dtype, wrapping. The order of
accumulation is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import DType, bf16, f16, f32, f64, from_numpy, i8, i32, i64, u8
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, Tolerance, define
from rlx.ir.ops import precision, sampling
from rlx.ir.ops.convert import convert_array
from rlx.ir.ops.signature import (
    NUMERIC,
    dimensions,
    dtype,
    operands,
    require,
    require_dtype,
    require_same_dtype,
    without,
)
from rlx.ir.types import TensorType


def matmul(x: np.ndarray, y: np.ndarray, result: DType) -> np.ndarray:
    """[..., m, k] @ [..., k, n] -> [..., m, n] of dtype `result`, accumulating as contractions do."""
    source = from_numpy(x.dtype)
    to = result.numpy
    with np.errstate(all="ignore"):
        if source.is_integer and result.is_integer:
            exact_bits = source.bits * 2 + max(x.shape[-1], 1).bit_length()
            if source.bits <= 16 and exact_bits <= 53:
                # Every partial sum is a whole number that f64 holds: the fast product is exact. Then wrap.
                return np.matmul(x.astype(np.float64), y.astype(np.float64)).astype(np.int64).astype(to)
            wide = np.dtype(np.int64 if result.kind == "int" else np.uint64)
            return np.matmul(x.astype(wide), y.astype(wide)).astype(to)
        # Convert before multiplying where the result is wider, after it where it is not.
        before = result if result.bits > source.bits and result.kind == source.kind else source
        product = np.matmul(precision.stored(convert_array(x, before)), precision.stored(convert_array(y, before)))
        narrow = precision.is_narrow(before.numpy) and before is result
        return precision.rounded(product, to) if narrow or product.dtype == to else convert_array(product, result)


def result_dtype(op: str, attrs: Attrs, source: DType) -> DType:
    """What a contraction of operands of dtype `source` gives: its preferred_dtype where it has one."""
    result = source if attrs["preferred_dtype"] is None else dtype(op, attrs, NUMERIC, "preferred_dtype")
    require(
        result.kind == source.kind or (result.is_integer and source.is_integer),
        f"{op}: preferred_dtype {result} is of another kind than the operands' {source}",
    )
    return result


def _infer(call: Call) -> tuple[TensorType, ...]:
    x, y = operands("dot_general", call, 2)
    for i, t in enumerate((x, y)):
        require_dtype("dot_general", i, t, NUMERIC)
    require_same_dtype("dot_general", (x, y))
    lhs_contract, lhs_batch = (
        dimensions("dot_general", call.attrs, f"lhs_{part}", x.rank) for part in ("contract", "batch")
    )
    rhs_contract, rhs_batch = (
        dimensions("dot_general", call.attrs, f"rhs_{part}", y.rank) for part in ("contract", "batch")
    )
    for part, lhs, rhs in (("contract", lhs_contract, rhs_contract), ("batch", lhs_batch, rhs_batch)):
        require(
            len(lhs) == len(rhs), f"dot_general: lhs_{part} {lhs} and rhs_{part} {rhs} must have equally many entries"
        )
        for a, b in zip(lhs, rhs, strict=True):
            require(
                x.shape[a] == y.shape[b],
                f"dot_general: {part} dimension {a} of {x} has size {x.shape[a]},"
                f" dimension {b} of {y} has {y.shape[b]}",
            )
    require(
        not set(lhs_contract) & set(lhs_batch),
        f"dot_general: lhs_contract {lhs_contract} and lhs_batch {lhs_batch} overlap",
    )
    require(
        not set(rhs_contract) & set(rhs_batch),
        f"dot_general: rhs_contract {rhs_contract} and rhs_batch {rhs_batch} overlap",
    )
    result = result_dtype("dot_general", call.attrs, x.dtype)
    batch = tuple(x.shape[d] for d in lhs_batch)
    return (
        TensorType(
            (*batch, *without(x.shape, lhs_contract + lhs_batch), *without(y.shape, rhs_contract + rhs_batch)), result
        ),
    )


def _dot(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    x, y = arrays
    lhs_free = tuple(d for d in range(x.ndim) if d not in attrs["lhs_contract"] + attrs["lhs_batch"])
    rhs_free = tuple(d for d in range(y.ndim) if d not in attrs["rhs_contract"] + attrs["rhs_batch"])
    batch = tuple(x.shape[d] for d in attrs["lhs_batch"])
    rows, columns = tuple(x.shape[d] for d in lhs_free), tuple(y.shape[d] for d in rhs_free)
    m, n, b = (int(np.prod(part, dtype=np.int64)) for part in (rows, columns, batch))
    k = int(np.prod([x.shape[d] for d in attrs["lhs_contract"]], dtype=np.int64))
    left = x.transpose(attrs["lhs_batch"] + lhs_free + attrs["lhs_contract"]).reshape(b, m, k)
    right = y.transpose(attrs["rhs_batch"] + attrs["rhs_contract"] + rhs_free).reshape(b, k, n)
    result = attrs["preferred_dtype"] or from_numpy(x.dtype)
    return (matmul(left, right, result).reshape(batch + rows + columns),)


def _samples(rng: np.random.Generator) -> Iterator[Sample]:
    def attrs(lhs=(1,), rhs=(0,), lhs_batch=(), rhs_batch=(), preferred=None) -> Attrs:
        return {
            "lhs_contract": lhs,
            "rhs_contract": rhs,
            "lhs_batch": lhs_batch,
            "rhs_batch": rhs_batch,
            "preferred_dtype": preferred,
        }

    def sample(x: tuple, y: tuple, d: DType, attr: Attrs, low: float = -4, high: float = 4) -> Sample:
        return Sample((sampling.random(rng, x, d, low, high), sampling.random(rng, y, d, low, high)), attr)

    for d in NUMERIC:
        yield sample((5, 19), (19, 7), d, attrs())
    for d in (i8, u8):
        yield sample((5, 67), (67, 9), d, attrs(preferred=i32), -128, 255)
        yield sample((5, 67), (67, 9), d, attrs(), -128, 255)
    for d in (i32, i64):
        yield Sample((sampling.whole_range(rng, (5, 19), d), sampling.whole_range(rng, (19, 7), d)), attrs())
    for d, to in ((f16, f32), (bf16, f32), (f32, f64), (i32, i64)):
        yield sample((5, 19), (19, 7), d, attrs(preferred=to))
    for x, y, attr in (
        ((7,), (7,), attrs((0,), (0,))),
        ((), (), attrs((), ())),
        ((3,), (5,), attrs((), ())),
        ((), (3, 2), attrs((), ())),
        ((2, 3, 5), (2, 5, 4), attrs((2,), (1,), (0,), (0,))),
        ((2, 3, 7, 4), (2, 3, 9, 4), attrs((3,), (3,), (0, 1), (0, 1))),
        ((3, 2, 5), (5, 4, 2), attrs((2,), (0,), (1,), (2,))),
        ((2, 3, 4), (4, 3, 6), attrs((1, 2), (1, 0))),
        ((19, 5), (7, 19), attrs((0,), (1,))),
        ((1, 33), (33, 65), attrs()),
        ((65, 130), (130, 1), attrs()),
        ((17, 300), (300, 31), attrs()),
        ((0, 5), (5, 3), attrs()),
        ((3, 0), (0, 5), attrs()),
        ((0, 3, 5), (0, 5, 2), attrs((2,), (1,), (0,), (0,))),
        ((4,), (4,), attrs((), (), (0,), (0,))),
        ((2, 3, 4, 5), (5, 6), attrs((3,), (0,))),
    ):
        yield sample(x, y, f32, attr)


define(
    Op(
        "dot_general",
        "Products of x and y summed over the contract dimensions: batch dimensions, then those of x that are free, then"
        " those of y; of preferred_dtype where it is given.",
        _infer,
        attrs={
            "lhs_contract": REQUIRED,
            "rhs_contract": REQUIRED,
            "lhs_batch": (),
            "rhs_batch": (),
            "preferred_dtype": None,
        },
        evaluate=_dot,
        samples=_samples,
        tolerance=Tolerance(terms=True),
    )
)
