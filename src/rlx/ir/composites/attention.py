"""attention: softmax(q k^T * scale + mask) v, over any number of leading dimensions.

Heads are the last leading dimension; where q has more heads than k and v, each head of k and v serves the same number
of consecutive heads of q (grouped queries). Narrow floats take products and sums in f32 and round the result once. A
query that may look at no key gives zeros, as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from rlx.errors import IRError, TypeRuleError
from rlx.ir.builder import GraphBuilder, broadcast_shapes
from rlx.ir.composites.numerics import require_float, spread, widen
from rlx.ir.dim import Dim
from rlx.ir.dtypes import bf16, bool_, f16, f32, f64, i32
from rlx.ir.graph import Value
from rlx.ir.op import Attrs, Call, Op, Sample, Tolerance, define
from rlx.ir.ops.signature import at_least, flag, require, require_same_dtype
from rlx.ir.types import Shape, TensorType


def _infer(call: Call) -> tuple[TensorType, ...]:
    q, k, v, *rest = at_least("attention", call, 3)
    require(len(rest) <= 1, f"attention takes q, k, v and perhaps a mask; got {len(call.inputs)} operands")
    require_float("attention", q, "q")
    require_same_dtype("attention", (q, k, v))
    require(
        q.rank == k.rank == v.rank and q.rank >= 2,
        f"attention: q is {q}, k is {k}, v is {v}: their ranks must be equal, at least 2",
    )
    require(q.shape[-1] == k.shape[-1], f"attention: q is {q}, k is {k}: their last dimensions must be equal")
    require(k.shape[:-1] == v.shape[:-1], f"attention: k is {k}, v is {v}: all but their last dimension must be equal")
    _groups(q, k)
    if rest:
        _require_mask(rest[0], (*q.shape[:-1], k.shape[-2]), q)
    scale, softcap = call.attrs["scale"], call.attrs["softcap"]
    require(scale is None or _is_number(scale), f"attention: scale must be a number or None, got {scale!r}")
    require(_is_number(softcap) and softcap >= 0, f"attention: softcap must be a number from 0 on, got {softcap!r}")
    require(
        scale is not None or isinstance(q.shape[-1], int),
        f"attention: q is {q}, whose last dimension is not known: give a scale",
    )
    flag("attention", call.attrs, "causal")
    return (TensorType((*q.shape[:-1], v.shape[-1]), q.dtype),)


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _require_mask(mask: TensorType, shape: Shape, q: TensorType) -> None:
    good = mask.dtype is bool_ or mask.dtype is q.dtype or mask.dtype is f32
    require(good, f"attention: mask is {mask}, it must be bool, f32 or {q.dtype}")
    try:
        fits = broadcast_shapes(shape, mask.shape) == shape
    except IRError:
        fits = False
    require(fits, f"attention: mask is {mask}, it must broadcast to {shape}")


def _groups(q: TensorType, k: TensorType) -> int:
    """How many heads of q share one of k. Raises TypeRuleError where leading dimensions do not fit."""
    lead, other = q.shape[:-2], k.shape[:-2]
    if lead == other:
        return 1
    heads, shared = lead[-1], other[-1]
    if lead[:-1] == other[:-1] and isinstance(heads, int) and isinstance(shared, int):
        if shared > 0 and heads % shared == 0:
            return heads // shared
    raise TypeRuleError(
        f"attention: q is {q}, k is {k}: leading dimensions must be equal, or q's heads a multiple of k's"
    )


def _expand(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    q, k, v, *masks = values
    dtype = q.type.dtype
    q, k, v = (widen(b, x) for x in (q, k, v))
    groups = _groups(q.type, k.type)
    queries, width = q.type.shape[-2], q.type.shape[-1]
    keys, batch = k.type.shape[-2], k.type.rank - 2
    scores_shape = (*q.type.shape[:-1], keys)
    if groups > 1:
        q = b.emit("reshape", q, shape=(*k.type.shape[:-2], groups, queries, width))
    scores = _product(b, q, k, batch, contract=k.type.rank - 1)
    if groups > 1:
        scores = b.emit("reshape", scores, shape=scores_shape)
    scale = attrs["scale"] if isinstance(width, Dim) or attrs["scale"] is not None else 1 / math.sqrt(width)
    scores = b.binary("mul", scores, scale)
    if attrs["softcap"]:
        scores = b.binary("mul", b.emit("tanh", b.binary("div", scores, attrs["softcap"])), attrs["softcap"])
    scores = _masked(b, scores, masks[0] if masks else None, attrs["causal"])

    weights, total = _weights(b, scores)
    if groups > 1:
        weights = b.emit("reshape", weights, shape=(*k.type.shape[:-2], groups, queries, keys))
    result = _product(b, weights, v, batch, contract=v.type.rank - 2)
    shape = (*scores_shape[:-1], v.type.shape[-1])
    if groups > 1:
        result = b.emit("reshape", result, shape=shape)
    # Dividing after the product costs one division a result rather than one a key.
    result = b.emit("div", result, spread(b, total, (len(shape) - 1,), shape))
    return (b.convert(result, dtype),)


def _product(b: GraphBuilder, x: Value, y: Value, batch: int, contract: int) -> Value:
    """x [batch.., free.., c] times y, contracting y's dimension `contract`."""
    lead = tuple(range(batch))
    return b.emit(
        "dot_general",
        x,
        y,
        lhs_contract=(x.type.rank - 1,),
        rhs_contract=(contract,),
        lhs_batch=lead,
        rhs_batch=lead,
    )


def _masked(b: GraphBuilder, scores: Value, mask: Value | None, causal: bool) -> Value:
    shape = scores.type.shape

    def seen(where: Value) -> Value:
        return b.emit("select", where, scores, b.full(shape, -math.inf, scores.type.dtype))

    if mask is not None and mask.type.dtype is bool_:
        scores = seen(b.broadcast(mask, shape))
    elif mask is not None:
        scores = b.emit("add", scores, b.broadcast(b.convert(mask, scores.type.dtype), shape))
    if causal:
        query, key = (b.iota(shape[-2:], dimension, i32) for dimension in (0, 1))
        scores = seen(b.broadcast(b.emit("le", key, query), shape))
    return scores


def _weights(b: GraphBuilder, scores: Value) -> tuple[Value, Value]:
    """exp(scores - largest), and their sum; the sum of a row that sees nothing is 1, its weights are 0."""
    shape, dtype = scores.type.shape, scores.type.dtype
    last = (len(shape) - 1,)
    largest = b.emit("reduce_max", scores, dimensions=last)
    blind = b.binary("eq", largest, -math.inf)
    zero = b.full(shape[:-1], 0, dtype)
    shift = b.emit("select", blind, zero, largest)
    weights = b.emit("exp", b.emit("sub", scores, spread(b, shift, last, shape)))
    total = b.emit("reduce_sum", weights, dimensions=last)
    return weights, b.emit("select", blind, b.full(shape[:-1], 1, dtype), total)


def _sample(rng: np.random.Generator) -> Iterator[Sample]:
    def draw(*shape: int, dtype: np.dtype = f32.numpy) -> np.ndarray:
        return rng.normal(size=shape).astype(dtype)

    for dtype in (f32, f64, f16, bf16):
        n = dtype.numpy
        yield Sample((draw(2, 3, 5, 8, dtype=n), draw(2, 3, 7, 8, dtype=n), draw(2, 3, 7, 6, dtype=n)))
        yield Sample(
            (draw(2, 4, 5, 8, dtype=n), draw(2, 2, 5, 8, dtype=n), draw(2, 2, 5, 8, dtype=n)), {"causal": True}
        )
        additive = np.where(rng.random((2, 1, 1, 7)) < 0.3, -np.inf, 0).astype(n)
        yield Sample((draw(2, 3, 5, 8, dtype=n), draw(2, 3, 7, 8, dtype=n), draw(2, 3, 7, 8, dtype=n), additive))
    allowed = rng.random((5, 7)) < 0.6
    allowed[2] = False
    yield Sample((draw(3, 5, 8), draw(3, 7, 8), draw(3, 7, 8), allowed), {"softcap": 2.0, "scale": 0.3})
    yield Sample((draw(1, 1), draw(1, 1), draw(1, 1)))
    yield Sample((draw(1, 2, 33, 16), draw(1, 2, 17, 16), draw(1, 2, 17, 16)), {"causal": True})


define(
    Op(
        name="attention",
        summary=(
            "softmax(q [..,S,D] k [..,T,D]^T * scale + mask) v [..,T,E] -> [..,S,E]. The mask is added or, if bool, "
            "says what is seen; causal: query s sees keys t <= s; softcap c: scores become c * tanh(scores / c) before "
            "the mask."
        ),
        infer=_infer,
        attrs={"scale": None, "causal": False, "softcap": 0.0},
        expand=_expand,
        samples=_sample,
        tolerance=Tolerance(ulps=16, terms=True),
    )
)
