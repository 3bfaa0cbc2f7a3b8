"""Convolution (cross-correlation, as everywhere in machine learning) over any number of spatial dimensions.

x is [N, C, *S], w is [O, C / groups, *K], the result [N, O, *S']; other layouts are transposes around it, and a
transposed convolution is one with lhs_dilation and a reversed w. Accumulation, and preferred_dtype, are as in
dot_general. Whether padding and the gaps of lhs_dilation are multiplied is left open: a weight that is not finite may
make NaN of these zeros, as it does here, or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rlx.errors import TypeRuleError
from rlx.ir.dtypes import DType, bf16, f32, from_numpy, i8, i32
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, Tolerance, define
from rlx.ir.ops import sampling
from rlx.ir.ops.dot import matmul, result_dtype
from rlx.ir.ops.signature import (
    NUMERIC,
    ints,
    operands,
    pairs,
    require,
    require_dtype,
    require_same_dtype,
    whole,
)
from rlx.ir.ops.slicing import pad_array
from rlx.ir.ops.window import window_count, window_counts, windows
from rlx.ir.types import TensorType

_NAMES = ("strides", "lhs_dilation", "rhs_dilation")


def _infer(call: Call) -> tuple[TensorType, ...]:
    x, w = operands("conv_general", call, 2)
    for i, t in enumerate((x, w)):
        require_dtype("conv_general", i, t, NUMERIC)
        require(t.rank >= 2, f"conv_general: operand {i} is {t}, it needs at least 2 dimensions")
    require_same_dtype("conv_general", (x, w))
    require(x.rank == w.rank, f"conv_general: operand 1 is {w}, its rank must be that of {x}")
    spatial = x.rank - 2
    strides, lhs_dilation, rhs_dilation = (ints("conv_general", call.attrs, name, spatial) for name in _NAMES)
    for name, values in zip(_NAMES, (strides, lhs_dilation, rhs_dilation), strict=True):
        require(all(v >= 1 for v in values), f"conv_general: {name} {values} must be at least 1 everywhere")
    padding = pairs("conv_general", call.attrs, "padding", spatial)
    groups = whole("conv_general", call.attrs, "groups", 1)
    require(
        x.shape[1] == w.shape[1] * groups,
        f"conv_general: {x} has {x.shape[1]} channels, {w} in {groups} groups takes {w.shape[1] * groups}",
    )
    out = w.shape[0]
    divided = not isinstance(out, int) or out % groups == 0
    require(divided, f"conv_general: the {out} output channels of {w} do not divide into {groups} groups")
    shape = []
    for i in range(spatial):
        kernel = w.shape[i + 2]
        if not isinstance(kernel, int) or kernel < 1:
            raise TypeRuleError(f"conv_general: size {kernel} of the kernel {w} must be known and not 0")
        shape.append(window_count(x.shape[i + 2], kernel, strides[i], padding[i], lhs_dilation[i], rhs_dilation[i]))
    return (TensorType((x.shape[0], out, *shape), result_dtype("conv_general", call.attrs, x.dtype)),)


def _conv(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    x, w = arrays
    groups, padding = attrs["groups"], attrs["padding"]
    result = attrs["preferred_dtype"] or from_numpy(x.dtype)
    batch, channels, kernel = x.shape[0], w.shape[1], w.shape[2:]
    lhs_dilation, rhs_dilation = attrs["lhs_dilation"], attrs["rhs_dilation"]
    counts = window_counts(x.shape[2:], kernel, attrs["strides"], padding, lhs_dilation, rhs_dilation)
    out = np.zeros((batch, w.shape[0], *counts), result.numpy)
    if out.size == 0:
        return (out,)
    low, high = ((0, 0, *(p[side] for p in padding)) for side in (0, 1))
    padded = pad_array(x, np.zeros((), x.dtype), low, high, (0, 0, *(d - 1 for d in lhs_dilation)))
    spatial = len(kernel)
    weights = w.reshape(groups, w.shape[0] // groups, channels * math.prod(kernel))
    for n in range(batch):
        # [C, *S', 1, *K] -> [groups, C / groups, *K, *S'] -> [groups, C / groups * K, S'], one image at a time.
        view = windows(padded[n], (1, *kernel), (1, *attrs["strides"]), (1, *rhs_dilation))
        view = view.reshape(groups, channels, *counts, *kernel)
        order = (0, 1, *range(2 + spatial, 2 + 2 * spatial), *range(2, 2 + spatial))
        columns = view.transpose(order).reshape(groups, weights.shape[-1], math.prod(counts))
        out[n] = matmul(weights, columns, result).reshape(out.shape[1:])
    return (out,)


def _samples(rng: np.random.Generator) -> Iterator[Sample]:
    def sample(
        x: tuple,
        w: tuple,
        d: DType = f32,
        strides=None,
        padding=None,
        lhs=None,
        rhs=None,
        groups: int = 1,
        preferred: DType | None = None,
    ) -> Sample:
        ones = (1,) * (len(x) - 2)
        attrs = {
            "strides": strides or ones,
            "padding": padding or ((0, 0),) * len(ones),
            "lhs_dilation": lhs or ones,
            "rhs_dilation": rhs or ones,
            "groups": groups,
            "preferred_dtype": preferred,
        }
        return Sample((sampling.random(rng, x, d), sampling.random(rng, w, d)), attrs)

    for d in NUMERIC:
        yield sample((2, 3, 7, 9), (4, 3, 3, 2), d, (2, 1), ((1, 1), (0, 1)))
    one = ((1, 1), (1, 1))
    yield sample((1, 4, 8, 8), (8, 4, 3, 3), padding=one)
    yield sample((1, 16, 9, 11), (33, 16, 1, 1))
    yield sample((1, 6, 9, 9), (6, 1, 3, 3), padding=one, groups=6)
    yield sample((1, 6, 9, 9), (12, 1, 5, 5), strides=(2, 2), padding=((2, 2), (2, 2)), groups=6)
    yield sample((2, 6, 7, 7), (4, 3, 3, 3), groups=2)
    yield sample((1, 3, 9, 9), (2, 3, 3, 3), padding=((2, 2), (2, 2)), rhs=(2, 2))
    yield sample((1, 3, 5, 5), (2, 3, 3, 3), padding=((2, 3), (2, 1)), lhs=(2, 2))
    yield sample((1, 3, 5, 6), (4, 3, 3, 3), strides=(2, 1), padding=one, lhs=(2, 3), rhs=(1, 2))
    yield sample((1, 3, 9, 9), (2, 3, 3, 3), padding=((-1, 0), (0, -2)))
    for d, to in ((bf16, f32), (i8, i32)):
        yield sample((1, 11, 8, 9), (9, 11, 3, 3), d, padding=one, preferred=to)
    yield sample((2, 3, 13), (5, 3, 3), padding=((1, 1),), strides=(2,))
    yield sample((1, 1, 131), (4, 1, 16), strides=(8,))
    yield sample((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), padding=((1, 0), (0, 0), (1, 1)))
    yield sample((2, 3), (4, 3))
    yield sample((1, 2, 2, 2), (3, 2, 5, 5))
    yield sample((0, 2, 5, 5), (3, 2, 3, 3))
    yield sample((1, 8, 12, 12), (16, 8, 7, 7), strides=(2, 2), padding=((3, 3), (3, 3)))


define(
    Op(
        "conv_general",
        "The convolution of x [N, C, *S] with w [O, C / groups, *K] is [N, O, *S']; padding comes after lhs_dilation.",
        _infer,
        attrs={
            "strides": REQUIRED,
            "padding": REQUIRED,
            "lhs_dilation": REQUIRED,
            "rhs_dilation": REQUIRED,
            "groups": 1,
            "preferred_dtype": None,
        },
        evaluate=_conv,
        samples=_samples,
        tolerance=Tolerance(terms=True),
    )
)
