"""Contractions: dot_general as loops over Python numbers, convolution by PyTorch in f64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from op_references.numbers import Arrays, Attrs, assemble, combine, dtype_of, from_scalars, scalars


def dot_general(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, y = arrays
    result = attrs["preferred_dtype"] or dtype_of(x)
    lhs_free = [d for d in range(x.ndim) if d not in attrs["lhs_contract"] + attrs["lhs_batch"]]
    rhs_free = [d for d in range(y.ndim) if d not in attrs["rhs_contract"] + attrs["rhs_batch"]]
    split = len(attrs["lhs_batch"]), len(attrs["lhs_batch"]) + len(lhs_free)
    xs, ys = (np.array(scalars(a), object).reshape(a.shape) for a in (x, y))

    def element(index: tuple[int, ...]) -> Any:
        left = dict(zip(attrs["lhs_batch"], index[: split[0]], strict=True)) | dict(
            zip(lhs_free, index[split[0] : split[1]], strict=True)
        )
        right = dict(zip(attrs["rhs_batch"], index[: split[0]], strict=True)) | dict(
            zip(rhs_free, index[split[1] :], strict=True)
        )
        terms = []
        for inner in itertools.product(*(range(x.shape[d]) for d in attrs["lhs_contract"])):
            left.update(zip(attrs["lhs_contract"], inner, strict=True))
            right.update(zip(attrs["rhs_contract"], inner, strict=True))
            terms.append(xs[tuple(left[d] for d in range(x.ndim))] * ys[tuple(right[d] for d in range(y.ndim))])
        return combine("sum", terms, result)

    shape = [x.shape[d] for d in (*attrs["lhs_batch"], *lhs_free)] + [y.shape[d] for d in rhs_free]
    return assemble(shape, result, element)


def conv(arrays: Arrays, attrs: Attrs) -> np.ndarray | None:
    x, w = arrays
    dtype, spatial = attrs["preferred_dtype"] or dtype_of(x), x.ndim - 2
    if 0 in x.shape:
        return None
    wide = np.complex128 if dtype.is_complex else np.float64
    inputs = [torch.from_numpy(np.array(scalars(a), wide).reshape(a.shape)) for a in (x, w)]
    spread = inputs[0].new_zeros(
        *x.shape[:2], *((d - 1) * n + 1 for d, n in zip(x.shape[2:], attrs["lhs_dilation"], strict=True))
    )
    spread[(..., *(slice(None, None, n) for n in attrs["lhs_dilation"]))] = inputs[0]
    padded = F.pad(spread, [p for pair in reversed(attrs["padding"]) for p in pair])
    if spatial == 0:
        out = padded @ inputs[1].T
    elif any(d < (k - 1) * n + 1 for d, k, n in zip(padded.shape[2:], w.shape[2:], attrs["rhs_dilation"], strict=True)):
        return None
    else:
        function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[spatial]
        out = function(padded, inputs[1], None, attrs["strides"], 0, attrs["rhs_dilation"], attrs["groups"])
    values = [
        combine("sum", [v if dtype.is_float or dtype.is_complex else int(v)], dtype) for v in out.reshape(-1).tolist()
    ]
    return from_scalars(values, out.shape, dtype)
