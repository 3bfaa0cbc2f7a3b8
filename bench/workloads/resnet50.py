"""ResNet-50 v1.5 on one image, 224 x 224: random weights, batch norms left for the systems to fold."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import resnet50_model
import systems
from workload import Run, Workload

from workloads import inductor, xla

PARAMETERS = sum(c.channels * c.features * c.kernel**2 for c in resnet50_model.convolutions()) + 2048 * 1000


def feeds() -> dict[str, np.ndarray]:
    return {"image": resnet50_model.image()}


def rlx(threads: int, **options: Any) -> Run:
    return systems.rlx_onnx(resnet50_model.save_onnx, feeds(), "logits", threads, **options)


def onnxruntime(threads: int) -> Run:
    return systems.onnxruntime(resnet50_model.save_onnx, feeds(), "logits", threads)


def openvino(threads: int, *, precision: str = "f32") -> Run:
    return systems.openvino(resnet50_model.save_onnx, feeds(), "logits", threads, precision=precision)


def pytorch(threads: int, *, compiled: bool = False, narrow: bool = False) -> Run:
    import torch

    torch.set_num_threads(threads)
    network = resnet50_model.torch_network()
    image = torch.from_numpy(resnet50_model.image())
    function = inductor.compiled(network) if compiled else network

    def run() -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            return function(image).float().numpy()

    return run


def jax(threads: int) -> Run:
    import resnet50_jax

    function = resnet50_jax.network(partial(xla.compiled, threads=threads))
    return lambda: np.asarray(function())


WORKLOADS = [
    Workload(
        name="resnet50",
        title="ResNet-50, batch 1",
        systems={
            "RLX": rlx,
            "RLX, Winograd 2x2 allowed": partial(rlx, convolution="winograd-2x2"),
            "RLX, Winograd 4x4 allowed": partial(rlx, convolution="winograd-4x4"),
            "onnxruntime": onnxruntime,
            "OpenVINO": openvino,
            "PyTorch": pytorch,
            "PyTorch inductor": partial(pytorch, compiled=True),
            "JAX": jax,
        },
        judge="PyTorch",
        tolerance=2e-5,
        flops=float(resnet50_model.FLOPS),
        nbytes=4.0 * PARAMETERS,
        note="The limit is that of direct convolutions; Winograd's do fewer multiplications, so they may pass it. "
        "RLX uses them only where `Options(convolution=...)` allows it.",
    ),
    Workload(
        name="resnet50-bf16",
        title="ResNet-50 in bf16, batch 1",
        systems={
            "RLX": partial(rlx, precision="bf16"),
            "OpenVINO": partial(openvino, precision="bf16"),
            "PyTorch, autocast": partial(pytorch, narrow=True),
            "PyTorch, f32": pytorch,
        },
        judge="PyTorch, f32",
        tolerance=5e-2,
        flops=float(resnet50_model.FLOPS),
        nbytes=2.0 * PARAMETERS,
        factors="bf16",
        note="Products and convolutions take bf16 factors and sum in f32, and layers hand on bf16; answers are held to "
        "f32's, bf16 having 8 significant bits.",
    ),
]
