"""Command buffers: what is recorded is what is replayed, and its launches are those of the direct calls."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from rlx.driver import Buffer, CommandBuffer, Device, load_commands, save_commands
from rlx.errors import CommandError, CommandFileError, DeviceError
from rlx.ir import GraphBuilder, fingerprint
from rlx.ir.text import parse_text
from rlx.options import Options
from rlx.runtime import Session
from rlx.testing.conformance.blocking import Caller
from rlx.testing.conformance.case import Programs, Subject, Suite
from rlx.testing.conformance.expect import expect, expect_bits, expect_equal, expect_raises
from rlx.testing.conformance.graphs import FOUR, VECTOR, add, affine
from rlx.testing.conformance.script import MODES, Script, trace

SUITE = Suite("command_buffers")


def _recording(lane_content: np.ndarray) -> CommandBuffer:
    """z = 2 x + 1 + c, then x = z."""
    commands = CommandBuffer("recording")
    x, y, z = (commands.slot(n, VECTOR) for n in "xyz")
    c = commands.constant("c", lane_content)
    commands.run(commands.graph(affine()), [x], [y])
    commands.run(commands.graph(add()), [y, c], [z])
    commands.copy(x, z)
    return commands


def _bindings(subject: Subject, x: np.ndarray, device: Device | None = None) -> dict[str, Buffer]:
    device = device or subject.device
    return {n: Buffer.from_numpy(a, copy=True, device=device) for n, a in (("x", x), ("y", x * 0), ("z", x * 0))}


def _programs(programs: Programs, commands: CommandBuffer):  # noqa: ANN202
    return {key: programs.get(parse_text(p.graph, {}, origin=key)) for key, p in commands.programs.items()}


@SUITE.in_modes(MODES[1:])
def launches_are_those_of_the_direct_calls(subject: Subject) -> None:
    script = Script()
    a, b, c = (script.slot(n, subject.content(VECTOR)) for n in "abc")
    key = script.program(affine(), lambda x: (2 * x + 1,))
    script.run(key, [a], [b])
    script.fill(c, 2)
    script.copy(a, c)
    script.run(key, [a], [c])
    direct = Subject(subject.programs, "direct")
    with direct.ends:
        _, expected = trace(direct, script)
    _, got = trace(subject, script)
    expect_equal([e.kind for e in got[0].entries], ["run", "fill", "copy", "run"], "what was launched")
    expect(got == expected, f"the launches differ:\n{expected[0].diff(got[0])}")


@SUITE.case
def a_recording_is_replayed_many_times_and_each_replay_counts(subject: Subject) -> None:
    x, c = subject.content(VECTOR), subject.content(VECTOR)
    commands, stream, bindings = _recording(c), subject.stream(), _bindings(subject, x)
    programs = _programs(subject.programs, commands)
    for _ in range(5):
        commands.replay(stream, bindings, programs=programs)
        x = 2 * x + 1 + c
    stream.synchronize()
    expect_bits(subject.read(bindings["x"]), x, "x after five replays")


@SUITE.case
def a_file_replays_here_and_on_the_reference_device_with_equal_results(subject: Subject) -> None:
    x, c = subject.content(VECTOR), subject.content(VECTOR)
    with tempfile.TemporaryDirectory() as folder:
        save_commands(Path(folder, "r"), _recording(c))
        commands = load_commands(Path(folder, "r"))
    expect_equal(commands.diff(_recording(c)), "", "what differs after the file")
    reference = Programs(Device("reference"))
    results = []
    for programs in (subject.programs, reference):
        other = Subject(programs, "replay")
        with other.ends:
            stream, bindings = other.stream(), _bindings(other, x)
            commands.replay(stream, bindings, programs=_programs(programs, commands))
            stream.synchronize()
            results.append(other.read(bindings["z"]))
    reference.close()
    expect_bits(results[0], results[1], "z here and on the reference device")
    expect_bits(results[0], 2 * x + 1 + c, "z")


@SUITE.case
def a_file_brings_programs_and_weights_and_is_ready_in_one_call(subject: Subject) -> None:
    weight, content = subject.content(VECTOR), subject.content(VECTOR)
    b = GraphBuilder("weighted")
    graph = b.build({"y": b.binary("mul", b.input("x", VECTOR), b.parameter("a weight", weight))})
    commands = CommandBuffer("weighted")
    commands.run(commands.graph(graph), [commands.slot("x", VECTOR)], [commands.slot("y", VECTOR)])
    with tempfile.TemporaryDirectory() as folder:
        save_commands(Path(folder, "r"), commands)
        ready = Session(subject.device, Options(cache=False)).prepare(Path(folder, "r"))
    stream, x, y = subject.stream(), subject.buffer(content), Buffer.empty(VECTOR, subject.device)
    with ready:
        ready.replay(stream, {"x": x, "y": y})
        stream.synchronize()
    expect_bits(subject.read(y), content * weight, "what a recording from a file computed with its weights")


@SUITE.case
def a_recording_moves_bytes_between_devices(subject: Subject) -> None:
    content, stream = subject.content(VECTOR), subject.stream()
    commands = CommandBuffer("round trip")
    source, there, back = (commands.slot(n, VECTOR) for n in ("source", "there", "back"))
    commands.copy(there, source)
    commands.copy(back, there)
    for device in Device.all():
        bound = {
            "source": Buffer.from_numpy(content, copy=True, device=device),
            "there": Buffer.empty(VECTOR, subject.device),
        }
        bound["back"] = Buffer.empty(VECTOR, device)
        commands.replay(stream, bound)
        stream.synchronize()
        expect_bits(subject.read(bound["back"]), content, f"what went from {device} and back to it")


@SUITE.case
def constants_are_what_they_were_when_they_were_recorded(subject: Subject) -> None:
    content = subject.content(FOUR)
    given, commands, stream = content.copy(), CommandBuffer("constant"), subject.stream()
    c, x = commands.constant("c", given), commands.slot("x", FOUR)
    commands.copy(x, c)
    given[:] = -1
    buffer = subject.buffer(content * 0)
    for _ in range(2):
        commands.replay(stream, {"x": buffer})
        stream.fill(buffer[:1], 7)
    stream.synchronize()
    expect_bits(subject.read(buffer)[1:], content[1:], "what was copied from a constant")
    for write in (lambda: commands.fill(c, 1), lambda: commands.copy(c, x)):
        expect_raises(CommandError, write, "'c'")


@SUITE.case
def replays_of_two_threads_do_not_mix(subject: Subject) -> None:
    commands, stream = CommandBuffer("pair"), subject.stream()
    a = commands.slot("a", FOUR)
    for value in range(6):
        commands.fill(a, value)
    buffers = [subject.buffer(np.zeros(4, np.float32)) for _ in range(2)]
    with stream.trace() as launches:
        callers = [
            Caller(lambda b=b: [commands.replay(stream, {"a": b}) for _ in range(20)] and None, "a thread that replays")
            for b in buffers
        ]
        for caller in callers:
            caller.must_return()
        stream.synchronize()
    fills = [(e.writes[0].allocation, float(e.what)) for e in launches.entries if e.kind == "fill"]
    expect_equal(len(fills), 240, "fills of forty replays")
    for at in range(0, 240, 6):
        replay = fills[at : at + 6]
        expect_equal([value for _, value in replay], [0, 1, 2, 3, 4, 5], "the values of one replay")
        expect_equal(len({buffer for buffer, _ in replay}), 1, "buffers of one replay")


@SUITE.case
def a_damaged_file_is_refused(subject: Subject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r")
        save_commands(path, _recording(subject.content(VECTOR)))
        whole = path.read_bytes()
        for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            expect_raises(CommandFileError, lambda: load_commands(path))


@SUITE.case
def wrong_bindings_are_refused_before_anything_is_enqueued(subject: Subject) -> None:
    x = subject.content(VECTOR)
    commands, stream = _recording(x), subject.stream()
    programs = _programs(subject.programs, commands)
    whole = Buffer.empty(VECTOR, subject.device)
    elsewhere = next(d for d in Device.all() if d != subject.device)
    for wrong, words in (
        ({"x": Buffer.empty(FOUR, subject.device)}, "f32[4]"),
        ({"w": whole}, "'w' is unknown"),
        ({"x": whole, "y": whole}, "overlapping"),
        ({"x": Buffer.empty(VECTOR, elsewhere)}, str(elsewhere)),
    ):
        bindings = {**_bindings(subject, x), **wrong}
        with stream.trace() as launches:
            expect_raises(CommandError, lambda: commands.replay(stream, bindings, programs=programs), words)  # noqa: B023
            stream.synchronize()
        expect_equal([e.kind for e in launches.entries], ["record"], "what was launched")


@SUITE.case
def a_failing_command_is_named_with_its_number(subject: Subject) -> None:
    x = subject.content(VECTOR)
    commands, stream, bindings = _recording(x), subject.stream(), _bindings(subject, x)
    programs = _programs(subject.programs, commands)
    closed = subject.programs.load(add())
    closed.close()
    commands.replay(stream, bindings, programs={**programs, fingerprint(add()): closed})
    error = expect_raises(DeviceError, stream.synchronize, "recording[1] run @")
    expect_equal(error.where, "command 1 of the recording 'recording'", "where it came from")
    expect_bits(subject.read(bindings["x"]), x, "x, which the command behind the failure was to write")


@SUITE.case
def printing_tells_slots_programs_and_commands(subject: Subject) -> None:
    text = str(_recording(subject.content(VECTOR)))
    for word in ("slot %x: f32[64]", "constant %c: f32[64]", "0 run @", "2 copy %z: f32[64] -> %x: f32[64]"):
        expect(word in text, f"the text lacks {word!r}:\n{text}")
