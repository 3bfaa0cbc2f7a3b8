"""The primitive ops: importing this package registers every record with `rlx.ir.op`."""

from rlx.ir.ops import (
    compare_select,
    control_flow,
    conv,
    convert,
    cumulative,
    custom,
    dot,
    dynamic_slice,
    indexing,
    pointwise_binary,
    pointwise_unary,
    random,
    reduce,
    shape,
    sort,
    window,
)

__all__ = [
    "compare_select",
    "control_flow",
    "conv",
    "convert",
    "cumulative",
    "custom",
    "dot",
    "dynamic_slice",
    "indexing",
    "pointwise_binary",
    "pointwise_unary",
    "random",
    "reduce",
    "shape",
    "sort",
    "window",
]
