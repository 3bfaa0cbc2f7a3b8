"""GPT-2 small with seeded random weights: as ONNX models for prefill and for one step of decoding.

12 layers of width 768 with 12 heads, a vocabulary of 50257 and a head tied to the token embedding: 124 million weights,
498 MB in f32. Linear layers keep GPT-2's own layout, [in, out]; the gelu is its tanh form, spelt out as exporters do.

Prefill: ids, i64 [1, 128] -> logits, f32 [1, 128, 50257], of every token.
Decoding: ids, i64 [1, 1]; position, i64 [1, 1]; past_key.L and past_value.L, f32 [1, 12, 255, 64] a layer -> logits,
f32 [1, 1, 50257]; present_key.L and present_value.L, f32 [1, 12, 256, 64].
Decoding in place: caches come and go with room for 256 tokens; the new one's row is written at `position`, and no key
behind it is seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

LAYERS, WIDTH, HEADS, VOCABULARY, POSITIONS, EPSILON = 12, 768, 12, 50257, 1024, 1e-5
HEAD = WIDTH // HEADS
PREFILL, CONTEXT = 128, 256
#: Matrices that a step reads: the layers', and the head's.
WEIGHT_BYTES = 4 * (LAYERS * 12 * WIDTH * WIDTH + VOCABULARY * WIDTH)
CACHE_BYTES = 4 * LAYERS * 2 * WIDTH * CONTEXT


def flops(tokens: int, context: int) -> float:
    """Multiplications and additions of the matrix products of `tokens` tokens that each see `context`."""
    return tokens * (2.0 * (LAYERS * 12 * WIDTH * WIDTH + VOCABULARY * WIDTH) + 4.0 * LAYERS * context * WIDTH)


@cache
def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor by name, f32, drawn as GPT-2's are before training; biases and gains too, so that each one shows."""
    random = np.random.default_rng(seed)

    def normal(*shape: int, mean: float = 0.0, scale: float = 0.02) -> np.ndarray:
        return mean + scale * random.standard_normal(shape, np.float32)

    found = {"wte": normal(VOCABULARY, WIDTH), "wpe": normal(POSITIONS, WIDTH)}
    shapes = {"attention": (WIDTH, 3 * WIDTH), "projection": (WIDTH, WIDTH), "inner": (WIDTH, 4 * WIDTH)}
    for layer in range(LAYERS):
        for name, (rows, columns) in {**shapes, "outer": (4 * WIDTH, WIDTH)}.items():
            narrow = 1 / math.sqrt(2 * LAYERS) if name in ("projection", "outer") else 1.0
            found[f"{layer}.{name}.weight"] = normal(rows, columns, scale=0.02 * narrow)
            found[f"{layer}.{name}.bias"] = normal(columns)
    for norm in (*(f"{layer}.norm{i}" for layer in range(LAYERS) for i in (1, 2)), "norm"):
        found[f"{norm}.weight"], found[f"{norm}.bias"] = normal(WIDTH, mean=1.0), normal(WIDTH)
    return found


def prefill_feeds(seed: int = 1) -> dict[str, np.ndarray]:
    return {"ids": np.random.default_rng(seed).integers(0, VOCABULARY, (1, PREFILL))}


def decode_feeds(seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    feeds = {"ids": random.integers(0, VOCABULARY, (1, 1)), "position": np.full((1, 1), CONTEXT - 1)}
    for layer in range(LAYERS):
        for part in ("key", "value"):
            feeds[f"past_{part}.{layer}"] = random.standard_normal((1, HEADS, CONTEXT - 1, HEAD), np.float32)
    return feeds


def in_place_feeds(seed: int = 1) -> dict[str, np.ndarray]:
    """As `decode_feeds`, each cache with room for the new token's row."""
    room = ((0, 0), (0, 0), (0, 1), (0, 0))
    return {name: np.pad(a, room) if a.ndim == 4 else a for name, a in decode_feeds(seed).items()}


@dataclass
class _Writer:
    """Writes one graph node by node; `tokens` queries a sequence. in_place: caches have room for what is written."""

    tokens: int
    in_place: bool = False
    nodes: list[object] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, op: str, inputs: list[str], output: str, *more: str, **attributes: object) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output, *more], name=output, **attributes))
        return output

    def constant(self, name: str, value: object) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def norm(self, x: str, name: str) -> str:
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        return self.add("LayerNormalization", inputs, f"{name}.y", axis=-1, epsilon=EPSILON)

    def linear(self, x: str, name: str) -> str:
        product = self.add("MatMul", [x, f"{name}.weight"], f"{name}.product")
        return self.add("Add", [product, f"{name}.bias"], f"{name}.y")

    def gelu(self, x: str) -> str:
        cube = self.add("Pow", [x, self.constant("three", np.float32(3))], f"{x}.cube")
        small = self.add("Mul", [cube, self.constant("small", np.float32(0.044715))], f"{x}.small")
        inner = self.add("Add", [x, small], f"{x}.inner")
        scaled = self.add("Mul", [inner, self.constant("root", np.float32(math.sqrt(2 / math.pi)))], f"{x}.scaled")
        curve = self.add("Tanh", [scaled], f"{x}.tanh")
        raised = self.add("Add", [curve, self.constant("one", np.float32(1))], f"{x}.raised")
        half = self.add("Mul", [x, self.constant("half", np.float32(0.5))], f"{x}.half")
        return self.add("Mul", [half, raised], f"{x}.gelu")

    def layer(self, x: str, layer: int) -> str:
        mixed = self.linear(self.norm(x, f"{layer}.norm1"), f"{layer}.attention")
        names = [f"{layer}.{part}" for part in ("query", "key", "value")]
        self.add("Split", [mixed, self.constant("thirds", np.full(3, WIDTH))], *names, axis=-1)
        shape = self.constant("heads", np.array([1, self.tokens, HEADS, HEAD]))
        split = [self.add("Reshape", [name, shape], f"{name}.heads") for name in names]
        q, k, v = (self.add("Transpose", [name], f"{name}.moved", perm=[0, 2, 1, 3]) for name in split)
        if self.in_place:
            k = self.add("TensorScatter", [f"past_key.{layer}", k, "row"], f"present_key.{layer}", axis=2)
            v = self.add("TensorScatter", [f"past_value.{layer}", v, "row"], f"present_value.{layer}", axis=2)
        elif self.tokens == 1:
            k = self.add("Concat", [f"past_key.{layer}", k], f"present_key.{layer}", axis=2)
            v = self.add("Concat", [f"past_value.{layer}", v], f"present_value.{layer}", axis=2)
        k = self.add("Transpose", [k], f"{layer}.turned", perm=[0, 1, 3, 2])
        scores = self.add("MatMul", [q, k], f"{layer}.products")
        scores = self.add("Mul", [scores, self.constant("scale", np.float32(1 / math.sqrt(HEAD)))], f"{layer}.scores")
        if self.tokens > 1 or self.in_place:
            lowest = self.constant("lowest", np.float32(-math.inf))
            scores = self.add("Where", ["seen", scores, lowest], f"{layer}.masked")
        mixed = self.add("MatMul", [self.add("Softmax", [scores], f"{layer}.weights", axis=-1), v], f"{layer}.mixed")
        mixed = self.add("Transpose", [mixed], f"{layer}.back", perm=[0, 2, 1, 3])
        mixed = self.add("Reshape", [mixed, self.constant("whole", np.array([1, -1, WIDTH]))], f"{layer}.joined")
        x = self.add("Add", [x, self.linear(mixed, f"{layer}.projection")], f"{layer}.residual1")
        inner = self.gelu(self.linear(self.norm(x, f"{layer}.norm2"), f"{layer}.inner"))
        return self.add("Add", [x, self.linear(inner, f"{layer}.outer")], f"{layer}.residual2")

    def model(self) -> None:
        if self.tokens > 1:
            self.constant("position", np.arange(self.tokens)[None])
            self.constant("seen", np.tri(self.tokens, dtype=bool)[None, None])
        elif self.in_place:
            self.add("LessOrEqual", [self.constant("places", np.arange(CONTEXT)), "position"], "seen")
            self.add("Reshape", ["position", self.constant("one sequence", np.array([1]))], "row")
        token = self.add("Gather", ["wte", "ids"], "token")
        x = self.add("Add", [token, self.add("Gather", ["wpe", "position"], "place")], "embedded")
        for layer in range(LAYERS):
            x = self.layer(x, layer)
        rows = self.add("Reshape", [self.norm(x, "norm"), self.constant("flat", np.array([-1, WIDTH]))], "rows")
        head = self.add("Gemm", [rows, "wte"], "head", transB=1)
        self.add("Reshape", [head, self.constant("logits.shape", np.array([1, -1, VOCABULARY]))], "logits")


def _save(path: Path, writer: _Writer, feeds: dict[str, np.ndarray]) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    writer.model()
    outputs = {"logits": (1, writer.tokens, VOCABULARY)}
    for name in feeds:
        if name.startswith("past"):
            outputs[name.replace("past", "present")] = (1, HEADS, CONTEXT, HEAD)
    kinds = {"i": TensorProto.INT64, "f": TensorProto.FLOAT}
    graph = helper.make_graph(
        writer.nodes,
        "gpt2",
        [helper.make_tensor_value_info(name, kinds[a.dtype.kind], a.shape) for name, a in feeds.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(a, name) for name, a in {**weights(), **writer.constants}.items()],
    )
    opset, version = (24, 11) if writer.in_place else (17, 8)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version), str(path))


def save_prefill(path: Path) -> None:
    """Write the model that takes a prompt, opset 17."""
    _save(path, _Writer(PREFILL), prefill_feeds())


def save_decode(path: Path) -> None:
    """Write the model that takes one token more, opset 17."""
    _save(path, _Writer(1), decode_feeds())


def save_decode_in_place(path: Path) -> None:
    """Write the model that puts one token more into its caches, opset 24."""
    _save(path, _Writer(1, in_place=True), in_place_feeds())
