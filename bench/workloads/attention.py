"""Attention by itself, on projected heads: an encoder's, a prompt's, one token's over a cache, and a long one.

RLX compiles the composite and is bound to its memory; PyTorch runs its fused attention; onnxruntime has two products
around a softmax, and its inputs and outputs bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from workload import Run, Workload


@dataclass(frozen=True)
class Shape:
    name: str
    title: str
    batch: int
    heads: int
    queries: int
    keys: int
    width: int
    causal: bool = False

    def feeds(self) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        lengths = {"q": self.queries, "k": self.keys, "v": self.keys}
        return {
            name: random.standard_normal((self.batch, self.heads, length, self.width), np.float32)
            for name, length in lengths.items()
        }

    @property
    def flops(self) -> float:
        """Of the two products; half of them where half the keys are hidden."""
        whole = 4.0 * self.batch * self.heads * self.queries * self.keys * self.width
        return whole / 2 if self.causal else whole


def rlx(shape: Shape, threads: int) -> Run:
    import rlx
    from rlx.ir import GraphBuilder, TensorType
    from rlx.ir.dtypes import f32

    feeds = shape.feeds()
    b = GraphBuilder("attention")
    operands = [b.input(name, TensorType(array.shape, f32)) for name, array in feeds.items()]
    graph = b.build({"y": b.emit("attention", *operands, causal=shape.causal)})
    result = np.empty_like(feeds["q"])
    run = rlx.Session("cpu", rlx.Options(threads=threads)).compile(graph).bind(feeds, {"y": result})

    def once() -> np.ndarray:
        run()
        return result

    return once


def onnxruntime(shape: Shape, threads: int) -> Run:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    feeds = shape.feeds()
    constants = {"scale": np.asarray(1 / math.sqrt(shape.width), np.float32)}
    if shape.causal:
        constants["seen"] = np.tri(shape.queries, shape.keys, dtype=bool)[None, None]
        constants["lowest"] = np.asarray(-math.inf, np.float32)
    nodes = [
        helper.make_node("Transpose", ["k"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "turned"], ["products"]),
        helper.make_node("Mul", ["products", "scale"], ["scores"]),
        helper.make_node("Where", ["seen", "scores", "lowest"], ["masked"]),
        helper.make_node("Softmax", ["masked" if shape.causal else "scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        [n for n in nodes if shape.causal or n.op_type != "Where"],
        "attention",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in feeds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, feeds["q"].shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding, result = session.io_binding(), np.empty_like(feeds["q"])
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    binding.bind_output("y", "cpu", 0, np.float32, result.shape, result.ctypes.data)

    def run() -> np.ndarray:
        session.run_with_iobinding(binding)
        return result

    return run


def pytorch(shape: Shape, threads: int) -> Run:
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    q, k, v = (torch.from_numpy(array) for array in shape.feeds().values())

    def run() -> np.ndarray:
        with torch.inference_mode():
            return F.scaled_dot_product_attention(q, k, v, is_causal=shape.causal).numpy()

    return run


SHAPES = (
    Shape("attention-encoder", "attention, MiniLM's at batch 32", 32, 12, 128, 128, 32),
    Shape("attention-prompt", "attention, GPT-2's at 128 tokens", 1, 12, 128, 128, 64, causal=True),
    Shape("attention-decode", "attention, one token at 256", 1, 12, 1, 256, 64),
    Shape("attention-long", "attention, 2048 tokens", 1, 8, 2048, 2048, 64),
)

WORKLOADS = [
    Workload(
        name=shape.name,
        title=shape.title,
        systems={
            "RLX": partial(rlx, shape),
            "onnxruntime": partial(onnxruntime, shape),
            "PyTorch": partial(pytorch, shape),
        },
        judge="PyTorch",
        tolerance=2e-5,
        flops=shape.flops,
        nbytes=float(sum(array.nbytes for array in shape.feeds().values())),
    )
    for shape in SHAPES
]
