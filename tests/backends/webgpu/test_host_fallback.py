"""What WebGPU cannot express runs on the host where the user allows it, and the report names every such op."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.backends.webgpu import mixed
from rlx.driver import HOST, Buffer, device_memory
from rlx.errors import BindingLimit, UnsupportedKernel
from rlx.ir import GraphBuilder, TensorType, dtypes, type_of
from rlx.ir.interpret import interpret
from rlx.options import Options
from rlx.runtime import Session

ALLOWED = Options(cache=False, host_fallback=True)


def _precise_mean():
    """f32 -> f32 with a sum in f64 in the middle, and weights on both sides of it."""
    rng = np.random.default_rng(0)
    b = GraphBuilder("mean")
    x = b.input("x", TensorType((40, 30), dtypes.f32))
    y = b.emit("dot_general", x, b.parameter("w", rng.normal(size=(30, 20)).astype(np.float32)),
               lhs_contract=(1,), rhs_contract=(0,))  # fmt: skip
    wide = b.emit("convert", b.emit("exp", y), dtype=dtypes.f64)
    scaled = b.emit("mul", wide, b.parameter("s", rng.normal(size=(40, 20))))
    total = b.emit("reduce_sum", scaled, dimensions=(0,))
    return b.build({"y": b.emit("neg", b.emit("convert", total, dtype=dtypes.f32)), "wide": total, "e": y})


def _inputs(seed=1):
    return {"x": (np.random.default_rng(seed).normal(size=(40, 30)) / 8).astype(np.float32)}


def test_without_leave_the_error_names_op_dtype_place_and_option(webgpu):
    with pytest.raises(UnsupportedKernel, match=r"mul.*f64[\s\S]*host_fallback=True"):
        Session(webgpu, Options(cache=False)).compile(_precise_mean())


def test_the_host_runs_what_the_device_cannot_and_the_report_names_it(webgpu):
    graph = _precise_mean()
    with Session(webgpu, ALLOWED).compile(graph) as program:
        for seed in (1, 2):
            got, expected = program.run(_inputs(seed)), interpret(graph, _inputs(seed))
            assert got["wide"].dtype == np.float64
            for name, array in expected.items():
                np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-4, err_msg=name)
        assert {(op, way) for op, _, way in program.report.dispatch} == {
            ("convert", "host"), ("mul", "host"), ("reduce_sum", "host")
        }  # fmt: skip
        on_host = [step for step in program.report.steps if step.kernel == "host"]
        assert len(on_host) == 1, "neighbours on the host are one part"
        assert any(step.kernel != "host" for step in program.report.steps)


def test_buffers_of_the_device_go_in_and_out_of_mixed_programs(webgpu):
    graph, x = _precise_mean(), _inputs()
    program = Session(webgpu, ALLOWED).compile(graph)
    got = program.run({"x": Buffer.from_numpy(x["x"]).to(webgpu)})
    np.testing.assert_allclose(got["y"].to(HOST).numpy(), interpret(graph, x)["y"], rtol=1e-4, atol=1e-4)


def test_a_mixed_program_tells_the_time_of_its_parts_and_ends_with_close(webgpu):
    program = Session(webgpu, ALLOWED).compile(_precise_mean())
    feeds = [Buffer.from_numpy(_inputs()["x"]).to(webgpu)]
    sinks = [Buffer.empty(t, webgpu) for t in program.outputs.values()]
    if webgpu.backend.memory(0).gpu.has_timestamps:
        times = program.executable.time_kernels(feeds, sinks)
        assert [label for label, _ in times] == [step.label for step in program.report.steps]
        assert all(nanoseconds > 0 for _, nanoseconds in times)
    held = device_memory(webgpu).statistics.live
    program.close()
    assert device_memory(webgpu).statistics.live < held


def test_a_program_that_the_device_can_run_leaves_nothing_to_the_host(webgpu):
    b = GraphBuilder("plain")
    x = b.input("x", TensorType((5,), dtypes.f32))
    program = Session(webgpu, ALLOWED).compile(b.build({"y": b.emit("exp", x)}))
    assert not [row for row in program.report.dispatch if row[2] == "host"]


def test_inputs_constants_and_branches_pass_through_parts(webgpu):
    b = GraphBuilder("edges")
    x, flag = b.input("x", TensorType((6,), dtypes.f64)), b.input("flag", TensorType((), dtypes.bool_))
    inner = GraphBuilder("then")
    v = inner.input("v", x.type)
    then = inner.build({"r": inner.emit("sqrt", v)})
    inner = GraphBuilder("otherwise")
    v = inner.input("v", x.type)
    otherwise = inner.build({"r": inner.emit("neg", v)})
    chosen = b.emit("cond", flag, x, regions=(then, otherwise))
    three = b.full((6,), 3.0, dtypes.f64)
    narrow = b.emit("convert", b.emit("add", chosen, three), dtype=dtypes.f32)
    graph = b.build({"y": b.emit("mul", narrow, b.full((6,), 2.0, dtypes.f32)), "same": x, "three": three})
    program = Session(webgpu, ALLOWED).compile(graph)
    for flag_value in (True, False):
        inputs = {"x": np.arange(1.0, 7.0), "flag": np.array(flag_value)}
        got = program.run(inputs)
        for name, expected in interpret(graph, inputs).items():
            np.testing.assert_allclose(got[name], expected, rtol=1e-6, err_msg=name)


def test_a_row_too_long_for_the_devices_bindings_goes_to_the_host_too(tiny):
    x = np.random.default_rng(3).normal(size=9000).astype(np.float32)
    b = GraphBuilder("sort")
    graph = b.build({"y": b.emit("neg", b.emit("sort", b.input("x", type_of(x)), dimension=0))})
    with pytest.raises(BindingLimit, match="host_fallback"):
        Session(tiny, Options(cache=False)).compile(graph)
    program = Session(tiny, ALLOWED).compile(graph)
    np.testing.assert_array_equal(program(x=x)["y"], -np.sort(x))
    assert ("sort", "host") in {(op, way) for op, _, way in program.report.dispatch}


def test_what_depends_on_weights_alone_is_computed_once_on_the_host(webgpu, monkeypatch):
    weights = np.random.default_rng(4).normal(size=(20, 30))
    b = GraphBuilder("folded")
    x, w = b.input("x", TensorType((5, 20), dtypes.f32)), b.parameter("w", weights)
    halved = b.emit("convert", b.emit("mul", w, b.full((20, 30), 0.5, dtypes.f64)), dtype=dtypes.f32)
    y = b.emit("dot_general", x, b.emit("exp", halved), lhs_contract=(1,), rhs_contract=(0,))
    graph = b.build({"y": b.emit("neg", y), "weights": w})
    calls = []
    monkeypatch.setattr(mixed, "interpret", lambda part, arrays: calls.append(part.nodes) or interpret(part, arrays))
    program = Session(webgpu, ALLOWED).compile(graph)
    assert ["mul" in {node.op for node in nodes} for nodes in calls] == [True]
    feeds = {"x": np.random.default_rng(5).normal(size=(5, 20)).astype(np.float32)}
    for _ in range(2):
        got = program.run(feeds)
    assert len(calls) == 1, "runs compute it again"
    for name, expected in interpret(graph, feeds).items():
        np.testing.assert_allclose(got[name], expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_the_cpu_has_nothing_to_leave_to_the_host():
    graph = _precise_mean()
    program = Session("cpu", ALLOWED).compile(graph)
    np.testing.assert_allclose(program.run(_inputs())["wide"], interpret(graph, _inputs())["wide"], rtol=1e-4)
    assert not [row for row in program.report.dispatch if row[2] == "host"]
