"""`config.json` of the BERT family, checked: what a directory says about the network it holds.

Every value that the graph depends on is read once, with its type and range checked; an option that would change the
answer and that RLX does not implement is refused by name. Nothing is guessed: a key without a default in the published
format must be there.

Errors. DamagedModel where a file is no JSON; InvalidModel where a key is missing or its value makes no sense;
UnsupportedModel for another architecture or option.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx.errors import DamagedModel, InvalidModel, ModelNotFound, UnsupportedModel

#: hidden_act -> composite op and its attributes.
ACTIVATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "gelu": ("gelu", {"approximate": "none"}),
    "gelu_new": ("gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("gelu", {"approximate": "tanh"}),
    "relu": ("relu", {}),
    "silu": ("silu", {}),
    "swish": ("silu", {}),
}


@dataclass(frozen=True)
class BertConfig:
    """The sizes and choices of one BERT encoder, in the format's own names."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


def read_json(path: Path) -> Any:
    """The JSON document in `path`. Raises ModelNotFound or DamagedModel."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelNotFound(f"there is no file {str(path)!r}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedModel(f"{path.name!r} is not JSON: {error}", where=str(path)) from None


def read_bert_config(path: Path) -> BertConfig:
    """The configuration in the file `path`. Raises as the module says."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise InvalidModel("config.json must hold an object", where=str(path))
    kind = found.get("model_type")
    if kind != "bert":
        raise UnsupportedModel(
            f"config.json has model_type {kind!r}, RLX reads 'bert'",
            where=str(path),
            hint="export the model to ONNX and load that file",
        )
    if found.get("is_decoder", False) or found.get("add_cross_attention", False):
        raise UnsupportedModel("config.json asks for a BERT decoder, RLX reads encoders", where=str(path))
    if found.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedModel(
            f"config.json has position_embedding_type {found['position_embedding_type']!r}, RLX reads 'absolute'",
            where=str(path),
        )
    activation = found.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise UnsupportedModel(
            f"config.json has hidden_act {activation!r}", where=str(path), hint=f"RLX has: {', '.join(ACTIVATIONS)}"
        )
    config = BertConfig(
        vocab_size=_count(found, "vocab_size", path),
        hidden_size=_count(found, "hidden_size", path),
        num_hidden_layers=_count(found, "num_hidden_layers", path),
        num_attention_heads=_count(found, "num_attention_heads", path),
        intermediate_size=_count(found, "intermediate_size", path),
        max_position_embeddings=_count(found, "max_position_embeddings", path),
        type_vocab_size=_count(found, "type_vocab_size", path),
        layer_norm_eps=_epsilon(found, path),
        hidden_act=activation,
    )
    if config.hidden_size % config.num_attention_heads:
        raise InvalidModel(
            f"config.json has hidden_size {config.hidden_size}, "
            f"which {config.num_attention_heads} attention heads do not divide",
            where=str(path),
        )
    return config


def _count(found: dict[str, Any], key: str, path: Path) -> int:
    value = found.get(key)
    if type(value) is not int or value < 1:
        raise InvalidModel(f"config.json has {key} {value!r}, expected a whole number above 0", where=str(path))
    return value


def _epsilon(found: dict[str, Any], path: Path) -> float:
    value = found.get("layer_norm_eps", 1e-12)
    if type(value) not in (int, float) or not 0 < value < 1:
        raise InvalidModel(f"config.json has layer_norm_eps {value!r}, expected a number in (0, 1)", where=str(path))
    return float(value)
