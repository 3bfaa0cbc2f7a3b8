"""Making, copying and rearranging tensors without arithmetic on their elements.

`evaluate` may return views of its operands; nobody writes through them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rlx.errors import IRError
from rlx.ir.dtypes import ALL, DType, bf16, f32, i8, i32, i64
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, register
from rlx.ir.ops import sampling
from rlx.ir.ops.convert import convert_array
from rlx.ir.ops.signature import (
    NUMERIC,
    at_least,
    dimension,
    dimensions,
    dtype,
    ints,
    operands,
    require,
    require_fits,
    require_same_dtype,
    require_scalar,
    sizes,
)
from rlx.ir.types import Shape, Size, TensorType, type_of

# -- constant ------------------------------------------------------------------------------------------------------


def _constant_infer(call: Call) -> tuple[TensorType, ...]:
    operands("constant", call, 0)
    value = call.attrs["value"]
    require(isinstance(value, np.ndarray), f"constant: value must be an array, got {value!r}")
    try:
        return (type_of(value),)
    except IRError as error:
        require(False, f"constant: {error.message}", error.hint)
        raise


def _constant(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    return (attrs["value"],)


def _constant_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in ALL:
        yield Sample((), {"value": sampling.edges(d)})
    for shape in sampling.SHAPES:
        yield Sample((), {"value": sampling.random(rng, shape, f32)})


register(
    Op(
        "constant",
        "The array `value`, part of the program.",
        _constant_infer,
        attrs={"value": REQUIRED},
        evaluate=_constant,
        samples=_constant_samples,
    )
)

# -- iota ----------------------------------------------------------------------------------------------------------


def _iota_infer(call: Call) -> tuple[TensorType, ...]:
    operands("iota", call, 0)
    shape = sizes("iota", call.attrs, "shape")
    dimension("iota", call.attrs, len(shape))
    return (TensorType(shape, dtype("iota", call.attrs, NUMERIC)),)


def _iota(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    shape, axis = attrs["shape"], attrs["dimension"]
    counted = convert_array(np.arange(shape[axis], dtype=np.int64), attrs["dtype"])
    return (np.broadcast_to(counted.reshape(-1, *[1] * (len(shape) - axis - 1)), shape),)


def _iota_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in NUMERIC:
        yield Sample((), {"shape": (3, 19), "dimension": 1, "dtype": d})
    for shape in ((7,), (1,), (0, 3), (2, 3, 5)):
        yield Sample((), {"shape": shape, "dimension": 0, "dtype": i32})


register(
    Op(
        "iota",
        "0, 1, 2, ... along `dimension` of a tensor of `shape`, each converted to dtype.",
        _iota_infer,
        attrs={"shape": REQUIRED, "dimension": REQUIRED, "dtype": REQUIRED},
        evaluate=_iota,
        samples=_iota_samples,
    )
)

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


register(
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


register(
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


register(
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


register(
    Op(
        "rev",
        "x with the order of elements reversed along `dimensions`.",
        _rev_infer,
        attrs={"dimensions": REQUIRED},
        evaluate=_rev,
        samples=_rev_samples,
    )
)

# -- slice ---------------------------------------------------------------------------------------------------------


def _slice_infer(call: Call) -> tuple[TensorType, ...]:
    (x,) = operands("slice", call, 1)
    starts = sizes("slice", call.attrs, "starts", x.rank)
    limits = sizes("slice", call.attrs, "limits", x.rank)
    strides = ints("slice", call.attrs, "strides", x.rank)
    shape = []
    for i, (start, limit, stride) in enumerate(zip(starts, limits, strides, strict=True)):
        require(stride >= 1, f"slice: stride {stride} of dimension {i} must be at least 1")
        require_fits("slice", f"limit of dimension {i}", limit, x.shape[i])
        ordered = not (isinstance(start, int) and isinstance(limit, int)) or start <= limit
        require(ordered, f"slice: start {start} of dimension {i} is beyond its limit {limit}")
        shape.append(limit - start if stride == 1 else (limit - start + stride - 1) // stride)
    return (TensorType(tuple(shape), x.dtype),)


def _slice(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    ranges = zip(attrs["starts"], attrs["limits"], attrs["strides"], strict=True)
    return (np.asarray(arrays[0][tuple(slice(*r) for r in ranges)]),)


def _slice_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in ALL:
        yield Sample((sampling.random(rng, (5, 19), d),), {"starts": (1, 2), "limits": (4, 17), "strides": (1, 3)})
    for shape, starts, limits, strides in (
        ((), (), (), ()), ((7,), (0,), (7,), (1,)), ((7,), (3,), (3,), (2,)), ((2, 3, 5), (0, 1, 0), (2, 3, 5), (1, 1, 1)),
        ((0, 3), (0, 0), (0, 2), (1, 1)), ((9,), (1,), (9,), (4,)),
    ):  # fmt: skip
        yield Sample((sampling.random(rng, shape, f32),), {"starts": starts, "limits": limits, "strides": strides})


register(
    Op(
        "slice",
        "Elements starts[i], starts[i] + strides[i], ... below limits[i] along each dimension i.",
        _slice_infer,
        attrs={"starts": REQUIRED, "limits": REQUIRED, "strides": REQUIRED},
        evaluate=_slice,
        samples=_slice_samples,
    )
)

# -- pad -----------------------------------------------------------------------------------------------------------


def _pad_infer(call: Call) -> tuple[TensorType, ...]:
    x, value = operands("pad", call, 2)
    require_same_dtype("pad", (x, value))
    require_scalar("pad", 1, value)
    low, high = (ints("pad", call.attrs, name, x.rank) for name in ("low", "high"))
    interior = ints("pad", call.attrs, "interior", x.rank)
    shape = []
    for i, d in enumerate(x.shape):
        require(interior[i] >= 0, f"pad: interior {interior[i]} of dimension {i} is negative")
        spread = d if interior[i] == 0 or d == 0 else d + (d - 1) * interior[i]
        size = spread + low[i] + high[i]
        require(
            not isinstance(size, int) or size >= 0,
            f"pad: low {low[i]} and high {high[i]} cut more from dimension {i} of {x} than its {spread} elements",
        )
        shape.append(size)
    return (TensorType(tuple(shape), x.dtype),)


def pad_array(
    x: np.ndarray, value: np.ndarray | np.generic, low: Sequence[int], high: Sequence[int], interior: Sequence[int]
) -> np.ndarray:
    """`x` padded with `value` as `pad` says: `interior` elements between neighbours, then the edges, negative ones cut."""
    spread = [d + max(d - 1, 0) * n for d, n in zip(x.shape, interior, strict=True)]
    out = np.full([s + lo + hi for s, lo, hi in zip(spread, low, high, strict=True)], value, x.dtype)
    into, taken = [], []
    for d, lo, n, size in zip(x.shape, low, interior, out.shape, strict=True):
        step = n + 1
        first = max(0, -(lo // step)) if lo < 0 else 0
        last = min(d, max(first, -((lo - size) // step)))
        taken.append(slice(first, last))
        start = lo + first * step
        into.append(slice(start, start + (last - first - 1) * step + 1, step) if last > first else slice(0, 0))
    out[tuple(into)] = x[tuple(taken)]
    return out


def _pad(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    return (pad_array(arrays[0], arrays[1], attrs["low"], attrs["high"], attrs["interior"]),)


def _pad_samples(rng: np.random.Generator) -> Iterator[Sample]:
    def sample(shape: tuple[int, ...], d: DType, low: tuple, high: tuple, interior: tuple) -> Sample:
        arrays = (sampling.random(rng, shape, d), sampling.random(rng, (), d))
        return Sample(arrays, {"low": low, "high": high, "interior": interior})

    for d in ALL:
        yield sample((3, 7), d, (1, 0), (2, 3), (0, 1))
    for shape, low, high, interior in (
        ((), (), (), ()), ((7,), (-2,), (-3,), (0,)), ((7,), (-3,), (2,), (2,)), ((7,), (2,), (-4,), (1,)),
        ((0, 3), (1, 0), (1, 0), (2, 0)), ((1,), (0,), (0,), (5,)), ((3,), (-3,), (0,), (0,)), ((2, 3, 5), (0, 1, 2), (1, 0, 0), (0, 0, 0)),
        ((4,), (-1,), (-1,), (3,)),
    ):  # fmt: skip
        yield sample(shape, f32, low, high, interior)


register(
    Op(
        "pad",
        "x with the scalar padding_value around it and between elements: pad(x, padding_value); low[i] and high[i] are"
        " added at the ends of dimension i (cut, where negative), interior[i] between neighbours.",
        _pad_infer,
        attrs={"low": REQUIRED, "high": REQUIRED, "interior": REQUIRED},
        evaluate=_pad,
        samples=_pad_samples,
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
        same = t.rank == first.rank and all(a == b for d, (a, b) in enumerate(zip(t.shape, first.shape)) if d != axis)
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


register(
    Op(
        "concatenate",
        "The operands one after another along `dimension`; their other sizes are equal.",
        _concatenate_infer,
        attrs={"dimension": REQUIRED},
        evaluate=_concatenate,
        samples=_concatenate_samples,
    )
)
