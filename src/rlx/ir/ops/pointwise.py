"""How pointwise records are made: one element in, one element out, all operands of one shape.

`direct` functions get operands as `precision.stored` gives them and are exact or rounded once in f32; `through_wider`
functions get f64 (c128) and round at the end. NumPy's floating-point warnings are silenced: infinities and NaN are
results here, not accidents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rlx.ir.dtypes import DType, bool_, from_numpy
from rlx.ir.op import Attrs, Call, Op, RunRegion, Tolerance, define
from rlx.ir.ops import precision, sampling
from rlx.ir.ops.signature import Evaluate, Infer, operands, require_dtype, require_same_dtype, require_same_shape
from rlx.ir.types import TensorType

#: A dtype rule: what the operands' dtype gives.
Result = Callable[[DType], DType]


def same(dtype: DType) -> DType:
    """The result has the operands' dtype."""
    return dtype


def to_bool(dtype: DType) -> DType:
    """The result is bool."""
    return bool_


def infer(name: str, count: int, accepted: Sequence[DType], result: Result) -> Infer:
    """The type rule of `count` operands of equal shape and equal, accepted dtype."""

    def rule(call: Call) -> tuple[TensorType, ...]:
        types = operands(name, call, count)
        for i, t in enumerate(types):
            require_dtype(name, i, t, accepted)
        require_same_dtype(name, types)
        require_same_shape(name, types)
        return (TensorType(types[0].shape, result(types[0].dtype)),)

    return rule


def direct(function: Callable[..., np.ndarray], result: Result = same) -> Evaluate:
    """Evaluate in the storage dtype (f32 for narrow floats), rounding once."""
    return _evaluate(function, precision.stored, result)


def through_wider(function: Callable[..., np.ndarray], result: Result = same) -> Evaluate:
    """Evaluate in f64 or c128, then round."""
    return _evaluate(function, precision.widened, result)


def _evaluate(
    function: Callable[..., np.ndarray], prepare: Callable[[np.ndarray], np.ndarray], result: Result
) -> Evaluate:
    def evaluate(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
        dtype = result(from_numpy(arrays[0].dtype)).numpy
        with np.errstate(all="ignore"):
            return (precision.rounded(function(*(prepare(x) for x in arrays)), dtype),)

    return evaluate


def record(
    name: str,
    summary: str,
    evaluate: Evaluate,
    *,
    count: int,
    accepted: Sequence[DType],
    result: Result = same,
    ulps: float = 0.0,
    low: float = -4.0,
    high: float = 4.0,
    commutative: bool = False,
    samples: sampling.Samples | None = None,
) -> Op:
    """Register a pointwise op of `count` operands of one dtype without attributes.

    low, high: where its random samples lie, unless `samples` replaces them.
    """
    return define(
        Op(
            name,
            summary,
            infer(name, count, accepted, result),
            evaluate=evaluate,
            pointwise=True,
            commutative=commutative,
            samples=samples or sampling.pointwise(accepted, count, low=low, high=high),
            tolerance=Tolerance(ulps=ulps),
        )
    )
