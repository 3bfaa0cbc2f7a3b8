"""Tensors made from nothing: literals and counted positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlx.errors import IRError, TypeRuleError
from rlx.ir.dtypes import ALL, f32, i32
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, define
from rlx.ir.ops import sampling
from rlx.ir.ops.convert import convert_array
from rlx.ir.ops.signature import (
    NUMERIC,
    dimension,
    dtype,
    operands,
    sizes,
)
from rlx.ir.types import TensorType, type_of

# -- constant ------------------------------------------------------------------------------------------------------


def _constant_infer(call: Call) -> tuple[TensorType, ...]:
    operands("constant", call, 0)
    value = call.attrs["value"]
    if not isinstance(value, np.ndarray):
        raise TypeRuleError(f"constant: value must be an array, got {value!r}")
    try:
        return (type_of(value),)
    except IRError as error:
        raise TypeRuleError(f"constant: {error.message}", hint=error.hint) from None


def _constant(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    return (attrs["value"],)


def _constant_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in ALL:
        yield Sample((), {"value": sampling.edges(d)})
    for shape in sampling.SHAPES:
        yield Sample((), {"value": sampling.random(rng, shape, f32)})


define(
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


define(
    Op(
        "iota",
        "0, 1, 2, ... along `dimension` of a tensor of `shape`, each converted to dtype.",
        _iota_infer,
        attrs={"shape": REQUIRED, "dimension": REQUIRED, "dtype": REQUIRED},
        evaluate=_iota,
        samples=_iota_samples,
    )
)
