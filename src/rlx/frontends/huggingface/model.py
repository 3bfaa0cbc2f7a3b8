"""A Hugging Face directory as a `Model`: config.json, safetensors, and what sentence-transformers adds.

Inputs are `input_ids`, `attention_mask` (0 for padding; all ones where it is left out) and `token_type_ids` (zeros
where left out), all i64 [batch, sequence]. Outputs are
`last_hidden_state` [batch, sequence, hidden]; `pooler_output` [batch, hidden] where the checkpoint has a pooler; and
`sentence_embedding` [batch, width] where the directory has a modules.json. A token or type id outside its table makes
its whole sentence NaN: an answer cannot look right by accident.

The model is immutable; its weights stay memory-mapped and are shared by all graphs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from rlx.errors import ModelNotFound
from rlx.frontends.huggingface.bert_weights import BertWeights
from rlx.frontends.huggingface.checkpoint import open_checkpoint
from rlx.frontends.huggingface.config import BertConfig, read_bert_config
from rlx.frontends.huggingface.pooling import Pooling, read_pooling
from rlx.frontends.model import Model, check_value, solve_shapes, unknown_input
from rlx.ir.dim import Dim
from rlx.ir.dtypes import bool_, i64
from rlx.ir.graph import Graph, Value
from rlx.ir.types import TensorType

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class HuggingFaceModel(Model):
    """One encoder of the BERT family; see the module."""

    def __init__(
        self, source: str, config: BertConfig, weights: Mapping[str, np.ndarray], pooling: Pooling | None
    ) -> None:
        self.name = Path(source).name or "model"
        self.source = source
        self.config = config
        self.defaults = {}
        self.weights = weights
        self._read = BertWeights(config, weights, source)
        self._pooling = pooling
        batch, sequence = Dim("batch", 1), Dim("sequence", 1, config.max_position_embeddings)
        self.inputs = {name: TensorType((batch, sequence), i64) for name in _INPUTS}
        width, dtype = config.hidden_size, self._read.dtype
        self.outputs = {"last_hidden_state": TensorType((batch, sequence, width), dtype)}
        if self._read.has_pooler:
            self.outputs["pooler_output"] = TensorType((batch, width), dtype)
        if pooling:
            self.outputs["sentence_embedding"] = TensorType((batch, width * len(pooling.modes)), dtype)

    @cached_property
    def identity(self) -> str:
        """A digest of all that decides the graph: configuration, pooling, and the weights' names, shapes and dtypes."""
        layout = [(name, array.dtype.name, array.shape) for name, array in self.weights.items()]
        return hashlib.sha256(repr((type(self).__name__, self.config, self._pooling, layout)).encode()).hexdigest()

    def default(self, name: str, type: TensorType) -> np.ndarray | None:
        """As Hugging Face does: no padding, and one segment."""
        fill = {"attention_mask": 1, "token_type_ids": 0}.get(name)
        return None if fill is None else np.full(type.sizes, fill, type.dtype.numpy)

    def specialize(self, shapes: Mapping[str, tuple[int, ...]] = {}, values: Mapping[str, np.ndarray] = {}) -> Graph:
        from rlx.frontends.huggingface import bert, pooling  # what builds graphs: a known program has no need of it
        from rlx.ir.builder import GraphBuilder

        where = f"model {self.source}"
        for name in values:
            if name not in self.inputs:
                raise unknown_input(name, self.inputs, where=where)
        known = {name: tuple(np.shape(value)) for name, value in values.items()}
        sizes = solve_shapes(self.inputs, {**shapes, **known}, where=where)
        b = GraphBuilder(self.name, source=self.source)
        read: dict[str, Value] = {}
        for name, type in self.inputs.items():
            if name in values:
                read[name] = b.constant(check_value(name, values[name], type.dtype, where=where))
            else:
                read[name] = b.input(name, TensorType(sizes[name], type.dtype))
        mask = b.convert(read["attention_mask"], bool_)
        encoder = bert.BertBuilder(b, self.config, self._read, self.source)
        hidden = encoder.encode(read["input_ids"], mask, read["token_type_ids"])
        outputs = {"last_hidden_state": hidden}
        if self._read.has_pooler:
            outputs["pooler_output"] = encoder.pool(hidden)
        if self._pooling:
            outputs["sentence_embedding"] = pooling.sentence_embedding(b, self._pooling, hidden, mask)
        return b.build(outputs)


def load_huggingface(path: str | os.PathLike[str]) -> HuggingFaceModel:
    """The model in the directory `path`. Weights are mapped, not read.

    Raises ModelNotFound, DamagedModel, InvalidModel or UnsupportedModel, as the files deserve.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise ModelNotFound(f"there is no directory {str(path)!r}")
    config = read_bert_config(directory / "config.json")
    return HuggingFaceModel(str(path), config, open_checkpoint(directory), read_pooling(directory))
