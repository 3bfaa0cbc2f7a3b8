"""Donated inputs: what a program overwrites, what the caller loses, and what is never written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from rlx.driver import Buffer, CommandStream, Device
from rlx.errors import BufferDonated, BufferFreed, DeviceError, DonationError, UnknownInput
from rlx.ir import Dim, Graph, GraphBuilder, TensorType, Value, interpret
from rlx.ir.dtypes import f32, i32
from rlx.options import Options
from rlx.runtime import CompiledGraph, Session
from rlx.testing.random_graphs import smooth_graph, smooth_inputs

DEVICES = ["cpu", "reference"]
ROWS, WIDTH = 48, 65


def _session(device: str = "cpu") -> Session:
    return Session(device, Options(cache=False, debug_memory=device == "cpu", threads=2))


def _cache_update() -> Graph:
    """One step of a cache: a row is written at `at`, and what is in the cache is summed by columns."""
    b = GraphBuilder("cache_update")
    cache, row = b.input("cache", TensorType((ROWS, WIDTH), f32)), b.input("row", TensorType((1, WIDTH), f32))
    at = b.input("at", TensorType((), i32))
    zero = b.constant(np.int32(0))
    new = b.emit("dynamic_update_slice", cache, b.emit("tanh", row), at, zero)
    return b.build({"new": new, "sums": b.emit("reduce_sum", new, dimensions=(0,))})


def _inputs(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "cache": rng.normal(size=(ROWS, WIDTH)).astype(np.float32),
        "row": rng.normal(size=(1, WIDTH)).astype(np.float32),
        "at": np.array(seed % ROWS, np.int32),
    }


def _copies(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in values.items()}


def _check(program: CompiledGraph, plain: CompiledGraph, inputs: Mapping[str, np.ndarray]) -> None:
    """The same bits, as arrays and as Buffers, with and without `out`; inputs that are not donated are as they were."""
    want = plain.run(inputs)
    for out in (None, {name: np.full(t.sizes, -77, t.dtype.numpy) for name, t in program.outputs.items()}):
        given = _copies(inputs)
        got = program.run(given, out)
        _same(got, want)
        _same({n: a for n, a in given.items() if n not in program.donated}, inputs)
    buffers = {name: Buffer.from_numpy(np.array(a)).to(program.device) for name, a in inputs.items()}
    got = program.run(buffers)
    _same({name: b.to(Device("cpu")).numpy() for name, b in got.items()}, want)
    for name, buffer in buffers.items():
        assert buffer.is_freed == (name in program.donated)
        if not buffer.is_freed:
            _same({name: buffer.numpy()}, inputs)


def _same(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> None:
    for name, array in got.items():
        assert array.tobytes() == np.asarray(want[name]).tobytes(), name


@pytest.mark.parametrize("device", DEVICES)
def test_a_cache_is_updated_to_the_same_bits(device: str) -> None:
    graph, session = _cache_update(), _session(device)
    with session.compile(graph, donate=("cache",)) as program, session.compile(graph) as plain:
        assert isinstance(program, CompiledGraph)
        assert isinstance(plain, CompiledGraph)
        for seed in (0, 7, ROWS - 1):
            _check(program, plain, _inputs(seed))
        np.testing.assert_allclose(plain.run(_inputs(3))["new"], interpret(graph, _inputs(3))["new"], rtol=3e-7)


def test_a_donated_cache_is_updated_where_it_is() -> None:
    with _session().compile(_cache_update(), donate=("cache",)) as program:
        assert program.in_inputs == {"new": "cache"}
        cache = _inputs()["cache"]
        for seed in range(3):
            assert program.run({**_inputs(seed), "cache": cache})["new"] is cache
        buffer = Buffer.from_numpy(cache)
        address = buffer.address
        for seed in range(3):
            feeds = {name: Buffer.from_numpy(a) for name, a in _inputs(seed).items()}
            result = program.run({**feeds, "cache": buffer})["new"]
            assert result.address == address
            with pytest.raises(BufferDonated, match="donated"):
                buffer.numpy()
            buffer = result


def test_only_the_updated_elements_are_written() -> None:
    """A run writes the one row: a copy, even onto itself, would be a step."""
    graph = _cache_update()
    with _session().compile(graph, donate=("cache",)) as program, _session().compile(graph) as plain:
        steps = []
        for compiled in (program, plain):
            buffers = [Buffer.from_numpy(a) for a in _inputs().values()]
            sinks = [Buffer.empty(t) for t in compiled.outputs.values()]
            steps.append([label for label, _ in compiled.executable.time_kernels(buffers, sinks)])
            np.testing.assert_allclose(sinks[0].numpy(), interpret(graph, _inputs())["new"], rtol=3e-7)
        assert len(steps[0]) == len(steps[1]) - 1


def _decoding_step() -> Graph:
    """One token's key and value go into caches, and its query, of four heads to a cache's two, attends to them."""
    b = GraphBuilder("decoding_step")
    caches = [b.input(name, TensorType((3, 2, 37, 16), f32)) for name in ("keys", "values")]
    rows = [b.input(name, TensorType((3, 2, 1, 16), f32)) for name in ("key", "value")]
    query, at = b.input("query", TensorType((3, 4, 1, 16), f32)), b.input("at", TensorType((), i32))
    zero = b.constant(np.int32(0))
    k, v = (b.emit("dynamic_update_slice", c, r, zero, zero, at, zero) for c, r in zip(caches, rows, strict=True))
    seen = b.binary("le", b.iota((37,), 0, i32), b.emit("broadcast_in_dim", at, shape=(37,), broadcast_dims=()))
    mask = b.emit("broadcast_in_dim", seen, shape=(1, 1, 1, 37), broadcast_dims=(3,))
    mixed = b.emit("attention", query, k, v, mask, scale=0.25, causal=False, softcap=0.0)
    return b.build({"mixed": mixed, "new_keys": k, "new_values": v})


def test_a_decoding_step_over_donated_caches_copies_nothing() -> None:
    graph = _decoding_step()
    rng = np.random.default_rng(9)
    inputs = {n: rng.normal(size=t.sizes).astype(np.float32) for n, t in graph.input_types.items() if n != "at"}
    inputs["at"] = np.array(20, np.int32)
    with Session("cpu", Options(cache=False, threads=2)).compile(graph, donate=("keys", "values")) as program:
        assert program.in_inputs == {"new_keys": "keys", "new_values": "values"}
        buffers = [Buffer.from_numpy(a.copy()) for a in inputs.values()]
        sinks = [Buffer.empty(program.outputs["mixed"]), *buffers[:2]]
        labels = [label for label, _ in program.executable.time_kernels(buffers, sinks)]
        assert labels == ["dynamic_update_slice", "dynamic_update_slice", "attention", "end"]
        for at in (0, 20, 36):
            inputs["at"] = np.array(at, np.int32)
            want = interpret(graph, inputs)
            got = program.run(_copies(inputs))
            for name, array in got.items():
                np.testing.assert_allclose(array, want[name], rtol=0, atol=2e-6)


def test_a_donated_input_is_memory_for_what_follows() -> None:
    b = GraphBuilder("scratch")
    x = b.input("x", TensorType((64, 64), f32))
    y = b.input("y", TensorType((64, 64), f32))
    t = b.emit("sort", b.binary("add", b.emit("tanh", x), y), dimension=0)
    graph = b.build({"sum": b.emit("reduce_sum", t, dimensions=(0, 1))})
    plain, donating = _session().compile(graph), _session().compile(graph, donate=("x",))
    assert isinstance(plain, CompiledGraph)
    assert isinstance(donating, CompiledGraph)
    with Session("cpu", Options(cache=False)).compile(graph) as tight:
        before = tight.report.memory.arena_bytes
    with Session("cpu", Options(cache=False)).compile(graph, donate=("x",)) as tight:
        assert tight.report.memory.arena_bytes <= before - 64 * 64 * 4
    rng = np.random.default_rng(5)
    _check(donating, plain, {name: rng.normal(size=(64, 64)).astype(np.float32) for name in "xy"})


def _square(body: Callable[[GraphBuilder, Value, Value], dict[str, Value]]) -> Graph:
    b = GraphBuilder("square")
    x, y = (b.input(name, TensorType((33, 33), f32)) for name in "xy")
    return b.build(body(b, x, y))


@pytest.mark.parametrize(
    ("body", "in_inputs"),
    [
        (lambda b, x, y: {"o": b.binary("add", x, y)}, {"o": "x"}),
        (lambda b, x, y: {"o": x, "p": y}, {"o": "x"}),
        (lambda b, x, y: {"o": x, "p": x, "q": b.emit("neg", y)}, {"p": "x"}),
        (lambda b, x, y: {"o": b.emit("exp", x), "p": b.emit("sort", b.emit("exp", x), dimension=0)}, None),
        (lambda b, x, y: {"o": b.emit("transpose", x, permutation=(1, 0))}, {}),
        (lambda b, x, y: {"o": b.binary("mul", x, b.emit("rev", x, dimensions=(0,)))}, {}),
        (lambda b, x, y: {"o": b.emit("neg", y)}, {}),
        (lambda b, x, y: {"o": b.emit("dot_general", x, x, lhs_contract=(1,), rhs_contract=(0,))}, {}),
        (lambda b, x, y: {"o": b.binary("add", x, b.emit("dot_general", y, y, lhs_contract=(1,), rhs_contract=(0,)))},
         {"o": "x"}),
        (lambda b, x, y: {"o": b.binary("add", x, b.emit("dot_general", y, x, lhs_contract=(1,), rhs_contract=(0,)))},
         {}),
    ],
    ids=["sum", "passed on", "twice", "read again", "turned", "reversed", "unused", "product", "residual",
         "product of what is added"],
)  # fmt: skip
def test_outputs_lie_in_donated_inputs_only_where_nothing_is_lost(
    body: Callable[[GraphBuilder, Value, Value], dict[str, Value]], in_inputs: dict[str, str] | None
) -> None:
    graph = _square(body)
    rng = np.random.default_rng(6)
    inputs = {name: rng.normal(size=(33, 33)).astype(np.float32) for name in "xy"}
    with _session().compile(graph, donate=("x",)) as program, _session().compile(graph) as plain:
        if in_inputs is not None:
            assert program.in_inputs == in_inputs
        _check(program, plain, inputs)


def test_a_result_in_a_donated_input_is_not_overwritten_in_its_turn() -> None:
    b = GraphBuilder("chain")
    cache, row = b.input("cache", TensorType((40, 8), f32)), b.input("row", TensorType((1, 8), f32))
    new = b.emit("dynamic_update_slice", cache, row, b.constant(np.int32(3)), b.constant(np.int32(0)))
    graph = b.build({"new": new, "last": b.emit("sort", b.emit("tanh", new), dimension=0)})
    rng = np.random.default_rng(8)
    inputs = {n: rng.normal(size=t.sizes).astype(np.float32) for n, t in graph.input_types.items()}
    with _session().compile(graph, donate=("cache",)) as program, _session().compile(graph) as plain:
        assert program.in_inputs == {"new": "cache"}
        _check(program, plain, inputs)


@pytest.mark.parametrize("seed", range(900, 916))
def test_random_graphs_give_the_same_bits_with_every_input_donated_and_with_some(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = smooth_graph(lambda n: int(rng.integers(n)))
    inputs = smooth_inputs(graph, np.random.default_rng(seed))
    with _session().compile(graph) as plain:
        for donate in (tuple(inputs), tuple(inputs)[::2]):
            with _session().compile(graph, donate=donate) as program:
                _check(program, plain, inputs)


@pytest.mark.parametrize("device", DEVICES)
def test_a_donated_buffer_and_its_views_are_consumed(device: str) -> None:
    with _session(device).compile(_cache_update(), donate=("cache",)) as program:
        feeds = {name: Buffer.from_numpy(a).to(program.device) for name, a in _inputs().items()}
        view = feeds["cache"][0]
        program.run(feeds)
        for used in (lambda: feeds["cache"].address, view.copy, lambda: program.run(feeds)):
            with pytest.raises(BufferDonated, match=r"RLX-D022.*donated"):
                used()
        assert issubclass(BufferDonated, BufferFreed)


@pytest.mark.parametrize("device", DEVICES)
def test_what_cannot_be_overwritten_is_refused_and_not_consumed(device: str) -> None:
    b = GraphBuilder("sum")
    x, y = (b.input(name, TensorType((4, 4), f32)) for name in "xy")
    with _session(device).compile(b.build({"o": b.binary("add", x, y)}), donate=("x",)) as program:
        y = np.ones((4, 4), np.float32)
        fixed = y.copy()
        fixed.flags.writeable = False
        for x in (fixed, y.copy().T[::-1], y.tolist(), y, y[::-1]):
            with pytest.raises((DonationError, TypeError)):
                program.run({"x": x, "y": y})
        x = y.copy()
        with pytest.raises(DonationError, match="out 'o'"):
            program.run({"x": x, "y": y}, {"o": x})
        one, two = (Buffer.from_numpy(a.copy()).to(program.device) for a in (y, y))
        for given, out in (
            ({"x": one, "y": one}, {}),
            ({"x": one.transpose(0, 1), "y": two}, {}),
            ({"x": one, "y": two}, {"o": one}),
        ):
            with pytest.raises(DonationError, match="'x' is donated"):
                program.run(given, out)
        assert not one.is_freed
        np.testing.assert_array_equal(program.run({"x": one, "y": two})["o"].to(Device("cpu")).numpy(), y + y)


def test_a_runner_updates_a_donated_cache_where_it_is_at_each_call() -> None:
    with _session().compile(_cache_update(), donate=("cache",)) as program:
        inputs = _inputs()
        want = inputs["cache"].copy()
        sums = np.full(WIDTH, -77, np.float32)
        run = program.bind(inputs, {"sums": sums})
        for step in (3, 0, ROWS - 1):
            inputs["row"][:] = step
            inputs["at"][...] = step
            run()
            want[step] = np.tanh(np.float32(step))
            np.testing.assert_allclose(inputs["cache"], want, rtol=3e-7)
            np.testing.assert_allclose(sums, want.sum(0, np.float64), rtol=1e-5, atol=1e-5)


def test_a_runner_on_buffers_leaves_donated_ones_to_be_read_between_calls() -> None:
    with _session().compile(_cache_update(), donate=("cache",)) as program:
        inputs = _inputs()
        buffers = {name: Buffer.from_numpy(a.copy()) for name, a in inputs.items()}
        run = program.bind(buffers, {"sums": Buffer.empty(program.outputs["sums"])})
        run()
        want = interpret(_cache_update(), inputs)["new"]
        np.testing.assert_allclose(buffers["cache"].numpy(), want, rtol=3e-7)


@pytest.mark.parametrize("device", DEVICES)
def test_a_runner_refuses_memory_that_it_cannot_update_in_place(device: str) -> None:
    with _session(device).compile(_cache_update(), donate=("cache",)) as program:
        inputs = _inputs()
        outputs = {name: np.empty(t.sizes, np.float32) for name, t in program.outputs.items()}
        left = {name: array for name, array in outputs.items() if name not in program.in_inputs}
        for given in (inputs, {name: Buffer.from_numpy(a).to(program.device) for name, a in inputs.items()}):
            if program.in_inputs:
                with pytest.raises(DonationError, match="'new' lies in the donated input 'cache'"):
                    program.bind(given, outputs)
        inputs["cache"].flags.writeable = False
        with pytest.raises(DonationError, match="'cache' is donated"):
            program.bind(inputs, left)


@pytest.mark.parametrize("device", DEVICES)
def test_a_submitted_run_consumes_what_is_donated(device: str) -> None:
    with (
        _session(device).compile(_cache_update(), donate=("cache",)) as program,
        CommandStream(program.device) as stream,
    ):
        want = interpret(_cache_update(), _inputs())["new"]
        feeds = {name: Buffer.from_numpy(a).to(program.device) for name, a in _inputs().items()}
        address, in_place = feeds["cache"].address, bool(program.in_inputs)
        new = program.submit(feeds, stream)["new"]
        with pytest.raises(BufferDonated):
            feeds["cache"].copy()
        stream.synchronize()
        assert (new.address == address) == in_place
        np.testing.assert_allclose(new.to(Device("cpu")).numpy(), want, rtol=3e-7)


def test_a_run_that_a_stream_refuses_consumes_nothing() -> None:
    with _session().compile(_cache_update(), donate=("cache",)) as program:
        stream = CommandStream(program.device)
        stream.close()
        feeds = {name: Buffer.from_numpy(a) for name, a in _inputs().items()}
        with pytest.raises(DeviceError):
            program.submit(feeds, stream)
        assert not feeds["cache"].is_freed


def test_donate_names_inputs_and_is_part_of_the_key() -> None:
    graph = _cache_update()
    with pytest.raises(UnknownInput, match="did you mean 'cache'"):
        _session().compile(graph, donate=("cach",))
    with tempfile.TemporaryDirectory() as directory:
        session = Session("cpu", Options(cache_dir=Path(directory)))
        keys = [session.cache_key(graph, donate) for donate in ((), ("cache",), ("row",), ("row", "cache"))]
        assert len({tuple(sorted(key.items())) for key in keys}) == 4
        for _ in range(2):
            with session.compile(graph) as plain, session.compile(graph, donate=("cache",)) as program:
                assert (plain.in_inputs, program.in_inputs) == ({}, {"new": "cache"})


def test_open_sizes_keep_the_donation() -> None:
    b = GraphBuilder("open")
    x = b.input("x", TensorType((Dim("n", 1), 3), f32))
    with _session().compile(b.build({"y": b.emit("tanh", x)}), donate=("x",)) as model:
        for n in (2, 5):
            given = np.full((n, 3), 0.5, np.float32)
            assert model.run({"x": given})["y"] is given
            np.testing.assert_allclose(given, np.tanh(np.float32(0.5)), rtol=1e-6)
