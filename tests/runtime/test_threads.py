"""Programs and threads: a call costs no other thread, and thousands of calls from two threads stay right."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from rlx.driver import Buffer, BufferHandle, CommandStream, Device, Event, stream
from rlx.ir import Graph, GraphBuilder, TensorType
from rlx.ir.dtypes import f32, i32
from rlx.options import Options
from rlx.runtime import CompiledGraph, Session

SOON = 60.0
OPTIONS = Options(cache=False)


class Spy:
    """An executable that notes on which thread each run is made."""

    def __init__(self, executable: Any) -> None:
        self._executable = executable
        self.threads: list[int] = []
        for name in ("run_arrays", "run_fitting"):
            if hasattr(executable, name):
                setattr(self, name, self._noted(getattr(executable, name)))
        self.run = self._noted(executable.run)

    def _noted(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: object) -> Any:
            done = run(*arguments)
            if not done:  # run_fitting gives a number where nothing has run
                self.threads.append(threading.get_ident())
            return done

        return noted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executable, name)


def two_layers() -> Graph:
    """Two layers: kernels over an arena, with weights."""
    rng = np.random.default_rng(5)
    b = GraphBuilder("two layers")
    x = b.input("x", TensorType((5, 24), f32))
    for name in ("w", "v"):
        w = b.parameter(name, rng.standard_normal((24, 24)).astype(np.float32))
        x = b.emit("tanh", b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,)))
    return b.build({"y": x})


def step(factor: int, summand: int) -> Graph:
    """y = factor x + summand, wrapped."""
    b = GraphBuilder("step")
    x = b.input("x", TensorType((16,), i32))
    return b.build({"y": b.binary("add", b.binary("mul", x, factor), summand)})


def _together(*bodies: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001  # raised again below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


@pytest.mark.parametrize("kind", ["cpu", "reference", "opaque"])
def test_each_call_is_one_run_on_the_calling_thread_and_nothing_is_enqueued(
    kind: str, opaque: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(kind)
    with Session(device, OPTIONS).compile(two_layers()) as compiled, CommandStream(device) as idle:
        assert isinstance(compiled, CompiledGraph)
        spy = Spy(compiled.executable)
        program = CompiledGraph(spy, device, source="", cache="", seconds=0, binding_seconds=0, defaults={})
        x = np.ones((5, 24), np.float32)
        there, result = Buffer.from_numpy(x, copy=True, device=device), Buffer.empty(TensorType((5, 24), f32), device)
        enqueued: list[object] = []
        put = stream._Queue.put
        monkeypatch.setattr(stream._Queue, "put", lambda self, *new: (enqueued.extend(new), put(self, *new))[1])
        before = set(threading.enumerate())
        calls = (
            lambda: program(x=x),
            lambda: program.run({"x": x}, {"y": np.empty((5, 24), np.float32)}),
            lambda: program.run({"x": there}),
            lambda: program.run({"x": there}, {"y": result}),
            lambda: idle.run_now(program.executable, [there], [result]),
        )
        for number, call in enumerate(calls, 1):
            call()
            assert spy.threads == [threading.get_ident()] * number
        idle.synchronize()
        assert enqueued == []
        assert set(threading.enumerate()) <= before  # other tests' threads may end meanwhile
        program.submit({"x": there}, idle, {"y": result})  # the control: this one is for the stream's thread
        idle.synchronize()
        assert enqueued
        assert spy.threads[-1] != threading.get_ident()


def test_thousands_of_calls_from_two_threads_give_what_one_thread_gives() -> None:
    with Session("cpu", OPTIONS).compile(two_layers()) as program:
        rng = np.random.default_rng(6)
        contents = [rng.standard_normal((5, 24)).astype(np.float32) for _ in range(8)]
        expected = [program(x=content)["y"].tobytes() for content in contents]
        assert len(set(expected)) == 8

        def body(seed: int) -> None:
            order, out = np.random.default_rng(seed).integers(0, 8, 2000), np.empty((5, 24), np.float32)
            for turn, at in enumerate(order):
                given = {"y": out} if turn % 2 else None
                assert program.run({"x": contents[at]}, given)["y"].tobytes() == expected[at]

        _together(lambda: body(1), lambda: body(2))


def test_thousands_of_turns_of_two_programs_on_one_state_with_events_between() -> None:
    turns, device = 1500, Device("cpu")
    session = Session(device, OPTIONS)
    start = np.arange(16, dtype=np.int32)
    with (
        session.compile(step(1664525, 1)) as first,
        session.compile(step(22695477, 7)) as second,
        BufferHandle("state", TensorType((16,), i32), initial=start) as state,
    ):
        past = SimpleQueue[Event](), SimpleQueue[Event]()

        def drive(at: int, program: CompiledGraph) -> None:
            scratch = Buffer.empty(state.type)
            with CommandStream(device) as own:
                for turn in range(turns):
                    if at or turn:
                        own.wait(past[at].get(timeout=SOON))
                    program.submit({"x": state.buffer}, own, {"y": scratch})
                    own.copy(state.buffer, scratch)
                    past[1 - at].put(own.record(Event()))
                own.synchronize()

        _together(lambda: drive(0, first), lambda: drive(1, second))
        expected = start
        for _ in range(turns):
            expected = (expected * np.int32(1664525) + np.int32(1)) * np.int32(22695477) + np.int32(7)
        assert state.read().tobytes() == expected.tobytes()
