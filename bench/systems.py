"""Systems that run ONNX models, each in its best known configuration for f32 on a CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from workload import Run

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from rlx.runtime import CompiledGraph

Feeds = Mapping[str, np.ndarray]
Save = Callable[[Path], None]


def rlx_program(save: Save, feeds: Feeds, threads: int, donate: Sequence[str] = (), **options: Any) -> CompiledGraph:
    import rlx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save(path)
        loaded = rlx.load(path)
    session = rlx.Session("cpu", rlx.Options(threads=threads, **options))
    return session.compile(loaded, {name: array.shape for name, array in feeds.items()}, donate=donate)


def rlx_onnx(save: Save, feeds: Feeds, output: str, threads: int, **options: Any) -> Run:
    program = rlx_program(save, feeds, threads, **options)
    return lambda: program.run(feeds)[output]


def onnxruntime_session(save: Save, threads: int) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save(path)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnxruntime(save: Save, feeds: Feeds, output: str, threads: int) -> Run:
    session, given = onnxruntime_session(save, threads), dict(feeds)
    return lambda: session.run([output], given)[0]


def openvino(save: Save, feeds: Feeds, output: str, threads: int, *, precision: str = "f32") -> Run:
    """Told which precision: by default it takes bf16 where the CPU has it."""
    import openvino

    core = openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save(path)
        model = core.read_model(path)
    model.reshape({name: array.shape for name, array in feeds.items()})
    hints = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    request = core.compile_model(model, "CPU", {**hints, "INFERENCE_NUM_THREADS": threads}).create_infer_request()
    given = dict(feeds)
    return lambda: request.infer(given, share_inputs=True, share_outputs=True)[output]
