"""MiniLM as an ONNX file for onnxruntime, made from the checkpoint: in standard ops, or in onnxruntime's fused ones.

`standard` is the graph that an exporter writes (opset 20, LayerNormalization and Gelu as ops). `fused` uses the
contributed ops that onnxruntime's own transformer optimizer puts in their place (Attention, SkipLayerNormalization,
BiasGelu): the best that is known to be had from it.

Inputs: input_ids, attention_mask, token_type_ids, i64 [batch, sequence]. Outputs: last_hidden_state and
sentence_embedding, f32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH, HEADS = 6, 384, 12
HEAD = WIDTH // HEADS
EPSILON = 1e-12
CONTRIBUTED = "com.microsoft"


class OnnxMiniLM:
    """Writes one graph node by node; tensors are named by what makes them."""

    def __init__(self, weights: Mapping[str, np.ndarray], *, fused: bool) -> None:
        self.weights = weights
        self.fused = fused
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def save(self, path: Path) -> None:
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in names]
        self.build()
        outputs = [
            helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", WIDTH]),
            helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH]),
        ]
        graph = helper.make_graph(self.nodes, "minilm", inputs, outputs, list(self.initializers.values()))
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRIBUTED, 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))

    def build(self) -> None:
        x = self.embeddings()
        mask = self.attention_mask()
        for layer in range(LAYERS):
            last = "last_hidden_state" if layer == LAYERS - 1 else f"layer{layer}"
            x = self.layer(f"encoder.layer.{layer}", x, mask, last)
        self.pool(x)

    def embeddings(self) -> str:
        words = self.op("Gather", self.weight("embeddings.word_embeddings.weight"), "input_ids")
        kinds = self.op("Gather", self.weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
        length = self.op("Gather", self.op("Shape", "input_ids"), self.integers("one", [1]), axis=0)
        places = self.op(
            "Slice", self.weight("embeddings.position_embeddings.weight"), self.integers("zero", [0]), length,
            self.integers("zero", [0]),
        )  # fmt: skip
        x = self.op("Add", self.op("Add", words, kinds), places)
        return self.norm("embeddings.LayerNorm", x, "embeddings")

    def attention_mask(self) -> str:
        if self.fused:
            return self.op("Cast", "attention_mask", to=TensorProto.INT32)
        spread = self.op("Unsqueeze", "attention_mask", self.integers("head_axes", [1, 2]))
        absent = self.op("Sub", self.floats("one_float", 1.0), self.op("Cast", spread, to=TensorProto.FLOAT))
        return self.op("Mul", absent, self.floats("least", float(np.finfo(np.float32).min)))

    def layer(self, name: str, x: str, mask: str, out: str) -> str:
        mixed = (self.fused_attention if self.fused else self.attention)(f"{name}.attention.self", x, mask)
        x = self.dense_and_norm(f"{name}.attention.output", mixed, x, f"{name}.attention")
        inner = self.matmul(f"{name}.intermediate.dense", x)
        bias = self.weight(f"{name}.intermediate.dense.bias")
        if self.fused:
            inner = self.op("BiasGelu", inner, bias, domain=CONTRIBUTED)
        else:
            inner = self.op("Gelu", self.op("Add", inner, bias))
        return self.dense_and_norm(f"{name}.output", inner, x, out)

    def attention(self, name: str, x: str, mask: str) -> str:
        q, k, v = (self.heads(f"{name}.{part}", x) for part in ("query", "key", "value"))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scaled = self.op("Div", scores, self.floats("root", float(np.sqrt(HEAD))))
        mixed = self.op("MatMul", self.op("Softmax", self.op("Add", scaled, mask), axis=-1), v)
        mixed = self.op("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.op("Reshape", mixed, self.integers("joined", [0, 0, WIDTH]))

    def heads(self, name: str, x: str) -> str:
        y = self.op("Add", self.matmul(name, x), self.weight(f"{name}.bias"))
        return self.op(
            "Transpose", self.op("Reshape", y, self.integers("split", [0, 0, HEADS, HEAD])), perm=[0, 2, 1, 3]
        )

    def fused_attention(self, name: str, x: str, mask: str) -> str:
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self.weights[f"{p}.weight"].T for p in parts], axis=1)
        bias = np.concatenate([self.weights[f"{p}.bias"] for p in parts])
        packed = self.tensor(f"{name}.weight", weight), self.tensor(f"{name}.bias", bias)
        return self.op("Attention", x, *packed, mask, domain=CONTRIBUTED, num_heads=HEADS)

    def dense_and_norm(self, name: str, x: str, residual: str, out: str) -> str:
        y = self.matmul(f"{name}.dense", x)
        bias = self.weight(f"{name}.dense.bias")
        if not self.fused:
            return self.norm(f"{name}.LayerNorm", self.op("Add", self.op("Add", y, bias), residual), out)
        scale, shift = (self.weight(f"{name}.LayerNorm.{part}") for part in ("weight", "bias"))
        return self.op(
            "SkipLayerNormalization", y, residual, scale, shift, bias, out=out, domain=CONTRIBUTED, epsilon=EPSILON
        )

    def norm(self, name: str, x: str, out: str) -> str:
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", x, scale, shift, out=out, axis=-1, epsilon=EPSILON)

    def matmul(self, name: str, x: str) -> str:
        return self.op("MatMul", x, self.tensor(f"{name}.weight.T", self.weights[f"{name}.weight"].T))

    def pool(self, x: str) -> None:
        mask = self.op(
            "Unsqueeze", self.op("Cast", "attention_mask", to=TensorProto.FLOAT), self.integers("last_axis", [2])
        )
        axis = self.integers("one", [1])
        total = self.op("ReduceSum", self.op("Mul", x, mask), axis, keepdims=0)
        mean = self.op("Div", total, self.op("ReduceSum", mask, axis, keepdims=0))
        norm = self.op("Sqrt", self.op("ReduceSum", self.op("Mul", mean, mean), axis, keepdims=1))
        self.op("Div", mean, norm, out="sentence_embedding")

    def op(self, kind: str, *inputs: str, out: str = "", domain: str = "", **attributes: object) -> str:
        out = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], domain=domain, **attributes))
        return out

    def weight(self, name: str) -> str:
        return self.tensor(name, self.weights[name])

    def tensor(self, name: str, array: np.ndarray) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def integers(self, name: str, values: list[int]) -> str:
        return self.tensor(name, np.array(values, np.int64))

    def floats(self, name: str, value: float) -> str:
        return self.tensor(name, np.array(value, np.float32))
