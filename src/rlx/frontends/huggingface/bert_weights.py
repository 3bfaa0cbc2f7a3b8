"""The weights of a BERT encoder: which a configuration asks for, and whether a checkpoint has them.

Names may all have the prefix 'bert.'. The pooler's weights are optional; they are asked for where one of them is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from rlx.errors import InvalidModel, UnsupportedModel
from rlx.frontends.huggingface.config import BertConfig
from rlx.ir.dtypes import DType, from_numpy
from rlx.ir.types import Shape

_WORDS = "embeddings.word_embeddings.weight"


class BertWeights:
    """The weights that one encoder reads, checked.

    arrays: name, without the prefix -> array; `prefix` comes before each name in the file. dtype: of all of them.
    Raises InvalidModel where a weight is missing, or its shape or dtype does not fit `config`; UnsupportedModel where
    they are no floats.
    """

    def __init__(self, config: BertConfig, checkpoint: Mapping[str, np.ndarray], source: str) -> None:
        self.prefix = "bert." if any(name.startswith("bert.embeddings.") for name in checkpoint) else ""
        self.has_pooler = f"{self.prefix}pooler.dense.weight" in checkpoint
        self.arrays: dict[str, np.ndarray] = {}
        for name, shape in _shapes(config, pooler=self.has_pooler):
            array = checkpoint.get(self.prefix + name)
            if array is None:
                raise InvalidModel(f"the checkpoint has no weight {self.prefix + name!r}", where=source)
            if array.shape != shape:
                raise InvalidModel(
                    f"weight {self.prefix + name!r} has shape {array.shape}, config.json asks for {shape}", where=source
                )
            words = self.arrays.get(_WORDS, array)
            if array.dtype != words.dtype:
                raise InvalidModel(
                    f"weight {name!r} is {array.dtype}, but the word embeddings are {from_numpy(words.dtype)}",
                    where=source,
                )
            self.arrays[name] = array
        self.dtype: DType = from_numpy(self.arrays[_WORDS].dtype)
        if not self.dtype.is_float:
            raise UnsupportedModel(f"the word embeddings are {self.dtype}, RLX reads float weights", where=source)


def _shapes(config: BertConfig, *, pooler: bool) -> Iterator[tuple[str, Shape]]:
    width, inner = config.hidden_size, config.intermediate_size
    yield _WORDS, (config.vocab_size, width)
    yield "embeddings.token_type_embeddings.weight", (config.type_vocab_size, width)
    yield "embeddings.position_embeddings.weight", (config.max_position_embeddings, width)
    yield from _norm("embeddings.LayerNorm", width)
    for layer in range(config.num_hidden_layers):
        name = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield from _dense(f"{name}.attention.{part}", width, width)
        yield from _norm(f"{name}.attention.output.LayerNorm", width)
        yield from _dense(f"{name}.intermediate.dense", width, inner)
        yield from _dense(f"{name}.output.dense", inner, width)
        yield from _norm(f"{name}.output.LayerNorm", width)
    if pooler:
        yield from _dense("pooler.dense", width, width)


def _dense(name: str, read: int, written: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (written, read)
    yield f"{name}.bias", (written,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
