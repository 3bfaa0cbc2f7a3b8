"""Programs as a user calls them: in place, without new memory, the same for arrays, buffers and streams."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from rlx.driver import HOST, Buffer, CommandBuffer, CommandStream
from rlx.errors import ShapeMismatch
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32, i32
from rlx.options import Options
from rlx.runtime import CompiledGraph, Session
from rlx.testing.conformance.blocking import Caller, Gate
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect, expect_bits, expect_equal, expect_raises
from rlx.testing.conformance.graphs import MANY, scramble

SUITE = Suite("programs")


def _compiled(subject: Subject) -> CompiledGraph:
    program = Session(subject.device, Options(cache=False)).compile(scramble())
    assert isinstance(program, CompiledGraph)
    return subject.ends.enter_context(program)


def _content(subject: Subject) -> np.ndarray:
    return subject.rng.integers(-(2**31), 2**31, MANY.sizes).astype(np.int32)


def _meaning(x: np.ndarray) -> np.ndarray:
    return x * np.int32(1664525) + np.int32(1013904223)


def _calls(subject: Subject, program: CompiledGraph) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
    """Ways of running the program: name -> what takes x and gives y."""
    given, result, stream = np.empty(MANY.sizes, np.int32), np.empty(MANY.sizes, np.int32), subject.stream()
    x, y = Buffer.empty(MANY, subject.device), Buffer.empty(MANY, subject.device)
    commands = CommandBuffer("call")
    commands.run(commands.graph(scramble()), [commands.slot("x", MANY)], [commands.slot("y", MANY)])
    key = next(iter(commands.programs))

    def fed(content: np.ndarray) -> dict[str, Buffer]:
        x.copy_from(Buffer.from_numpy(content))
        return {"x": x}

    def later(enqueue: Callable[[CommandStream, dict[str, Buffer]], Buffer], content: np.ndarray) -> np.ndarray:
        outcome = enqueue(stream, fed(content))
        stream.synchronize()
        return subject.read(outcome)

    def replayed(stream: CommandStream, inputs: dict[str, Buffer]) -> Buffer:
        commands.replay(stream, {**inputs, "y": y}, programs={key: program.executable})
        return y

    def bound(run: Callable[[], None], content: np.ndarray) -> np.ndarray:
        given[...] = content
        run()
        return result.copy()

    def bound_to_buffers(run: Callable[[], None], content: np.ndarray) -> np.ndarray:
        fed(content)
        run()
        return subject.read(y)

    return {
        "arrays": lambda content: program(x=content)["y"],
        "arrays into arrays": lambda content: program.run({"x": content}, {"y": result})["y"],
        "buffers": lambda content: subject.read(program.run(fed(content))["y"]),
        "buffers into buffers": lambda content: subject.read(program.run(fed(content), {"y": y})["y"]),
        "enqueued": lambda content: later(lambda s, fed: program.submit(fed, s)["y"], content),
        "enqueued into buffers": lambda content: later(lambda s, fed: program.submit(fed, s, {"y": y})["y"], content),
        "replayed": lambda content: later(replayed, content),
        "bound": partial(bound, program.bind({"x": given}, {"y": result})),
        "bound to buffers": partial(bound_to_buffers, program.bind({"x": x}, {"y": y})),
    }


#: Ways in which the caller brings the outputs' buffers.
INTO_BUFFERS = ("buffers into buffers", "enqueued into buffers", "replayed", "bound to buffers")
WAYS = {
    way.replace(" ", "_"): way
    for way in ("arrays", "arrays into arrays", "bound", "buffers", "enqueued", *INTO_BUFFERS)
}


@SUITE.for_each(WAYS)
def a_steady_program_asks_the_device_for_no_memory(subject: Subject, way: str) -> None:
    """By the allocator's own count; where the caller gives the outputs' buffers, not even a block is made there."""
    call = _calls(subject, _compiled(subject))[way]
    contents = [_content(subject) for _ in range(3)]
    for content in contents:
        expect_bits(call(content), _meaning(content), "a result while warming up")
    gc.collect()
    before = subject.memory.statistics
    for turn in range(30):
        content = contents[turn % 3]
        expect_bits(call(content), _meaning(content), f"result {turn}")
    after = subject.memory.statistics
    expect_equal(after.device_allocations - before.device_allocations, 0, "what the device was asked for in 30 runs")
    if way in INTO_BUFFERS:
        expect_equal(after.allocations - before.allocations, 0, "blocks made on the device in 30 runs")


@SUITE.case
def a_call_starts_no_thread_and_waits_for_no_other_stream(subject: Subject) -> None:
    program, stream, content = _compiled(subject), subject.stream("held"), _content(subject)
    with Gate(stream) as gate:
        gate.await_reached()
        program(x=content)
        before = set(threading.enumerate())
        for _ in range(5):
            expect_bits(Caller(lambda: program(x=content), "a call").must_return()["y"], _meaning(content), "a result")
        new = {thread.name for thread in set(threading.enumerate()) - before}
        expect_equal(new, set(), "threads that five calls started")


@SUITE.for_each({way: way for way in ("arrays", "bound", "buffers", "enqueued")})
def two_threads_run_one_program_many_times(subject: Subject, way: str) -> None:
    program = _compiled(subject)

    def body(seed: int) -> int:
        call, rng = _calls(subject, program)[way], np.random.default_rng(seed)
        for turn in range(200):
            content = rng.integers(-(2**31), 2**31, MANY.sizes).astype(np.int32)
            expect_bits(call(content), _meaning(content), f"result {turn} of thread {seed}")
        return seed

    callers = [Caller(lambda seed=seed: body(seed), "a thread that runs the program") for seed in (1, 2)]
    expect_equal([caller.must_return() for caller in callers], [1, 2], "threads that ended")


@SUITE.case
def threads_run_one_long_program_in_turns(subject: Subject) -> None:
    """Long enough that one is still running when the other comes."""
    type = TensorType((200_000,), i32)
    program = Session(subject.device, Options(cache=False)).compile(scramble(type))
    assert isinstance(program, CompiledGraph)

    def body(seed: int) -> int:
        rng = np.random.default_rng(seed)
        for turn in range(15):
            content = rng.integers(-(2**31), 2**31, type.sizes).astype(np.int32)
            expect_bits(program(x=content)["y"], _meaning(content), f"result {turn} of thread {seed}")
        return seed

    with program:
        callers = [Caller(lambda seed=seed: body(seed), "a thread that runs the program") for seed in range(4)]
        expect_equal([caller.must_return() for caller in callers], [0, 1, 2, 3], "threads that ended")


@SUITE.for_each({"inputs": (3, 0), "outputs": (0, 5), "both": (1, 7)})
def parts_of_buffers_at_any_element_serve_as(subject: Subject, offsets: tuple[int, int]) -> None:
    program, content = _compiled(subject), _content(subject)
    around = subject.rng.integers(-(2**31), 2**31, 1010).astype(np.int32)
    whole = around.copy()
    whole[offsets[0] : offsets[0] + 1000] = content
    x, y = subject.buffer(whole), subject.buffer(around)
    program.run({"x": x[offsets[0] : offsets[0] + 1000]}, {"y": y[offsets[1] : offsets[1] + 1000]})
    expected = around.copy()
    expected[offsets[1] : offsets[1] + 1000] = _meaning(content)
    expect_bits(subject.read(y), expected, f"elements from {offsets[1]} on, and those around them")
    expect_bits(subject.read(x), whole, "the input's buffer")


@SUITE.case
def results_are_the_same_bits_at_every_run(subject: Subject) -> None:
    b = GraphBuilder("sums")
    x, w = b.input("x", TensorType((9, 301), f32)), b.input("w", TensorType((301, 7), f32))
    product = b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,))
    graph = b.build(
        {"product": product, "sum": b.emit("reduce_sum", x, dimensions=(1,)), "tanh": b.emit("tanh", product)}
    )
    program = Session(subject.device, Options(cache=False)).compile(graph)
    assert isinstance(program, CompiledGraph)
    with program:
        inputs = {n: subject.rng.standard_normal(t.sizes).astype(np.float32) for n, t in program.inputs.items()}
        first = program.run(inputs)
        for _ in range(10):
            for name, array in program.run(inputs).items():
                expect_bits(array, first[name], f"{name} at a later run")


@SUITE.case
def a_result_may_take_its_inputs_place(subject: Subject) -> None:
    """A product, which reads its input long after it has begun to write."""
    type = TensorType((33, 33), i32)
    b = GraphBuilder("square")
    x = b.input("x", type)
    graph = b.build({"y": b.emit("dot_general", x, x, lhs_contract=(1,), rhs_contract=(0,))})
    program = Session(subject.device, Options(cache=False)).compile(graph)
    assert isinstance(program, CompiledGraph)
    content = subject.content(type)
    with program:
        state, array = subject.buffer(content), content.copy()
        program.run({"x": state}, {"y": state})
        program.run({"x": array}, {"y": array})
        expect_bits(subject.read(state), content @ content, "a buffer that was input and output")
        expect_bits(array, content @ content, "an array that was input and output")
        refused = partial(program.submit, {"x": state}, subject.stream(), {"y": state})
        expect_raises(ShapeMismatch, refused, "'x' overlaps an output")


@SUITE.case
def inputs_are_only_read_and_results_are_fresh(subject: Subject) -> None:
    program, content = _compiled(subject), _content(subject)
    given = content.copy()
    first = program(x=given)["y"]
    second = program(x=first)["y"]
    expect_bits(given, content, "an input after the call")
    expect_bits(first, _meaning(content), "a result after a later call")
    expect_bits(second, _meaning(_meaning(content)), "the result of a result")
    x = subject.buffer(content)
    one, two = program.run({"x": x})["y"], program.run({"x": x})["y"]
    expect(one.address != two.address, "two results held at once share their bytes")
    expect_equal((one.device, one.type.dtype), (subject.device, i32), "where a buffer's result is, and its dtype")
    expect_bits(subject.read(x), content, "an input buffer after two runs")
    expect_bits(one.to(HOST).numpy(), _meaning(content), "the first of two results held at once")
