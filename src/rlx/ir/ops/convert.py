"""Changing dtype: by value (`convert`) and by bits (`bitcast_convert`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np

from rlx.ir.dtypes import ALL, DType, bool_, f16, f32, f64, from_numpy
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, define
from rlx.ir.ops import precision, sampling
from rlx.ir.ops.signature import FLOATS, INTEGERS, dtype, operands, require
from rlx.ir.types import TensorType


def convert_array(x: np.ndarray, to: DType) -> np.ndarray:
    """`x` by value as dtype `to`: the meaning of `convert`."""
    source = from_numpy(x.dtype)
    if source is to:
        return x
    with np.errstate(all="ignore"):
        if to is bool_:
            return np.asarray(x != np.zeros((), x.dtype))
        if source.is_complex and not to.is_complex:
            return convert_array(np.real(x), to)
        if source.is_float and to.is_integer:
            return _float_to_integer(x, to)
        if source.is_integer and source.bits == 64 and to.is_float and to not in (f32, f64):
            return precision.rounded_once(precision.to_odd_f64(x), to.numpy)
        if to.is_float and source is f64:
            return precision.rounded_once(x, to.numpy)
        if to.is_float and source.kind in ("bool", "int", "uint") and to not in (f32, f64):
            return precision.rounded_once(x.astype(np.float64), to.numpy)
        return np.asarray(precision.stored(x).astype(to.numpy))


def _float_to_integer(x: np.ndarray, to: DType) -> np.ndarray:
    """Truncates towards zero, saturates at the limits, NaN gives 0."""
    info = ml_dtypes.iinfo(to.numpy)
    wide = np.trunc(x.astype(np.float64))
    above, below = wide >= float(int(info.max) + 1), wide < float(info.min)
    inside = np.where(above | below | np.isnan(wide), 0, wide)
    whole = inside.astype(np.uint64 if to.kind == "uint" else np.int64).astype(to.numpy)
    whole = np.where(above, to.numpy.type(info.max), whole)
    return np.where(below, to.numpy.type(info.min), whole).astype(to.numpy)


def _convert_infer(call: Call) -> tuple[TensorType, ...]:
    (x,) = operands("convert", call, 1)
    return (TensorType(x.shape, dtype("convert", call.attrs)),)


def _convert(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    return (convert_array(arrays[0], attrs["dtype"]),)


def _convert_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for source in ALL:
        for to in ALL:
            yield Sample((_convert_values(rng, source),), {"dtype": to})
    for shape in sampling.SHAPES:
        yield Sample((sampling.random(rng, shape, f32),), {"dtype": f16})


def _convert_values(rng: np.random.Generator, source: DType) -> np.ndarray:
    spread = sampling.random(rng, (8,), source, -1000, 1000)
    if source.is_float and source.bits >= 32:
        # Neighbours of integer limits, and ties of narrower floats with a little more than half behind them.
        more = [
            127.5,
            128,
            255.5,
            256,
            32767.5,
            65535.5,
            2.0**31,
            2.0**32,
            2.0**63,
            2.0**64,
            1 + 2.0**-9,
            1 + 2.0**-8 + 2.0**-20,
        ]
        if source is f64:
            more += [
                2.0**31 - 1,
                2.0**32 - 1,
                1 + 2.0**-8 + 2.0**-40,
                1 + 2.0**-11 + 2.0**-40,
                1 + 3 * 2.0**-8 - 2.0**-40,
            ]
        spread = np.concatenate([spread, np.array(more, source.numpy), -np.array(more, source.numpy)])
    if source.is_integer and source.bits == 64:
        more = np.array([2**24 + 1, 2**53 + 1, 2**53 + 3, 2**62 + 2**54 + 1, 2**62 + 2**38 + 1], np.int64)
        spread = np.concatenate([spread, more.astype(source.numpy)])
    return np.concatenate([sampling.edges(source), spread])


define(
    Op(
        "convert",
        "x by value as dtype: float to int truncates and saturates (NaN gives 0), int to int wraps, to bool asks"
        " x != 0, complex to real keeps the real part, to a float rounds once to nearest even.",
        _convert_infer,
        attrs={"dtype": REQUIRED},
        evaluate=_convert,
        pointwise=True,
        samples=_convert_samples,
    )
)


def _bitcast_infer(call: Call) -> tuple[TensorType, ...]:
    (x,) = operands("bitcast_convert", call, 1)
    to = dtype("bitcast_convert", call.attrs, INTEGERS + FLOATS)
    require(x.dtype in INTEGERS + FLOATS, f"bitcast_convert: operand 0 is {x}, it must be integers or floats")
    require(
        to.bits == x.dtype.bits,
        f"bitcast_convert: operand 0 is {x} with {x.dtype.bits} bits an element, {to} has {to.bits}",
    )
    return (TensorType(x.shape, to),)


def _bitcast(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    (x,) = arrays
    to: DType = attrs["dtype"]
    return (convert_array(x, to) if to.bits == 4 else x.view(to.numpy),)


def _bitcast_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for source in INTEGERS + FLOATS:
        for to in INTEGERS + FLOATS:
            if source.bits == to.bits:
                integers = to.is_integer or source is to
                values = sampling.edges(source) if integers else sampling.random(rng, (5, 13), source, 0, 100)
                yield Sample((values,), {"dtype": to})
    for shape in sampling.SHAPES:
        yield Sample((sampling.random(rng, shape, f32),), {"dtype": from_numpy(np.int32)})


define(
    Op(
        "bitcast_convert",
        "The bits of x read as dtype, which has as many bits an element.",
        _bitcast_infer,
        attrs={"dtype": REQUIRED},
        evaluate=_bitcast,
        pointwise=True,
        samples=_bitcast_samples,
    )
)
