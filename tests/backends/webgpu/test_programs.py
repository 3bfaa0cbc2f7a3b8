"""Whole programs on WebGPU: repeated calls, control flow, weights, buffers of the caller's, limits and refusals."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import rlx
from rlx.driver import HOST, Buffer, Device, device_memory
from rlx.errors import DeviceNotFound, UnsupportedKernel
from rlx.ir import GraphBuilder, TensorType, dtypes, type_of
from rlx.ir.interpret import interpret
from rlx.options import Options
from rlx.runtime import Session
from rlx.testing.random_graphs import exact_graph, exact_inputs, smooth_graph, smooth_inputs

NO_CACHE = Options(cache=False)


def _sum(shape=(5, 19), dtype=dtypes.f32):
    b = GraphBuilder("sum")
    x, y = (b.input(n, TensorType(shape, dtype)) for n in "xy")
    return b.build({"z": b.emit("add", x, y)})


def test_every_call_gives_its_own_results(webgpu):
    program = Session(webgpu, NO_CACHE).compile(_sum())
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(12):
        x, y = rng.normal(size=(2, 5, 19)).astype(np.float32)
        kept.append((program(x=x, y=y)["z"], x + y))
    for got, expected in kept:
        np.testing.assert_array_equal(got, expected)


def test_buffers_stay_on_the_device_and_may_be_views_at_odd_offsets(webgpu):
    program = Session(webgpu, NO_CACHE).compile(_sum((6,)))
    x = np.arange(9, dtype=np.float32)
    on_device = Buffer.from_numpy(x).to(webgpu)
    result = program.run({"x": on_device[1:7], "y": on_device[3:9]})["z"]
    assert result.device == webgpu
    np.testing.assert_array_equal(result.to(HOST).numpy(), x[1:7] + x[3:9])


def test_weights_are_bound_once_and_used_in_every_run(webgpu):
    rng = np.random.default_rng(1)
    w = rng.normal(size=(24, 40)).astype(np.float32)
    b = GraphBuilder("dense")
    x = b.input("x", TensorType((33, 24), dtypes.f32))
    weight = b.parameter("w", w)
    doubled = b.emit("add", weight, weight)  # depends on weights alone: setup computes it
    graph = b.build({"y": b.emit("dot_general", x, doubled, lhs_contract=(1,), rhs_contract=(0,))})
    program = Session(webgpu, NO_CACHE).compile(graph)
    for seed in (2, 3):
        data = np.random.default_rng(seed).normal(size=(33, 24)).astype(np.float32)
        np.testing.assert_allclose(program(x=data)["y"], data @ (2 * w), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("m", "n", "k"), [(4, 16, 8), (16, 64, 16), (17, 65, 33), (33, 70, 9), (130, 67, 50)])
def test_tiled_products_are_exact_on_whole_numbers_at_every_edge(webgpu, m, n, k):
    rng = np.random.default_rng(m)
    x = rng.integers(-8, 9, (2, m, k)).astype(np.float32)
    y = rng.integers(-8, 9, (2, n, k)).astype(np.float32)
    b = GraphBuilder("product")
    values = [b.input(name, type_of(a)) for name, a in (("x", x), ("y", y))]
    dot = b.emit("dot_general", *values, lhs_contract=(2,), rhs_contract=(2,), lhs_batch=(0,), rhs_batch=(0,))
    program = Session(webgpu, NO_CACHE).compile(b.build({"z": b.emit("neg", dot)}))
    assert any("matmul" in kernel.label for kernel in program.report.steps)
    np.testing.assert_array_equal(program(x=x, y=y)["z"], -(x @ y.transpose(0, 2, 1)))


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_agree_with_the_interpreter(webgpu, seed):
    rng = np.random.default_rng(seed)
    for make, feed, tolerance in ((exact_graph, exact_inputs, 0.0), (smooth_graph, smooth_inputs, 2e-4)):
        graph = make(lambda n: int(rng.integers(n)))
        inputs = feed(graph, rng)
        expected = interpret(graph, inputs)
        got = Session(webgpu, Options(cache=False, debug_memory=True)).compile(graph).run(inputs)
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=tolerance, atol=tolerance)


def test_nan_and_infinity_are_kept(webgpu):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], np.float32)
    b = GraphBuilder("limits")
    v = b.input("x", type_of(x))
    zero = b.full((6,), 0.0, dtypes.f32)
    outputs = {
        "same": b.emit("ne", v, v),
        "max": b.emit("max", v, zero),
        "sum": b.emit("reduce_max", v, dimensions=(0,)),
    }
    got = Session(webgpu, NO_CACHE).compile(b.build(outputs))(x=x)
    np.testing.assert_array_equal(got["same"], np.isnan(x))
    np.testing.assert_array_equal(got["max"], np.maximum(x, 0))
    assert np.isnan(got["sum"])


def test_the_disk_cache_serves_a_program_again(webgpu, tmp_path):
    options = Options(cache=True, cache_dir=tmp_path)
    x = np.ones((5, 19), np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(Session(webgpu, options).compile(_sum())(x=x, y=x)["z"], 2 * x)


def test_a_dtype_that_wgsl_lacks_is_refused_by_name(webgpu):
    with pytest.raises(UnsupportedKernel, match="f64"):
        Session(webgpu, NO_CACHE).compile(_sum(dtype=dtypes.f64))


def test_in_steady_state_nothing_is_allocated_and_nothing_prepared_again(webgpu):
    memory = device_memory(webgpu)
    program = Session(webgpu, NO_CACHE).compile(_sum((300,)))
    x = np.ones(300, np.float32)
    for _ in range(3):
        program(x=x, y=x)
    backend, prepared = memory.backend, []
    before = (memory.statistics.device_allocations, backend._staging.made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(program.executable), "prepare", lambda *args: prepared.append(args))
        for _ in range(5):
            program(x=x, y=x)
    assert (memory.statistics.device_allocations, backend._staging.made) == before
    assert not prepared


@pytest.mark.parametrize("piece", [1 << 24, 1 << 8])
def test_all_outputs_of_a_call_come_back_together_where_they_are_small(webgpu, monkeypatch, piece):
    x = np.random.default_rng(9).normal(size=(37, 5)).astype(np.float32)
    b = GraphBuilder("three")
    v = b.input("x", type_of(x))
    outputs = {"sign": b.emit("gt", v, b.full((37, 5), 0.0, dtypes.f32)), "neg": b.emit("neg", v)}
    outputs["sum"] = b.emit("reduce_sum", v, dimensions=(0, 1))
    program = Session(webgpu, NO_CACHE).compile(b.build(outputs))
    staging = webgpu.backend.memory(webgpu.ordinal)._staging
    reads = []
    submit = staging._submit
    monkeypatch.setattr(staging, "piece", piece)
    monkeypatch.setattr(staging, "_submit", lambda copies, *rest: reads.append(len(copies)) or submit(copies, *rest))
    got = program(x=x)
    np.testing.assert_array_equal(got["sign"], x > 0)
    np.testing.assert_array_equal(got["neg"], -x)
    np.testing.assert_allclose(got["sum"], x.sum(), rtol=1e-4)
    assert reads == ([3] if piece > 1 << 8 else [1, 1, 1, 1, 1])


def test_each_launch_is_timed_by_the_devices_clock(webgpu):
    gpu = webgpu.backend.memory(webgpu.ordinal).gpu
    if not gpu.has_timestamps:
        pytest.skip("the adapter has no timestamps")
    x = np.random.default_rng(3).normal(size=(1000, 65)).astype(np.float32)
    b = GraphBuilder("two")
    v = b.input("x", type_of(x))
    total = b.emit("reduce_sum", b.emit("exp", v), dimensions=(0,))
    program = Session(webgpu, NO_CACHE).compile(b.build({"y": b.emit("sort", total, dimension=0)}))
    feeds, sinks = [Buffer.from_numpy(x).to(webgpu)], [Buffer.empty(TensorType((65,), dtypes.f32), webgpu)]
    times = program.executable.time_kernels(feeds, sinks)
    assert [label for label, _ in times] == [step.label for step in program.report.steps]
    assert all(0 < nanoseconds < 60e9 for _, nanoseconds in times)
    np.testing.assert_allclose(sinks[0].to(HOST).numpy(), np.sort(np.exp(x).sum(0)), rtol=1e-5)


_LOSS = """
import numpy as np
from rlx.driver import Buffer, Device
from rlx.errors import DeviceLost
device = Device("webgpu")
buffer = Buffer.from_numpy(np.zeros(64, np.float32)).to(device)
device.backend.memory(0).gpu.device.destroy()
said = set()
for call in (lambda: buffer.fill(1), buffer.copy, lambda: buffer.to(Device("cpu")), lambda: buffer[1:2].fill(1)) * 2:
    try:
        call()
    except DeviceLost as error:
        said.add(str(error))
    else:
        raise SystemExit("a call on a lost device went through")
buffer.free()
assert len(said) == 1, said
print(*said)
"""


def test_a_loss_that_a_call_finds_is_told_by_every_later_call_in_the_same_words(webgpu):
    done = subprocess.run([sys.executable, "-c", _LOSS], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("DeviceLost [RLX-D050]: the device ")


def test_kinds_that_keep_to_one_api_are_absent_where_it_is(webgpu):
    api = webgpu.properties.features["api"]
    for kind, name in (("metal", "Metal"), ("vulkan", "Vulkan"), ("dx12", "D3D12")):
        if name == api:
            x = np.ones((5, 19), np.float32)
            np.testing.assert_array_equal(Session(kind, NO_CACHE).compile(_sum())(x=x, y=x)["z"], 2 * x)
        else:
            with pytest.raises(DeviceNotFound):
                _ = Device(kind).properties


def test_minilm_agrees_with_the_cpu(webgpu, minilm):
    model = rlx.load(minilm)
    shapes = dict.fromkeys(model.inputs, (1, 16))
    rng = np.random.default_rng(0)
    values = {"input_ids": rng.integers(1000, 20000, (1, 16)), "attention_mask": np.arange(16)[None] < 11}
    inputs = {
        name: np.asarray(values.get(name, np.zeros((1, 16)))).astype(type.dtype.numpy)
        for name, type in model.inputs.items()
    }
    expected = rlx.Session("cpu").compile(model, shapes=shapes).run(inputs)
    got = Session(webgpu).compile(model, shapes=shapes).run(inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=2e-5)


def test_loops_of_more_turns_than_software_adapters_take_still_end(webgpu):
    x = np.random.default_rng(5).normal(size=(172, 309)).astype(np.float32)
    b = GraphBuilder("range")
    v = b.input("x", type_of(x))
    least = b.emit("broadcast_in_dim", b.emit("reduce_min", v, dimensions=(0, 1)), shape=x.shape, broadcast_dims=())
    shifted = b.emit("sub", v, least)
    graph = b.build({"y": shifted, "most": b.emit("reduce_max", shifted, dimensions=(0, 1))})
    got = Session(webgpu, NO_CACHE).compile(graph)(x=x)
    np.testing.assert_array_equal(got["y"], x - x.min())
    assert got["most"] == (x - x.min()).max()


def test_rows_too_long_for_an_invocation_to_keep_lie_in_scratch_memory(webgpu):
    x = np.random.default_rng(6).normal(size=(3, 6625)).astype(np.float32)
    b = GraphBuilder("softmax")
    program = Session(webgpu, NO_CACHE).compile(b.build({"y": b.emit("softmax", b.input("x", type_of(x)), axis=1)}))
    e = np.exp((x - x.max(1, keepdims=True)).astype(np.float64))
    np.testing.assert_allclose(program(x=x)["y"], e / e.sum(1, keepdims=True), rtol=2e-5)
