"""Repeating, rearranging and joining tensors without arithmetic on their elements.

`evaluate` may return views of its operands; nobody writes through them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import ALL, bf16, f32, i8, i64
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, define
from rlx.ir.ops import sampling
from rlx.ir.ops.signature import (
    at_least,
    dimension,
    dimensions,
    operands,
    require,
    require_same_dtype,
    sizes,
    without,
)
from rlx.ir.types import Shape, Size, TensorType

# -- broadcast_in_dim ----------------------------------------------------------------------------------------------


def _broadcast_infer(call: Call) -> tuple[TensorType, ...]:
    (x,) = operands("broadcast_in_dim", call, 1)
    shape = sizes("broadcast_in_dim", call.attrs, "shape")
    dims = dimensions("broadcast_in_dim", call.attrs, "broadcast_dims", len(shape), ordered=True)
    require(len(dims) == x.rank, f"broadcast_in_dim: broadcast_dims {dims} must name a dimension for each of {x}")
    for i, d in enumerate(dims):
        require(
            x.shape[i] == 1 or x.shape[i] == shape[d],
            f"broadcast_in_dim: dimension {i} of {x} must be 1 or {shape[d]}, the size of dimension {d} of {shape}",
        )
    return (TensorType(shape, x.dtype),)


def _broadcast(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    (x,) = arrays
    shape, dims = attrs["shape"], attrs["broadcast_dims"]
    placed = [1] * len(shape)
    for i, d in enumerate(dims):
        placed[d] = x.shape[i]
    return (np.broadcast_to(x.reshape(placed), shape),)


def _broadcast_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in ALL:
        yield Sample((sampling.random(rng, (3, 1), d),), {"shape": (2, 3, 5), "broadcast_dims": (1, 2)})
    for shape, to, dims in (
        ((), (3, 7), ()), ((), (), ()), ((7,), (7, 3), (0,)), ((1, 1), (5, 9), (0, 1)), ((3, 5), (3, 5), (0, 1)),
        ((0, 1), (2, 0, 4), (1, 2)), ((1,), (0,), (0,)), ((2, 3), (2, 4, 3, 5), (0, 2)),
    ):  # fmt: skip
        yield Sample((sampling.random(rng, shape, f32),), {"shape": to, "broadcast_dims": dims})


define(
    Op(
        "broadcast_in_dim",
        "x repeated to `shape`: dimension i of x lies along broadcast_dims[i] (increasing), sizes equal or 1.",
        _broadcast_infer,
        attrs={"shape": REQUIRED, "broadcast_dims": REQUIRED},
        evaluate=_broadcast,
        samples=_broadcast_samples,
    )
)

# -- reshape -------------------------------------------------------------------------------------------------------


def _reshape_infer(call: Call) -> tuple[TensorType, ...]:
    (x,) = operands("reshape", call, 1)
    shape = sizes("reshape", call.attrs, "shape")
    before, after = _product(x.shape), _product(shape)
    require(before == after, f"reshape: {x} has {before} elements, the new shape {shape} has {after}")
    return (TensorType(shape, x.dtype),)


def _product(shape: Shape) -> Size:
    return math.prod(shape, start=1)  # type: ignore[arg-type]  # Dim multiplies as ints do


def _reshape(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    return (arrays[0].reshape(attrs["shape"]),)


def _reshape_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in ALL:
        yield Sample((sampling.random(rng, (3, 10), d),), {"shape": (5, 3, 2)})
    for shape, to in (((), (1, 1)), ((1,), ()), ((0, 3), (7, 0)), ((2, 3, 5), (30,)), ((6,), (6,))):
        yield Sample((sampling.random(rng, shape, f32),), {"shape": to})


define(
    Op(
        "reshape",
        "The elements of x, in row-major order, as `shape`.",
        _reshape_infer,
        attrs={"shape": REQUIRED},
        evaluate=_reshape,
        samples=_reshape_samples,
    )
)

# -- transpose, rev ------------------------------------------------------------------------------------------------


def _transpose_infer(call: Call) -> tuple[TensorType, ...]:
    (x,) = operands("transpose", call, 1)
    order = dimensions("transpose", call.attrs, "permutation", x.rank)
    require(len(order) == x.rank, f"transpose: permutation {order} must name every dimension of {x}")
    return (TensorType(tuple(x.shape[d] for d in order), x.dtype),)


def _transpose(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    return (arrays[0].transpose(attrs["permutation"]),)


def _transpose_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in ALL:
        yield Sample((sampling.random(rng, (3, 19), d),), {"permutation": (1, 0)})
    for shape, order in (
        ((2, 3, 5), (2, 0, 1)), ((2, 3, 4, 5), (0, 2, 1, 3)), ((33, 65), (1, 0)), ((), ()), ((7,), (0,)),
        ((0, 3), (1, 0)), ((1, 5, 1), (2, 1, 0)),
    ):  # fmt: skip
        yield Sample((sampling.random(rng, shape, f32),), {"permutation": order})


define(
    Op(
        "transpose",
        "x with its dimensions reordered: dimension i of the result is permutation[i] of x.",
        _transpose_infer,
        attrs={"permutation": REQUIRED},
        evaluate=_transpose,
        samples=_transpose_samples,
    )
)


def _rev_infer(call: Call) -> tuple[TensorType, ...]:
    (x,) = operands("rev", call, 1)
    dimensions("rev", call.attrs, "dimensions", x.rank)
    return (x,)


def _rev(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    return (np.asarray(np.flip(arrays[0], attrs["dimensions"])),)


def _rev_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in ALL:
        yield Sample((sampling.random(rng, (3, 19), d),), {"dimensions": (1,)})
    for shape, dims in (((2, 3, 5), (0, 2)), ((7,), ()), ((0, 3), (0,)), ((1,), (0,)), ((), ())):
        yield Sample((sampling.random(rng, shape, f32),), {"dimensions": dims})


define(
    Op(
        "rev",
        "x with the order of elements reversed along `dimensions`.",
        _rev_infer,
        attrs={"dimensions": REQUIRED},
        evaluate=_rev,
        samples=_rev_samples,
    )
)

# -- concatenate ---------------------------------------------------------------------------------------------------


def _concatenate_infer(call: Call) -> tuple[TensorType, ...]:
    types = at_least("concatenate", call, 1)
    require_same_dtype("concatenate", types)
    first = types[0]
    axis = dimension("concatenate", call.attrs, first.rank)
    total: Size = 0
    for i, t in enumerate(types):
        same = t.rank == first.rank and without(t.shape, (axis,)) == without(first.shape, (axis,))
        require(
            same, f"concatenate: operand {i} is {t}, operand 0 is {first}: they may differ in dimension {axis} alone"
        )
        total = t.shape[axis] + total
    return (TensorType((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype),)


def _concatenate(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    return (np.concatenate(arrays, attrs["dimension"]),)


def _concatenate_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in ALL:
        yield Sample(tuple(sampling.random(rng, (n, 5), d) for n in (2, 3)), {"dimension": 0})
    for shapes, axis in (
        (((2, 3),), 1), (((2, 3), (2, 0), (2, 7)), 1), (((1,), (1,), (1,)), 0), (((0, 3), (0, 3)), 0),
        (((2, 3, 5), (2, 1, 5)), 1),
    ):  # fmt: skip
        yield Sample(tuple(sampling.random(rng, s, f32) for s in shapes), {"dimension": axis})
    for d in (i8, i64, bf16):
        yield Sample(tuple(sampling.random(rng, (3, n), d) for n in (17, 1, 33)), {"dimension": 1})


define(
    Op(
        "concatenate",
        "The operands one after another along `dimension`; their other sizes are equal.",
        _concatenate_infer,
        attrs={"dimension": REQUIRED},
        evaluate=_concatenate,
        samples=_concatenate_samples,
    )
)
