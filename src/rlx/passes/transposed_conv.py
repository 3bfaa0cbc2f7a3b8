"""Transposed convolutions as ordinary ones, which give all outputs that share a window as features of one pixel.

An image spread out by s = lhs_dilation is zero everywhere but at every s-th position. An output o meets only those
kernel positions t for which v + t is a multiple of s, where v = o - low padding. With v = s q - r, 0 <= r < s, these
are t = s i + r, which meet the image at q + i: so the s outputs of one q see one window of the image, as wide as the
kernel has multiples of s, and are s times the features of one pixel there (Shi et al., "Is the deconvolution layer the
same as a convolutional layer?", arXiv:1609.07009). No product with zero is made.

Kernels that are no multiple of s would need weights of zero, which turn infinities into NaN; they are left to backends.
"""

from __future__ import annotations

from math import prod
from typing import Any

from rlx.ir.graph import Node, Value
from rlx.passes.rewrite import Rewriter


def is_transposed(node: Node) -> bool:
    """Whether a convolution has the form that `as_convolution` takes: kernels are whole multiples of the dilation."""
    attrs: Any = node.attrs
    dilation, kernel = attrs["lhs_dilation"], node.inputs[1].type.sizes[2:]
    return (
        any(s > 1 for s in dilation)
        and attrs["groups"] == 1
        and all(s == 1 for s in (*attrs["strides"], *attrs["rhs_dilation"]))
        and all(k % s == 0 for k, s in zip(kernel, dilation, strict=True))
    )


def as_convolution(b: Rewriter, node: Node) -> Value:
    """The result of a convolution that `is_transposed`, channels last: [N, ..., O]."""
    x, w = node.inputs
    attrs: Any = node.attrs
    dilation, out = attrs["lhs_dilation"], node.output.type.sizes[2:]
    rank = len(out)
    first, last = [], []  # q of the outputs, along each axis
    for s, n, (low, _) in zip(dilation, out, attrs["padding"], strict=True):
        first.append(-(low // s))
        last.append(-((low - n + 1) // s))
    weights = _stacked(b, w, dilation)
    reach = weights.type.sizes[2:]
    size = x.type.sizes[2:]
    padding = tuple((-at, end + taps - n) for at, end, taps, n in zip(first, last, reach, size, strict=True))
    ones = (1,) * rank
    y = b.emit("conv_general", x, weights, **{**attrs, "padding": padding, "lhs_dilation": ones})
    y = b.emit("transpose", y, permutation=(0, *range(2, rank + 2), 1))
    batch, *pixels, _ = y.type.sizes
    features = w.type.sizes[0]
    y = b.emit("reshape", y, shape=(batch, *pixels, *dilation, features))
    places = [axis for pair in zip(range(1, rank + 1), range(rank + 1, 2 * rank + 1), strict=True) for axis in pair]
    y = b.emit("transpose", y, permutation=(0, *places, 2 * rank + 1))
    y = b.emit("reshape", y, shape=(batch, *(n * s for n, s in zip(pixels, dilation, strict=True)), features))
    starts = [-low - s * (at - 1) - 1 for s, at, (low, _) in zip(dilation, first, attrs["padding"], strict=True)]
    limits = [start + n for start, n in zip(starts, out, strict=True)]
    ones = (1,) * (rank + 2)
    return b.emit("slice", y, starts=(0, *starts, 0), limits=(batch, *limits, features), strides=ones)


def _stacked(b: Rewriter, w: Value, dilation: tuple[int, ...]) -> Value:
    """w [O, C, *K] as [r..., O, C, *K / s], r from s - 1 down to 0, its first dimensions as one."""
    features, channels, *kernel = w.type.sizes
    rank = len(kernel)
    taps = [k // s for k, s in zip(kernel, dilation, strict=True)]
    split = [size for pair in zip(taps, dilation, strict=True) for size in pair]
    y = b.emit("reshape", w, shape=(features, channels, *split))
    y = b.emit("rev", y, dimensions=tuple(range(3, 3 + 2 * rank, 2)))
    y = b.emit("transpose", y, permutation=(*range(3, 3 + 2 * rank, 2), 0, 1, *range(2, 2 + 2 * rank, 2)))
    return b.emit("reshape", y, shape=(prod(dilation) * features, channels, *taps))
