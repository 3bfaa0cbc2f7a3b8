"""What the composites' bodies share: the precision they compute in, and reductions that keep their dimensions.

Floats narrower than f32 are converted to f32 on the way in and rounded once on the way out, as PyTorch does.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlx.ir.builder import GraphBuilder
from rlx.ir.dtypes import DType, f32
from rlx.ir.graph import Value
from rlx.ir.op import Attrs
from rlx.ir.ops.signature import require
from rlx.ir.types import Shape, TensorType


def compute_dtype(dtype: DType) -> DType:
    """In what a composite computes on `dtype`: f32 for narrower floats, else itself."""
    return f32 if dtype.is_float and dtype.bits < 32 else dtype


def widen(b: GraphBuilder, x: Value) -> Value:
    """`x` in the dtype that its composite computes in."""
    return b.convert(x, compute_dtype(x.type.dtype))


def normal_axis(op: str, attrs: Attrs, rank: int, name: str = "axis") -> int:
    """The attribute `name` counted from the front; refuses what is no dimension of a tensor of `rank`."""
    value = attrs[name]
    require(isinstance(value, int) and not isinstance(value, bool), f"{op}: {name} must be an int, got {value!r}")
    require(-rank <= value < rank, f"{op}: {name} is {value}, the operand has rank {rank}")
    return value % rank


def kept(shape: Shape, axes: Sequence[int]) -> Shape:
    """`shape` with the dimensions `axes` of size 1."""
    return tuple(1 if i in axes else d for i, d in enumerate(shape))


def spread(b: GraphBuilder, x: Value, axes: Sequence[int], shape: Shape) -> Value:
    """`x`, which has lost the dimensions `axes` of `shape`, repeated along them."""
    return b.emit(
        "broadcast_in_dim", x, shape=shape, broadcast_dims=tuple(i for i in range(len(shape)) if i not in axes)
    )


def reduce(b: GraphBuilder, op: str, x: Value, axes: Sequence[int]) -> Value:
    """`x` reduced over `axes` by the primitive `op` and repeated to its old shape."""
    return spread(b, b.emit(op, x, dimensions=tuple(axes)), axes, x.type.shape)


def mean(b: GraphBuilder, x: Value, axes: Sequence[int]) -> Value:
    """The mean of `x` over `axes`, without those dimensions; NaN over nothing."""
    total = b.emit("reduce_sum", x, dimensions=tuple(axes))
    dtype = x.type.dtype
    count = 1
    for axis in axes:
        count = count * x.type.shape[axis]
    if isinstance(count, int):
        return b.binary("div", total, b.constant(count, dtype))
    # A symbolic size is no value of the program, but the sum of as many ones is.
    ones = b.full(tuple(x.type.shape[axis] for axis in axes), 1, dtype)
    return b.binary("div", total, b.emit("reduce_sum", ones, dimensions=tuple(range(len(axes)))))


def along(b: GraphBuilder, x: Value, axis: int, shape: Shape) -> Value:
    """The vector `x` repeated to `shape`, lying along `axis`."""
    return b.emit("broadcast_in_dim", x, shape=shape, broadcast_dims=(axis,))


def require_float(op: str, type: TensorType, operand: str) -> None:
    """Refuse an operand that is no float."""
    require(type.dtype.is_float, f"{op}: {operand} is {type}, it must be a float")
