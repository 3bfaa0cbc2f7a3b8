"""The reference backend keeps the whole driver contract, and stays short enough to be copied."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rlx.backends.reference
import rlx.ir.composites
import rlx.ir.ops
from rlx.backends.reference import backend, compiler
from rlx.driver import Artifact, Backend, Buffer, CommandStream, Device, Executable, MemoryBackend
from rlx.errors import DriverError, IRError, TextError
from rlx.ir.builder import GraphBuilder
from rlx.ir.dim import Dim
from rlx.ir.dtypes import bf16, f32, i32
from rlx.ir.graph import Graph
from rlx.ir.types import TensorType, type_of
from rlx.options import Options

DEVICE = Device("reference")
OPTIONS = Options()


def _linear(rows: int = 3) -> Graph:
    """y = softmax(x @ w + b), and x's sum, which is an output too."""
    builder = GraphBuilder("linear")
    x = builder.input("x", TensorType((rows, 4), f32))
    w = builder.parameter("w", np.zeros((4, 5), np.float32))
    b = builder.parameter("b", np.zeros(5, np.float32))
    product = builder.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,))
    y = builder.emit("softmax", builder.binary("add", product, b), axis=1)
    return builder.build({"y": y, "total": builder.emit("reduce_sum", x, dimensions=(0, 1))})


def _load(graph: Graph) -> Executable:
    return backend.load(compiler.compile_graph(graph, DEVICE, OPTIONS), DEVICE, OPTIONS)


def _run(program: Executable, *arrays: np.ndarray) -> list[np.ndarray]:
    outputs = [Buffer.empty(t, DEVICE) for t in program.outputs.values()]
    program.run([Buffer.from_numpy(a, device=DEVICE) for a in arrays], outputs)
    return [o.numpy() for o in outputs]


def _weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"w": rng.standard_normal((4, 5), np.float32), "b": rng.standard_normal(5, np.float32)}


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_it_is_a_backend_and_makes_executables() -> None:
    assert isinstance(backend, Backend)
    assert isinstance(backend.memory(0), MemoryBackend)
    assert backend.memory(0) is backend.memory(0)
    assert isinstance(_load(_linear()), Executable)
    assert DEVICE.backend is backend
    assert (backend.kind, backend.compiler, backend.device_count()) == ("reference", compiler.__name__, 1)


def test_a_program_computes_what_numpy_computes_with_the_weights_bound_to_it() -> None:
    program = _load(_linear())
    weights = _weights(1)
    program.bind_parameters(weights)
    for seed in (2, 3):
        x = np.random.default_rng(seed).standard_normal((3, 4), np.float32)
        y, total = _run(program, x)
        assert np.allclose(y, _softmax(x @ weights["w"] + weights["b"]), rtol=1e-5, atol=1e-6)
        assert np.isclose(total, x.sum(), rtol=1e-5)


def test_types_are_told_in_the_graphs_order() -> None:
    program = _load(_linear())
    assert list(program.inputs.items()) == [("x", TensorType((3, 4), f32))]
    assert list(program.outputs.items()) == [("y", TensorType((3, 5), f32)), ("total", TensorType((), f32))]
    assert list(program.parameters.items()) == [("w", TensorType((4, 5), f32)), ("b", TensorType((5,), f32))]


def test_the_artefact_is_plain_data_that_depends_on_structure_alone() -> None:
    first = compiler.compile_graph(_linear(), DEVICE, OPTIONS)
    second = compiler.compile_graph(_linear(), DEVICE, OPTIONS)
    assert first == second
    assert first != compiler.compile_graph(_linear(rows=2), DEVICE, OPTIONS)
    again = Artifact(first.backend, json.loads(json.dumps(dict(first.manifest))), first.sections)
    program = backend.load(
        Artifact(again.backend, again.manifest, {k: memoryview(v) for k, v in again.sections.items()}), DEVICE, OPTIONS
    )
    program.bind_parameters(_weights(0))
    assert _run(program, np.zeros((3, 4), np.float32))[1] == 0


def test_inputs_that_are_views_and_outputs_that_are_views_work() -> None:
    builder = GraphBuilder("negate")
    x = builder.input("x", TensorType((3, 4), f32))
    program = _load(builder.build({"y": builder.emit("neg", x)}))
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    source = Buffer.from_numpy(array, device=DEVICE)
    target = Buffer.empty(TensorType((4, 3), f32), DEVICE)
    program.run([source[:3, 1:5]], [target.transpose(1, 0)])
    assert np.array_equal(target.numpy().T, -array[:3, 1:5])


def test_an_output_may_be_the_input() -> None:
    builder = GraphBuilder("identity")
    x = builder.input("x", TensorType((3,), f32))
    program = _load(builder.build({"same": x, "doubled": builder.binary("add", x, x)}))
    x_in = np.array([1, 2, 3], np.float32)
    same, doubled = _run(program, x_in)
    assert same.tolist() == x_in.tolist()
    assert doubled.tolist() == [2, 4, 6]
    assert not np.shares_memory(same, x_in)


def test_dtypes_beyond_numpys_and_constants_survive_the_text() -> None:
    builder = GraphBuilder("small")
    x = builder.input("x", TensorType((2,), bf16))
    constant = builder.constant(np.array([np.inf, 2.5], np.float32))
    table = builder.constant(np.random.default_rng(0).standard_normal(100).astype(np.float32))
    program = _load(builder.build({"y": builder.emit("add", builder.convert(x, f32), constant), "t": table}))
    y, t = _run(program, np.array([1, 2], bf16.numpy))
    assert y.tolist() == [np.inf, 4.5]
    assert np.array_equal(t, np.random.default_rng(0).standard_normal(100).astype(np.float32))


def test_streams_run_its_programs() -> None:
    program = _load(_linear())
    program.bind_parameters(_weights(4))
    x = Buffer.from_numpy(np.ones((3, 4), np.float32), device=DEVICE)
    outputs = [Buffer.empty(t, DEVICE) for t in program.outputs.values()]
    with CommandStream(DEVICE) as stream:
        stream.fill(x, 2)
        stream.run(program, [x], outputs)
        stream.synchronize()
        assert outputs[1].numpy() == 24
        stream.run_now(program, [x[...]], outputs)


def test_runs_of_one_program_may_overlap_here() -> None:
    program = _load(_linear())
    program.bind_parameters(_weights(5))
    totals: list[float] = []
    threads = [
        threading.Thread(target=lambda i=i: totals.append(float(_run(program, np.full((3, 4), i, np.float32))[1])))
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(totals) == [12.0 * i for i in range(6)]


def test_a_run_before_binding_or_after_closing_says_so() -> None:
    program = _load(_linear())
    x = np.zeros((3, 4), np.float32)
    with pytest.raises(DriverError, match="'linear' has no parameters bound yet"):
        _run(program, x)
    program.bind_parameters(_weights(0))
    program.close()
    program.close()
    with pytest.raises(DriverError, match="'linear' is closed"):
        _run(program, x)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: {"w": w["w"]}, "'b' has no data"),
        (lambda w: {**w, "b": np.zeros(6, np.float32)}, r"'b' is declared f32\[5\], its data is f32\[6\]"),
        (lambda w: {**w, "b": np.zeros(5)}, r"its data is f64\[5\]"),
        (lambda w: {**w, "c": w["b"]}, "'c', which the text does not declare"),
    ],
)
def test_wrong_parameters_are_refused_with_both_sides(
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], why: str
) -> None:
    with pytest.raises((TextError, IRError), match=why):
        _load(_linear()).bind_parameters(change(_weights(0)))


def test_an_artefact_of_another_backend_is_refused() -> None:
    artifact = compiler.compile_graph(_linear(), DEVICE, OPTIONS)
    with pytest.raises(DriverError, match="compiled for 'cpu' cannot run on reference:0"):
        backend.load(Artifact("cpu", artifact.manifest, artifact.sections), DEVICE, OPTIONS)


def test_open_dimensions_are_refused() -> None:
    builder = GraphBuilder("open")
    x = builder.input("x", TensorType((Dim("batch"), 4), f32))
    with pytest.raises(IRError, match="symbolic"):
        compiler.compile_graph(builder.build({"y": builder.emit("neg", x)}), DEVICE, OPTIONS)


def test_the_report_says_that_composites_run_through_their_bodies() -> None:
    report = _load(_linear()).report()
    assert report["dispatch"] == [["softmax", "unknown", "inlined"]]
    json.dumps(report)


def test_control_flow_runs_the_taken_branch_alone() -> None:
    def region(op: str, name: str) -> Graph:
        builder = GraphBuilder(name)
        return builder.build([builder.emit(op, builder.input("v", TensorType((2,), i32)))])

    builder = GraphBuilder("branch")
    flag, x = builder.input("flag", TensorType((), rlx.ir.dtypes.bool_)), builder.input("x", TensorType((2,), i32))
    y = builder.emit("cond", flag, x, regions=(region("neg", "yes"), region("abs", "no")))
    program = _load(builder.build({"y": y}))
    x_in = np.array([3, -4], np.int32)
    assert _run(program, np.array(True), x_in)[0].tolist() == [-3, 4]
    assert _run(program, np.array(False), x_in)[0].tolist() == [3, 4]
    assert type_of(_run(program, np.array(True), x_in)[0]) == TensorType((2,), i32)


def test_the_template_stays_short() -> None:
    folder = Path(rlx.backends.reference.__file__ or "").parent
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.glob("*.py"))
    assert lines < 300


def test_the_verifier_runs_after_each_pass_of_a_precision_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Graph] = []
    monkeypatch.setattr(compiler, "verify", seen.append)
    options = Options(precision="bf16", cache=False)
    compiler.compile_graph(_linear(), Device("reference"), options)
    assert not seen
    compiler.compile_graph(_linear(), Device("reference"), replace(options, verify=True))
    assert seen
