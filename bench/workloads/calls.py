"""What a call costs: relu(x @ w + b) for x [1, 8], w [8, 8]; the work is nothing, all is overhead.

RLX's row is a bound runner, as onnxruntime's is its IO binding; "call" rows take an array and give a new one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import systems
from workload import Run, Workload

from workloads import xla

WIDTH = 8
_RNG = np.random.default_rng(3)
X, W, BIAS = (_RNG.standard_normal(shape, np.float32) for shape in ((1, WIDTH), (WIDTH, WIDTH), (WIDTH,)))


def save(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in "xy")
    weights = [numpy_helper.from_array(W, "w"), numpy_helper.from_array(BIAS, "b")]
    graph = helper.make_graph(nodes, "small", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))


def rlx_bound(threads: int) -> Run:
    program, out = systems.rlx_program(save, {"x": X}, threads), np.empty((1, WIDTH), np.float32)
    once = program.bind({"x": X}, {"y": out})

    def run() -> np.ndarray:
        once()
        return out

    return run


def rlx_call(threads: int) -> Run:
    program = systems.rlx_program(save, {"x": X}, threads)
    return lambda: program(x=X)["y"]


def onnxruntime_bound(threads: int) -> Run:
    session = systems.onnxruntime_session(save, threads)
    binding, out = session.io_binding(), np.empty((1, WIDTH), np.float32)
    binding.bind_cpu_input("x", X)
    binding.bind_output("y", "cpu", 0, np.float32, out.shape, out.ctypes.data)

    def run() -> np.ndarray:
        session.run_with_iobinding(binding)
        return out

    return run


def onnxruntime(threads: int) -> Run:
    return systems.onnxruntime(save, {"x": X}, "y", threads)


def openvino(threads: int) -> Run:
    return systems.openvino(save, {"x": X}, "y", threads)


def numpy(threads: int) -> Run:
    return lambda: np.maximum(X @ W + BIAS, 0)


def pytorch(threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    x, w, bias = (torch.from_numpy(array) for array in (X, W, BIAS))

    def run() -> np.ndarray:
        with torch.inference_mode():
            return torch.addmm(bias, x, w).relu_().numpy()

    return run


def _jax_layer(x: Any) -> Any:
    from jax import nn

    return nn.relu(x @ W + BIAS)


def jax(threads: int) -> Run:
    function = xla.compiled(_jax_layer, threads)
    from jax import numpy as jnp

    x = jnp.asarray(X)
    return lambda: np.asarray(function(x))


WORKLOADS = [
    Workload(
        name="call",
        title="a call of relu(x w + b), x [1, 8]",
        systems={
            "RLX": rlx_bound,
            "RLX, call": rlx_call,
            "NumPy, three calls": numpy,
            "onnxruntime, IO binding": onnxruntime_bound,
            "onnxruntime, call": onnxruntime,
            "OpenVINO": openvino,
            "PyTorch": pytorch,
            "JAX": jax,
        },
        judge="NumPy, three calls",
        tolerance=1e-6,
        flops=2.0 * WIDTH * WIDTH,
        nbytes=0.0,
        calls=200,
        threads=(1,),
    )
]
