"""Bound programs: a call without arguments, on memory that stays."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from rlx.driver import Buffer, Device
from rlx.errors import DTypeMismatch, MissingInput, ProgramClosed, ShapeMismatch, UnknownInput
from rlx.ir import Graph, GraphBuilder, TensorType, dtypes
from rlx.options import Options
from rlx.runtime import Session

RNG = np.random.default_rng(0)
W, V = RNG.normal(size=(5, 300)).astype("f4"), RNG.normal(size=(300, 4)).astype("f4")


def layers(rows: int = 3) -> Graph:
    """relu(x @ W) @ V with x [rows, 5]: what lies between the products is in the arena."""
    b = GraphBuilder("layers")
    x = b.input("x", TensorType((rows, 5), dtypes.f32))
    for name, weight in (("w", W), ("v", V)):
        x = x if name == "w" else b.emit("relu", x)
        x = b.emit("dot_general", x, b.parameter(name, weight), lhs_contract=(1,), rhs_contract=(0,))
    return b.build({"y": x})


def expected(x: np.ndarray) -> np.ndarray:
    return np.maximum(x.astype("f8") @ W, 0) @ V


def fresh(rows: int = 3) -> tuple[np.ndarray, np.ndarray]:
    return RNG.normal(size=(rows, 5)).astype("f4"), np.full((rows, 4), 77, np.float32)


@pytest.fixture(params=["cpu", "reference"])
def program(request: pytest.FixtureRequest):
    with Session(request.param, Options(cache=False, threads=2)).compile(layers()) as program:
        yield program


@pytest.fixture
def on_cpu():
    with Session("cpu", Options(cache=False, threads=2)).compile(layers()) as program:
        yield program


def test_each_call_reads_what_the_inputs_hold_then_and_writes_where_it_was_told(program) -> None:
    x, y = fresh()
    run = program.bind({"x": x}, {"y": y})
    assert run.threads >= 1
    for _ in range(3):
        x[:] = RNG.normal(size=x.shape)
        assert run() is None
        np.testing.assert_allclose(y, expected(x), rtol=1e-4, atol=1e-4)


def test_several_runners_and_the_program_itself_do_not_disturb_each_other(program) -> None:
    pairs = [fresh() for _ in range(3)]
    runners = [program.bind({"x": x}, {"y": y}) for x, y in pairs]
    runners[1]()
    assert np.all(pairs[0][1] == 77)
    other = fresh()[0]
    got = program(x=other)["y"]
    for run in runners:
        run()
    np.testing.assert_allclose(got, expected(other), rtol=1e-4, atol=1e-4)
    for x, y in pairs:
        np.testing.assert_allclose(y, expected(x), rtol=1e-4, atol=1e-4)


def test_runners_run_on_several_threads_at_once() -> None:
    rows = 4000  # long enough that runs overlap
    program = Session("cpu", Options(cache=False, threads=1)).compile(layers(rows))
    pairs = [fresh(rows) for _ in range(3)]
    runners = [program.bind({"x": x}, {"y": y}) for x, y in pairs]
    wrong: list[float] = []

    def work(number: int) -> None:
        (x, y), run = pairs[number], runners[number]
        want = expected(x)
        for _ in range(20):
            run()
            wrong.append(float(np.abs(y - want).max()))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(wrong) < 1e-3


def test_a_runner_keeps_its_arrays_and_its_program(on_cpu) -> None:
    y = np.full((3, 4), 77, np.float32)
    run = Session("cpu", Options(cache=False)).compile(layers()).bind({"x": np.ones((3, 5), np.float32)}, {"y": y})
    run()
    np.testing.assert_allclose(y, expected(np.ones((3, 5))), rtol=1e-4)


def test_a_closed_runner_and_one_whose_program_is_closed_refuse(program) -> None:
    x, y = fresh()
    first, second = (program.bind({"x": x}, {"y": y}) for _ in range(2))
    first.close()
    first.close()
    with pytest.raises(ProgramClosed):
        first()
    second()
    program.close()
    y[:] = 77
    with pytest.raises(ProgramClosed):
        second()
    assert np.all(y == 77)
    with pytest.raises(ProgramClosed):
        program.bind({"x": x}, {"y": y})


def test_buffers_are_bound_too_and_a_freed_one_is_noticed(program) -> None:
    x, y = fresh()
    feed, sink = (Buffer.from_numpy(a).to(program.device) for a in (x, y))
    run = program.bind({"x": feed}, {"y": sink})
    run()
    np.testing.assert_allclose(sink.to(Device("cpu")).numpy(), expected(x), rtol=1e-4, atol=1e-4)
    feed.free()
    with pytest.raises(ProgramClosed, match="freed"):
        run()


def test_what_cannot_be_bound_is_refused_before_anything_runs(on_cpu) -> None:
    x, y = fresh()
    wide = np.zeros((3, 10), np.float32)
    both = np.zeros(40, np.float32)
    with pytest.raises(MissingInput, match="'x'"):
        on_cpu.bind({}, {"y": y})
    with pytest.raises(MissingInput, match="'y'"):
        on_cpu.bind({"x": x}, {})
    with pytest.raises(UnknownInput):
        on_cpu.bind({"x": x, "z": x}, {"y": y})
    with pytest.raises(ShapeMismatch, match="contiguous"):
        on_cpu.bind({"x": wide[:, ::2]}, {"y": y})
    with pytest.raises(DTypeMismatch):
        on_cpu.bind({"x": x.astype("f8")}, {"y": y})
    with pytest.raises(ShapeMismatch, match="overlaps"):
        on_cpu.bind({"x": both[:15].reshape(3, 5)}, {"y": both[10:22].reshape(3, 4)})
    assert np.all(y == 77)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_runner_works_in_a_forked_child(on_cpu) -> None:
    x, y = fresh()
    run = on_cpu.bind({"x": x}, {"y": y})
    run()
    child = os.fork()
    if child == 0:
        y[:] = 77
        run()
        os._exit(0 if np.allclose(y, expected(x), atol=1e-4) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_red_zones_are_watched_in_debug_mode() -> None:
    x, y = fresh()
    program = Session("cpu", Options(cache=False, debug_memory=True)).compile(layers())
    program.bind({"x": x}, {"y": y})()
    np.testing.assert_allclose(y, expected(x), rtol=1e-4, atol=1e-4)


def _chain(length: int) -> Graph:
    """y = tanh(...tanh(x) * x...), `length` times, of [300, 300]: brief or not, by its length."""
    b = GraphBuilder("chain")
    y = x = b.input("x", TensorType((300, 300) if length > 1 else (3, 5), dtypes.f32))
    for _ in range(length):
        y = b.binary("mul", b.emit("tanh", y), x)
    return b.build({"y": y})


@pytest.mark.parametrize(("length", "brief"), [(1, True), (40, False)])
def test_calls_of_one_runner_from_many_threads_take_turns_until_one_closes_it(length: int, brief: bool) -> None:
    program = Session("cpu", Options(cache=False, threads=1)).compile(_chain(length))
    assert program.executable._steps.brief == brief
    x = RNG.normal(size=program.inputs["x"].sizes).astype(np.float32)
    y = np.full(x.shape, 77, np.float32)
    run = program.bind({"x": x}, {"y": y})
    refused: list[ProgramClosed] = []

    def call() -> None:
        try:
            while True:
                run()
        except ProgramClosed as error:
            refused.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    run.close()
    for thread in threads:
        thread.join(10)
    assert len(refused) == 3
    want = x.astype(np.float64)
    for _ in range(length):
        want = np.tanh(want) * x
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_a_run_that_comes_after_the_runner_was_closed_touches_no_memory() -> None:
    program = Session("cpu", Options(cache=False)).compile(_chain(1))
    x, y = np.ones((3, 5), np.float32), np.full((3, 5), 77, np.float32)
    run = program.bind({"x": x}, {"y": y})
    run()
    late = run._walk
    run.close()
    y[:] = 77
    assert late() == 0
    assert np.all(y == 77)
