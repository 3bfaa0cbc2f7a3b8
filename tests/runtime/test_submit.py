"""Programs on streams: enqueued, not waited for, in order with what else the stream does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from rlx.driver import Buffer, CommandStream, Device, Semaphore
from rlx.errors import BufferReadOnly, DeviceError, MissingInput, ShapeMismatch, UnknownInput
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.options import Options
from rlx.runtime import CompiledGraph, Session

SOON = 20.0
VECTOR = TensorType((64,), f32)


@pytest.fixture(params=["cpu", "reference"])
def program(request: pytest.FixtureRequest) -> Iterator[CompiledGraph]:
    b = GraphBuilder("square")
    x = b.input("x", VECTOR)
    compiled = Session(request.param, Options(cache=False)).compile(b.build({"y": b.binary("mul", x, x)}))
    assert isinstance(compiled, CompiledGraph)
    with compiled:
        yield compiled


def test_a_submitted_run_waits_its_turn_and_its_outputs_feed_the_next(program: CompiledGraph) -> None:
    x = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    gate = threading.Event()
    with CommandStream(program.device) as stream:
        feed = Buffer.from_numpy(x, copy=True, device=program.device)
        stream.run(lambda i, o: gate.wait(SOON), name="gate")
        first = program.submit({"x": feed}, stream)
        first["y"].fill(7)  # at once, while the stream is held: the run comes later
        second = program.submit({"x": first["y"]}, stream)
        feed.free()
        gate.set()
        stream.synchronize()
    assert first["y"].numpy().tobytes() == (x * x).tobytes()
    assert second["y"].numpy().tobytes() == (x * x * (x * x)).tobytes()


def test_two_streams_run_one_program_beside_each_other_with_a_semaphore_between(program: CompiledGraph) -> None:
    rng = np.random.default_rng(2)
    done = Semaphore()
    with CommandStream(program.device) as first, CommandStream(program.device) as second:
        for step in range(1, 20):
            x = rng.standard_normal(64).astype(np.float32)
            squares = program.submit({"x": Buffer.from_numpy(x).to(program.device)}, first)
            first.signal(done, step)
            second.wait(done, step)
            result = program.submit({"x": squares["y"]}, second)
            second.synchronize()
            assert result["y"].numpy().tobytes() == (x * x * (x * x)).tobytes()


def test_a_failure_before_a_submitted_run_keeps_its_name(program: CompiledGraph) -> None:
    with CommandStream(program.device) as stream:
        stream.run(lambda i, o: 1 / 0, name="the culprit")
        program.submit({"x": Buffer.empty(VECTOR, program.device)}, stream)
        with pytest.raises(DeviceError, match="the culprit failed"):
            stream.synchronize()


def test_what_does_not_fit_is_refused_before_anything_is_enqueued(program: CompiledGraph) -> None:
    with CommandStream(program.device) as stream, CommandStream(Device("opaque")) as elsewhere:
        with pytest.raises(MissingInput):
            program.submit({}, stream)
        with pytest.raises(ShapeMismatch, match="belongs to opaque:0, the program runs on"):
            program.submit({"x": Buffer.empty(VECTOR, program.device)}, elsewhere)
        assert stream.idle


def test_buffers_for_outputs_that_the_program_cannot_write_are_refused(program: CompiledGraph) -> None:
    x, y = (Buffer.empty(VECTOR, program.device) for _ in range(2))
    array = np.zeros(64, np.float32)
    array.flags.writeable = False
    fixed = Buffer.from_numpy(array, device=program.device)
    with CommandStream(program.device) as stream:
        for out, error, words in (
            ({"z": y}, UnknownInput, "no output 'z'"),
            ({"y": fixed}, BufferReadOnly, "read-only"),
            ({"y": x}, ShapeMismatch, "input 'x' overlaps an output"),
        ):
            with pytest.raises(error, match=words):
                program.submit({"x": x}, stream, out)
        stream.synchronize()
