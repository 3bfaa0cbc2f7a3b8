"""The BERT encoder as a graph: embeddings, encoder layers, pooler.

Structure is kept as the compiler likes to see it: layer_norm, gelu and attention stay composites; query, key and value
are products of their own, and a weight [out, in] is contracted on its last axis as it lies in the file, so that no
weight is transposed. Parameters carry the file's names.

Source: Devlin et al., "BERT" (2019), in the post-norm form of the published checkpoints.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import ml_dtypes

from rlx.frontends.huggingface.bert_weights import BertWeights
from rlx.frontends.huggingface.config import ACTIVATIONS, BertConfig
from rlx.ir.builder import GraphBuilder
from rlx.ir.graph import Value
from rlx.ir.location import Location


class BertBuilder:
    """Adds one encoder to a graph builder. Only weights that the graph reads become parameters."""

    def __init__(self, builder: GraphBuilder, config: BertConfig, weights: BertWeights, source: str) -> None:
        self._b = builder
        self._config = config
        self._weights = weights
        self._source = source

    def encode(self, ids: Value, mask: Value, types: Value) -> Value:
        """The last hidden state, [batch, sequence, hidden].

        ids, types: integers [batch, sequence]; mask: bool [batch, sequence], False for padding.
        """
        with self._at("embeddings"):
            x = self._embeddings(ids, types)
        with self._at("attention_mask"):
            bias = self._attention_bias(mask)
        for layer in range(self._config.num_hidden_layers):
            x = self._layer(f"encoder.layer.{layer}", x, bias)
        return x

    def pool(self, hidden: Value) -> Value:
        """The pooler's output, [batch, hidden]: tanh of a dense layer over the first token."""
        b, (batch, _, width) = self._b, hidden.type.shape
        with self._at("pooler"):
            first = b.emit("slice", hidden, starts=(0, 0, 0), limits=(batch, 1, width), strides=(1, 1, 1))
            return b.emit("tanh", self._dense("pooler.dense", b.emit("reshape", first, shape=(batch, width))))

    # -- parts -----------------------------------------------------------------------------------------------------

    def _embeddings(self, ids: Value, types: Value) -> Value:
        b, width = self._b, self._config.hidden_size
        _, length = ids.type.shape
        words = self._parameter("embeddings.word_embeddings.weight")
        kinds = self._parameter("embeddings.token_type_embeddings.weight")
        places = self._parameter("embeddings.position_embeddings.weight")
        x = b.emit("add", self._rows(words, ids), self._rows(kinds, types))
        place = b.emit("slice", places, starts=(0, 0), limits=(length, width), strides=(1, 1))
        x = b.emit("add", x, b.broadcast(place, x.type.shape))
        return self._layer_norm("embeddings.LayerNorm", x)

    def _rows(self, table: Value, index: Value) -> Value:
        """Rows of `table` [n, width] for `index` [...]: [..., width]. An index outside the table gives NaN."""
        b, width, rank = self._b, table.type.shape[1], index.type.rank
        return b.emit(
            "gather",
            table,
            b.emit("reshape", index, shape=(*index.type.shape, 1)),
            offset_dims=(rank,),
            collapsed_slice_dims=(0,),
            start_index_map=(0,),
            slice_sizes=(1, width),
            mode="fill",
        )

    def _attention_bias(self, mask: Value) -> Value:
        """What is added to the scores: 0 for a token, the least finite number for padding; [batch, 1, 1, sequence]."""
        b, (batch, length) = self._b, mask.type.shape
        dtype = self._weights.dtype
        least = float(ml_dtypes.finfo(dtype.numpy).min)
        bias = b.emit("select", *b.lift(mask, b.constant(0.0, dtype), b.constant(least, dtype)))
        return b.emit("reshape", bias, shape=(batch, 1, 1, length))

    def _layer(self, name: str, x: Value, bias: Value) -> Value:
        b = self._b
        with self._at(f"{name}.attention"):
            mixed = self._attention(f"{name}.attention.self", x, bias)
            mixed = self._dense(f"{name}.attention.output.dense", mixed)
            x = self._layer_norm(f"{name}.attention.output.LayerNorm", b.emit("add", mixed, x))
        with self._at(f"{name}.intermediate"):
            inner = self._dense(f"{name}.intermediate.dense", x)
            op, attrs = ACTIVATIONS[self._config.hidden_act]
            inner = b.emit(op, inner, **attrs)
        with self._at(f"{name}.output"):
            outer = self._dense(f"{name}.output.dense", inner)
            return self._layer_norm(f"{name}.output.LayerNorm", b.emit("add", outer, x))

    def _attention(self, name: str, x: Value, bias: Value) -> Value:
        b = self._b
        q, k, v = (self._heads(f"{name}.{part}", x) for part in ("query", "key", "value"))
        mixed = b.emit("attention", q, k, v, bias)
        return b.emit("reshape", b.emit("transpose", mixed, permutation=(0, 2, 1, 3)), shape=x.type.shape)

    def _heads(self, name: str, x: Value) -> Value:
        """A dense layer, split into heads: [batch, heads, sequence, head size]."""
        b, config, (batch, length, _) = self._b, self._config, x.type.shape
        split = (batch, length, config.num_attention_heads, config.head_size)
        return b.emit("transpose", b.emit("reshape", self._dense(name, x), shape=split), permutation=(0, 2, 1, 3))

    def _dense(self, name: str, x: Value) -> Value:
        """x [..., in] times weight [out, in], plus bias [out]."""
        b, last = self._b, x.type.rank - 1
        product = b.emit("dot_general", x, self._parameter(f"{name}.weight"), lhs_contract=(last,), rhs_contract=(1,))
        return b.binary("add", product, self._parameter(f"{name}.bias"))

    def _layer_norm(self, name: str, x: Value) -> Value:
        scale, bias = self._parameter(f"{name}.weight"), self._parameter(f"{name}.bias")
        return self._b.emit("layer_norm", x, scale, bias, axis=x.type.rank - 1, epsilon=self._config.layer_norm_eps)

    def _parameter(self, name: str) -> Value:
        return self._b.parameter(self._weights.prefix + name, self._weights.arrays[name])

    def _at(self, name: str) -> AbstractContextManager[None]:
        return self._b.at(Location(file=self._source, name=name))
