"""A BERT small enough to read: two layers of width 8, with random weights, as a directory on disk."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

CONFIG = {
    "model_type": "bert",
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 6,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


def tiny_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (CONFIG["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (CONFIG["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (CONFIG["type_vocab_size"], hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
        "pooler.dense.weight": (hidden, hidden),
        "pooler.dense.bias": (hidden,),
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{name}.{part}.weight": (hidden, hidden), f"{name}.{part}.bias": (hidden,)}
        shapes |= {f"{name}.intermediate.dense.weight": (inner, hidden), f"{name}.intermediate.dense.bias": (inner,)}
        shapes |= {f"{name}.output.dense.weight": (hidden, inner), f"{name}.output.dense.bias": (hidden,)}
        for part in ("attention.output", "output"):
            shapes |= {f"{name}.{part}.LayerNorm.weight": (hidden,), f"{name}.{part}.LayerNorm.bias": (hidden,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def save_safetensors(path: Path, weights: dict[str, np.ndarray]) -> None:
    kinds = {"float32": "F32", "float16": "F16", "int64": "I64"}
    header, at = {}, 0
    for name, array in weights.items():
        offsets = [at, at + array.nbytes]
        header[name] = {"dtype": kinds[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in weights.values()))


@pytest.fixture
def save_bert(tmp_path: Path) -> Callable[..., Path]:
    """Writes a directory: config keys and weights may be replaced, or left out where None."""

    def save(
        config: dict[str, object] | None = None,
        weights: dict[str, np.ndarray | None] | None = None,
        prefix: str = "",
        modes: dict[str, bool] | None = None,
        modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
    ) -> Path:
        merged = {k: v for k, v in {**CONFIG, **(config or {})}.items() if v is not None}
        (tmp_path / "config.json").write_text(json.dumps(merged))
        kept = {prefix + k: v for k, v in {**tiny_weights(), **(weights or {})}.items() if v is not None}
        save_safetensors(tmp_path / "model.safetensors", kept)
        if modes is not None:
            chain = [
                {"type": f"sentence_transformers.models.{kind}", "path": "" if i == 0 else f"{i}_{kind}"}
                for i, kind in enumerate(modules)
            ]
            (tmp_path / "modules.json").write_text(json.dumps(chain))
            (tmp_path / "1_Pooling").mkdir()
            (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(modes))
        return tmp_path

    return save
