"""ResNet-50 v1.5 with seeded random weights: as an ONNX model, and the same network in plain torch.nn.

v1.5 has the stride of a block in its 3x3 convolution. Weights are drawn so that activations stay near 1: convolutions
with variance 1 / fan-in, batch-norm statistics to match, and a small gamma at each block's end. Batch norms stay nodes
of their own, as an exporter writes them: folding them is the compilers' affair.

Input: image, f32 [1, 3, 224, 224]. Output: logits, f32 [1, 1000]. 4.09 billion multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SHAPE = (1, 3, 224, 224)
CLASSES = 1000
EPSILON = 1e-5
#: Blocks and inner channels of each stage; a block puts out four times its inner channels.
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
#: Multiply-adds that must be made; with those of padding, which papers count, there are 4_089_184_256.
FLOPS = 2 * 3_948_251_904


@dataclass(frozen=True)
class Convolution:
    """A convolution without bias, and the batch norm behind it."""

    name: str
    channels: int
    features: int
    kernel: int
    stride: int = 1


@dataclass(frozen=True)
class Block:
    """Three convolutions, and the one beside them where the shape changes."""

    convolutions: tuple[Convolution, Convolution, Convolution]
    beside: Convolution | None


STEM = Convolution("stem", 3, 64, 7, 2)


def blocks() -> list[Block]:
    """All blocks in order."""
    found: list[Block] = []
    channels = STEM.features
    for stage, (count, inner) in enumerate(STAGES):
        for number in range(count):
            name, stride = f"stage{stage}.block{number}", 2 if stage and not number else 1
            parts = (
                Convolution(f"{name}.first", channels, inner, 1),
                Convolution(f"{name}.second", inner, inner, 3, stride),
                Convolution(f"{name}.third", inner, 4 * inner, 1),
            )
            beside = Convolution(f"{name}.beside", channels, 4 * inner, 1, stride) if not number else None
            found.append(Block(parts, beside))
            channels = 4 * inner
    return found


def convolutions() -> list[Convolution]:
    """All convolutions."""
    parts = [c for block in blocks() for c in (*block.convolutions, block.beside) if c is not None]
    return [STEM, *parts]


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor by name: NAME.weight, NAME.gamma, .beta, .mean, .variance, and classifier.weight, .bias; f32."""
    random = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for c in convolutions():
        fan_in = c.channels * c.kernel * c.kernel
        found[f"{c.name}.weight"] = random.normal(0, fan_in**-0.5, (c.features, c.channels, c.kernel, c.kernel))
        found[f"{c.name}.gamma"] = random.uniform(0.9, 1.1, c.features) * (0.3 if c.name.endswith("third") else 1.0)
        found[f"{c.name}.beta"] = random.normal(0, 0.1, c.features)
        found[f"{c.name}.mean"] = random.normal(0, 0.1, c.features)
        found[f"{c.name}.variance"] = random.uniform(0.4, 0.9, c.features)
    width = 4 * STAGES[-1][1]
    found["classifier.weight"] = random.normal(0, width**-0.5, (CLASSES, width))
    found["classifier.bias"] = random.normal(0, 0.1, CLASSES)
    return {name: array.astype(np.float32) for name, array in found.items()}


def image(seed: int = 1) -> np.ndarray:
    """An input."""
    return np.random.default_rng(seed).normal(0, 1, SHAPE).astype(np.float32)


@dataclass
class _OnnxWriter:
    """Writes one graph node by node."""

    tensors: dict[str, np.ndarray]
    nodes: list[object] = field(default_factory=list)

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def convolution(self, c: Convolution, x: str) -> str:
        pad = c.kernel // 2
        y = self.add(
            "Conv", [x, f"{c.name}.weight"], f"{c.name}.conv",
            kernel_shape=[c.kernel] * 2, strides=[c.stride] * 2, pads=[pad] * 4,
        )  # fmt: skip
        statistics = [f"{c.name}.{part}" for part in ("gamma", "beta", "mean", "variance")]
        return self.add("BatchNormalization", [y, *statistics], f"{c.name}.norm", epsilon=EPSILON)


def save_onnx(path: Path, seed: int = 0) -> None:
    """Write the model as ONNX, opset 17."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    writer = _OnnxWriter(weights(seed))
    x = writer.add("Relu", [writer.convolution(STEM, "image")], "stem.relu")
    x = writer.add("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for block in blocks():
        first, second, third = block.convolutions
        y = writer.add("Relu", [writer.convolution(first, x)], f"{first.name}.relu")
        y = writer.add("Relu", [writer.convolution(second, y)], f"{second.name}.relu")
        y = writer.convolution(third, y)
        beside = x if block.beside is None else writer.convolution(block.beside, x)
        x = writer.add("Relu", [writer.add("Add", [y, beside], f"{third.name}.sum")], f"{third.name}.relu")
    x = writer.add("Flatten", [writer.add("GlobalAveragePool", [x], "pool")], "flat")
    writer.add("Gemm", [x, "classifier.weight", "classifier.bias"], "logits", transB=1)
    graph = helper.make_graph(
        writer.nodes,
        "resnet50",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, CLASSES))],
        [numpy_helper.from_array(array, name) for name, array in writer.tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def torch_network(seed: int = 0) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network in torch.nn, in eval mode."""
    import torch
    from torch import nn

    tensors = {name: torch.from_numpy(array) for name, array in weights(seed).items()}

    def layer(c: Convolution) -> nn.Sequential:
        conv = nn.Conv2d(c.channels, c.features, c.kernel, c.stride, c.kernel // 2, bias=False)
        norm = nn.BatchNorm2d(c.features, EPSILON)
        own = (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        with torch.no_grad():
            for tensor, part in zip(own, ("weight", "gamma", "beta", "mean", "variance"), strict=True):
                tensor.copy_(tensors[f"{c.name}.{part}"])
        return nn.Sequential(conv, norm)

    class Residual(nn.Module):
        def __init__(self, block: Block) -> None:
            super().__init__()
            first, second, third = (layer(c) for c in block.convolutions)
            self.inner = nn.Sequential(first, nn.ReLU(True), second, nn.ReLU(True), third)
            self.beside = nn.Identity() if block.beside is None else layer(block.beside)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu_(self.inner(x) + self.beside(x))

    classifier = nn.Linear(4 * STAGES[-1][1], CLASSES)
    with torch.no_grad():
        classifier.weight.copy_(tensors["classifier.weight"])
        classifier.bias.copy_(tensors["classifier.bias"])
    stem = [layer(STEM), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier]
    network = nn.Sequential(*stem, *(Residual(b) for b in blocks()), *tail).eval()
    tensors.clear()  # `Residual` keeps this function's variables alive
    return network
