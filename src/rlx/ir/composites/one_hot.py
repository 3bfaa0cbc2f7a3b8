"""one_hot: indices to rows with one element on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlx.ir.builder import GraphBuilder
from rlx.ir.composites.numerics import spread
from rlx.ir.dtypes import DType, bool_, f32, i8, i32, i64, u8
from rlx.ir.graph import Value
from rlx.ir.op import REQUIRED, Attrs, Call, Op, Sample, Tolerance, define
from rlx.ir.ops.signature import FLOATS, INTEGERS, is_size, require, require_dtype
from rlx.ir.types import TensorType


def _infer(call: Call) -> tuple[TensorType, ...]:
    count, depth, axis, dtype = len(call.inputs), call.attrs["depth"], call.attrs["axis"], call.attrs["dtype"]
    require(count in (1, 3), f"one_hot takes indices, or indices, off and on; got {count} operands")
    indices = call.inputs[0]
    require_dtype("one_hot", 0, indices, INTEGERS + FLOATS)
    require(isinstance(dtype, DType), f"one_hot: dtype must be a DType, got {dtype!r}")
    require(is_size(depth), f"one_hot: depth must be a size, got {depth!r}")
    rank = indices.rank + 1
    good = isinstance(axis, int) and not isinstance(axis, bool) and -rank <= axis < rank
    require(good, f"one_hot: axis is {axis!r}, the result has rank {rank}")
    for name, type in zip(("off", "on"), call.inputs[1:], strict=False):
        require(type == TensorType((), dtype), f"one_hot: {name} is {type}, it must be {TensorType((), dtype)}")
    axis %= rank
    return (TensorType((*indices.shape[:axis], depth, *indices.shape[axis:]), dtype),)


def _expand(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    depth, dtype = attrs["depth"], attrs["dtype"]
    axis = attrs["axis"] % (values[0].type.rank + 1)
    indices = b.convert(values[0], i64)
    shape = (*indices.type.shape[:axis], depth, *indices.type.shape[axis:])
    steps = b.iota(shape, axis, i64)
    spread_indices = spread(b, indices, (axis,), shape)
    hit = b.emit("eq", steps, spread_indices)
    # Counted from the end: index -1 is the last step.
    if values[0].type.dtype.kind != "uint":
        if isinstance(depth, int):
            from_end = b.binary("sub", steps, depth)
        else:
            backwards = b.emit("rev", b.iota(shape, axis, i64), dimensions=(axis,))
            from_end = b.binary("sub", b.emit("neg", backwards), 1)
        hit = b.emit("or", hit, b.emit("eq", from_end, spread_indices))
    if len(values) == 1:
        return (b.convert(hit, dtype),)
    return (b.emit("select", hit, b.broadcast(values[2], shape), b.broadcast(values[1], shape)),)


def _sample(rng: np.random.Generator) -> Iterator[Sample]:
    for index in (i32, i64, u8, f32):
        indices = rng.integers(0, 9, size=(3, 4)).astype(index.numpy)
        for axis in (-1, 0, 1):
            yield Sample((indices,), {"depth": 7, "axis": axis, "dtype": f32})
    signed = np.array([-8, -7, -1, 0, 6, 7], np.int32)
    for dtype in (f32, i8, bool_):
        values = (np.array(0, dtype.numpy), np.array(1, dtype.numpy))
        yield Sample((signed, *values), {"depth": 7, "dtype": dtype})
    yield Sample((signed, np.array(3.5, np.float32), np.array(-2, np.float32)), {"depth": 7, "axis": 0, "dtype": f32})


define(
    Op(
        name="one_hot",
        summary=(
            "A new dimension of size `depth` at `axis`, `on` where its step equals the index and `off` elsewhere; "
            "negative indices count from the end, others match nothing. Without off and on: 0 and 1."
        ),
        infer=_infer,
        attrs={"depth": REQUIRED, "axis": -1, "dtype": REQUIRED},
        expand=_expand,
        samples=_sample,
        tolerance=Tolerance(),
    )
)
