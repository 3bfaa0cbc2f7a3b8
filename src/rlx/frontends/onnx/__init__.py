"""ONNX: a protobuf file -> `OnnxModel` -> `rlx.ir.Graph`. Importing this package fills the table of op rules."""

from rlx.frontends.onnx import (
    attention,
    control,
    einsum,
    elementwise,
    indexing,
    linear,
    loss,
    normalization,
    pooling,
    quantize,
    recurrent,
    reduce,
    resize,
    shape,
)
from rlx.frontends.onnx.model import OnnxModel, load_onnx
from rlx.frontends.onnx.site import handlers

__all__ = [
    "OnnxModel", "control", "elementwise", "handlers", "indexing", "linear", "load_onnx", "normalization", "pooling",
    "recurrent", "reduce", "resize", "shape",
]  # fmt: skip
