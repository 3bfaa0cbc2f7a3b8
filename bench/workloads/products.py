"""Products of matrices by themselves: square ones, and those of MiniLM's linear layers at 128 tokens.

The right factor is a constant, as weights are: RLX, onnxruntime and OpenVINO pack it when they load it. RLX, NumPy and
PyTorch write into one array again and again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import systems
from workload import Run, Workload


@dataclass(frozen=True)
class Shape:
    """x [rows, depth] times w [depth, columns]."""

    rows: int
    depth: int
    columns: int

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(0)
        return (
            random.standard_normal((self.rows, self.depth), np.float32),
            random.standard_normal((self.depth, self.columns), np.float32),
        )

    def save(self, path: Path) -> None:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.rows, self.depth])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [self.rows, self.columns])
        graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(self.factors()[1], "w")])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))


def rlx(shape: Shape, threads: int) -> Run:
    feeds = {"x": shape.factors()[0]}
    out = np.empty((shape.rows, shape.columns), np.float32)
    run = systems.rlx_program(shape.save, feeds, threads).bind(feeds, {"y": out})

    def once() -> np.ndarray:
        run()
        return out

    return once


def onnxruntime(shape: Shape, threads: int) -> Run:
    return systems.onnxruntime(shape.save, {"x": shape.factors()[0]}, "y", threads)


def openvino(shape: Shape, threads: int) -> Run:
    return systems.openvino(shape.save, {"x": shape.factors()[0]}, "y", threads)


def numpy(shape: Shape, threads: int) -> Run:
    x, w = shape.factors()
    out = np.empty((shape.rows, shape.columns), np.float32)
    return lambda: np.matmul(x, w, out=out)


def pytorch(shape: Shape, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    x, w = (torch.from_numpy(factor) for factor in shape.factors())
    out = torch.empty(shape.rows, shape.columns)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return torch.mm(x, w, out=out).numpy()

    return run


def _workload(shape: Shape) -> Workload:
    size = f"{shape.rows} x {shape.depth} x {shape.columns}"
    return Workload(
        name=f"product-{shape.rows}-{shape.depth}-{shape.columns}",
        title=f"product {size}",
        systems={
            "RLX": partial(rlx, shape),
            "NumPy": partial(numpy, shape),
            "onnxruntime": partial(onnxruntime, shape),
            "OpenVINO": partial(openvino, shape),
            "PyTorch": partial(pytorch, shape),
        },
        judge="NumPy",
        tolerance=1e-5,
        flops=2.0 * shape.rows * shape.depth * shape.columns,
        nbytes=4.0 * (shape.rows * shape.depth + shape.depth * shape.columns + shape.rows * shape.columns),
    )


WORKLOADS = [
    _workload(shape)
    for shape in (
        Shape(1024, 1024, 1024),
        Shape(4096, 4096, 4096),
        Shape(128, 384, 384),
        Shape(128, 384, 1152),
        Shape(128, 384, 1536),
        Shape(128, 1536, 384),
    )
]
