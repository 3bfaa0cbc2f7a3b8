"""ONNX: a protobuf file -> `OnnxModel` -> `rlx.ir.Graph`."""

from rlx.frontends.onnx.model import OnnxModel, load_onnx
from rlx.frontends.onnx.site import handlers

__all__ = ["OnnxModel", "handlers", "load_onnx"]
