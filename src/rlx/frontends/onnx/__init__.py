"""ONNX: a protobuf file -> `OnnxModel` -> `rlx.ir.Graph`. Importing this package fills the table of op rules."""

from rlx.frontends.onnx import (
    attention,
    control,
    detection,
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
    sampling,
    shape,
)
from rlx.frontends.onnx.model import OnnxModel, load_onnx
from rlx.frontends.onnx.site import handlers

__all__ = [
    "OnnxModel",
    "attention",
    "control",
    "detection",
    "einsum",
    "elementwise",
    "handlers",
    "indexing",
    "linear",
    "load_onnx",
    "loss",
    "normalization",
    "pooling",
    "quantize",
    "recurrent",
    "reduce",
    "resize",
    "sampling",
    "shape",
]
