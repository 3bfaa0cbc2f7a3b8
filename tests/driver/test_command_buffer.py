"""Recordings: what is recorded is what is replayed, with other bindings, on other devices, from files."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx.driver import (
    Buffer,
    CommandBuffer,
    CommandStream,
    Device,
    Executable,
    Semaphore,
    load_commands,
    open_safetensors,
    save_commands,
    write_safetensors,
)
from rlx.errors import (
    BufferFreed,
    CommandError,
    CommandFileError,
    DeviceError,
    TensorFileNotFound,
)
from rlx.ir import Graph, GraphBuilder, fingerprint, print_graph
from rlx.ir.dtypes import f32, i32
from rlx.ir.text import parse_text
from rlx.ir.types import TensorType
from rlx.options import Options

SOON = 20.0
FOUR, EIGHT = TensorType((4,), f32), TensorType((8,), f32)


def affine() -> Graph:
    """y = 2 x + 1."""
    b = GraphBuilder("affine")
    x = b.input("x", FOUR)
    return b.build({"y": b.binary("add", b.binary("mul", x, 2.0), 1.0)})


def load(graph: Graph, device: Device) -> Executable:
    import importlib

    options = Options(cache=False)
    artifact = importlib.import_module(device.backend.compiler).compile_graph(graph, device, options)
    return device.backend.load(artifact, device, options)


@pytest.fixture
def commands() -> CommandBuffer:
    """x, then y = 2 x + 1, its last two numbers and a constant in z; time goes on by 2."""
    commands = CommandBuffer("step")
    x, y, z = commands.slot("x", FOUR), commands.slot("y", FOUR), commands.slot("z", EIGHT)
    c = commands.constant("c", np.array([7, 8], np.float32))
    graph = affine()
    key = fingerprint(graph)
    commands.program(key, [FOUR], [FOUR], graph=print_graph(graph))
    s = commands.semaphore("s")
    pair = TensorType((2,), f32)
    commands.wait(s, 1)
    commands.run(key, [x], [y])
    commands.fill(z, -0.5)
    commands.copy(z.part(0, pair), y.part(8, pair))
    commands.copy(z.part(24, pair), c)
    commands.signal(s, 2)
    return commands


def replay(commands: CommandBuffer, device: Device, content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    executable = load(affine(), device)
    x, y, z = (Buffer.empty(t, device) for t in (FOUR, FOUR, EIGHT))
    x.copy_from(Buffer.from_numpy(content))
    time = Semaphore(40)
    time.signal(41)
    with CommandStream(device) as stream:
        commands.replay(
            stream,
            {"x": x, "y": y, "z": z},
            programs=dict.fromkeys(commands.programs, executable),
            semaphores={"s": (time, 40)},
        )
        time.wait(42, SOON)
    executable.close()
    return y.numpy(), z.numpy()


def test_a_recording_is_replayed_with_other_bindings_on_every_device(commands: CommandBuffer) -> None:
    rng = np.random.default_rng(5)
    for device in ("cpu", "reference", "cpu"):
        content = rng.standard_normal(4).astype(np.float32)
        y, z = replay(commands, Device(device), content)
        assert np.allclose(y, 2 * content + 1)
        assert z.tolist() == [y[2], y[3], -0.5, -0.5, -0.5, -0.5, 7, 8]


def test_a_recording_comes_back_from_its_file_and_replays(commands: CommandBuffer, tmp_path: Path) -> None:
    save_commands(tmp_path / "a", commands)
    loaded = load_commands(tmp_path / "a")
    save_commands(tmp_path / "b", loaded)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert loaded == commands
    assert str(loaded) == str(commands)
    content = np.arange(4, dtype=np.float32)
    assert replay(loaded, Device("cpu"), content)[1].tobytes() == replay(commands, Device("cpu"), content)[1].tobytes()


def test_the_text_tells_every_slot_and_command(commands: CommandBuffer) -> None:
    key = next(iter(commands.programs))
    assert (
        str(commands)
        == f"""\
commands step
  slot %x: f32[4]
  slot %y: f32[4]
  slot %z: f32[8]
  constant %c: f32[2]
  program @{key}: (f32[4]) -> (f32[4])
  semaphore $s
    0 wait $s + 1
    1 run @{key[:12]} (%x: f32[4]) -> (%y: f32[4])
    2 fill %z: f32[8] = -0.5
    3 copy %y[8: f32[2]] -> %z: f32[2]
    4 copy %c: f32[2] -> %z[24: f32[2]]
    5 signal $s + 2"""
    )


def test_a_diff_shows_what_differs(commands: CommandBuffer, tmp_path: Path) -> None:
    save_commands(tmp_path / "a", commands)
    other = load_commands(tmp_path / "a")
    assert commands.diff(other) == ""
    other.signal("s", 3)
    assert "+    6 signal $s + 3" in commands.diff(other)
    other.commands.pop()
    other.constants["c"] = np.zeros(2, np.float32)
    assert commands.diff(other) == "! constant %c has another content"
    assert commands != other


def test_direct_and_replayed_launches_have_one_trace(commands: CommandBuffer) -> None:
    device = Device("cpu")
    executable, key = load(affine(), device), next(iter(commands.programs))
    with CommandStream(device) as stream:
        traces = []
        for direct in (True, False, False):
            x, y, z = (Buffer.empty(t) for t in (FOUR, FOUR, EIGHT))
            c, time = Buffer.from_numpy(np.array([7, 8], np.float32)), Semaphore(1)
            x.fill(1)
            with stream.trace() as trace:
                if direct:
                    stream.wait(time, 1)
                    stream.run(executable, [x], [y], name=key)
                    stream.fill(z, -0.5)
                    stream.copy(z[:2], y[2:])
                    stream.copy(z[6:], c)
                    stream.signal(time, 2)
                else:
                    commands.replay(
                        stream, {"x": x, "y": y, "z": z}, programs={key: executable}, semaphores={"s": time}
                    )
                time.wait(2, SOON)
                stream.synchronize()
            trace.entries = [e for e in trace.entries if e.kind != "record"]
            traces.append(trace)
    assert len(traces[0].entries) == 6
    assert traces[0].diff(traces[1]) == traces[1].diff(traces[2]) == ""
    assert traces[0] == traces[1] == traces[2]
    traces[1].entries.pop()
    assert traces[0] != traces[1]
    assert "-signal 2" in traces[0].diff(traces[1])


@pytest.mark.parametrize("place", ["cpu", "reference", "opaque"])
def test_a_recording_kept_from_an_earlier_version_replays(place: str, opaque: Device) -> None:
    commands = load_commands(Path(__file__).parent / "data" / "commands.safetensors")
    device, done = Device(place), Semaphore()
    programs = {key: load(parse_text(p.graph, {}, origin=key), device) for key, p in commands.programs.items()}
    bound = {n: Buffer.empty(t, device) for n, t in commands.slots.items() if n not in commands.constants}
    with CommandStream(device) as stream:
        commands.replay(stream, bound, programs=programs, semaphores={"done": done})
        done.wait(1, SOON)
    np.testing.assert_allclose(bound["out"].to(Device("cpu")).numpy(), commands.constants["expected"], rtol=1e-5)


# -- what recording refuses -------------------------------------------------------------------------------------------


def _recording() -> tuple[CommandBuffer, Any, Any]:
    commands = CommandBuffer("r")
    a, b = commands.slot("a", FOUR), commands.slot("b", FOUR)
    commands.program("p", [FOUR], [FOUR])
    commands.semaphore("s")
    commands.constant("c", np.zeros(4, np.float32))
    return commands, a, b


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (lambda c, a, b: c.slot("a", EIGHT), "slot 'a' already"),
        (lambda c, a, b: c.slot("no spaces", EIGHT), "cannot name a slot"),
        (lambda c, a, b: c.program("p", [], []), "program 'p' already"),
        (lambda c, a, b: c.semaphore("s"), "semaphore 's' already"),
        (lambda c, a, b: c.copy(a, b.part(0, TensorType((2,), f32))), "cannot be overwritten by"),
        (lambda c, a, b: c.copy(a, b.part(0, TensorType((4,), i32))), "cannot be overwritten by"),
        (lambda c, a, b: a.part(4, FOUR), "does not fit"),
        (lambda c, a, b: c.fill(a.part(2, TensorType((2,), f32)), 1), "multiple of its element's size"),
        (lambda c, a, b: c.fill(a, "x"), "cannot hold 'x'"),
        (lambda c, a, b: c.fill(a, np.zeros(4)), "one number"),
        (lambda c, a, b: c.fill(a, None), "cannot hold None"),
        (lambda c, a, b: c.fill(a, 1e39), "would become inf"),
        (lambda c, a, b: c.fill(CommandBuffer().slot("z", FOUR), 1), "no slot 'z'"),
        (lambda c, a, b: c.fill(CommandBuffer().slot("a", EIGHT), 1), "reaches out of"),
        (lambda c, a, b: c.fill(CommandBuffer().slot("c", FOUR), 1), "constant 'c' cannot be written"),
        (lambda c, a, b: c.run("q", [a], [b]), "no program 'q'"),
        (lambda c, a, b: c.run("p", [a, a], [b]), "does not fit @p"),
        (lambda c, a, b: c.run("p", [a], [a]), "overlaps"),
        (lambda c, a, b: c.signal("t", 1), "no semaphore 't'"),
        (lambda c, a, b: c.wait("s", -1), "no payload"),
        (lambda c, a, b: c.wait("s", 2**64), "no payload"),
    ],
)
def test_recording_refuses_and_stays_as_it_was(record: Callable[..., object], words: str) -> None:
    commands, a, b = _recording()
    before = str(commands)
    with pytest.raises(CommandError, match=words):
        record(commands, a, b)
    assert str(commands) == before


# -- what a replay refuses --------------------------------------------------------------------------------------------


def _bindings() -> dict[str, Any]:
    return {
        "bindings": {"a": Buffer.empty(FOUR), "b": Buffer.empty(FOUR)},
        "programs": {"p": load(affine(), Device("reference"))},
        "semaphores": {"s": Semaphore()},
    }


def _readonly(given: dict[str, Any]) -> None:
    array = np.zeros(4, np.float32)
    array.flags.writeable = False
    given["bindings"]["b"] = Buffer.from_numpy(array)


def _overlap(given: dict[str, Any]) -> None:
    whole = Buffer.empty(EIGHT)
    given["bindings"].update(a=whole[0:4], b=whole[3:7])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda g: g["bindings"].pop("a"), "other slots than it has: 'a' is missing"),
        (lambda g: g["bindings"].update(d=Buffer.empty(FOUR)), "'d' is unknown"),
        (lambda g: g["bindings"].update(c=Buffer.empty(FOUR)), "'c' is unknown"),
        (lambda g: g["programs"].clear(), "other programs than it has: 'p' is missing"),
        (lambda g: g["semaphores"].clear(), "other semaphores than it has"),
        (lambda g: g["bindings"].update(a=Buffer.empty(EIGHT)), r"slot 'a' of 'r' is f32\[4\], bound to f32\[8\]"),
        (lambda g: g["bindings"].update(a=Buffer.empty(EIGHT)[::2]), "not contiguous"),
        (lambda g: g["bindings"].update(a=np.zeros(4, np.float32)), "bound to a ndarray, expected a Buffer"),
        (lambda g: g["semaphores"].update(s=7), "'s' of 'r' is given as a int, expected a Semaphore"),
        (_readonly, "slot 'b' of 'r' is written, and bound to a read-only"),
        (_overlap, "'a' and 'b' of 'r' are bound to overlapping bytes"),
        (lambda g: g["bindings"].update(a=Buffer.empty(FOUR, Device("reference"))), "on reference:0, its programs"),
        (lambda g: g["semaphores"].update(s=(Semaphore(), 2**64 - 1)), "exceeds what a payload can be"),
    ],
)  # fmt: skip
def test_a_replay_with_wrong_bindings_enqueues_nothing(spoil: Callable[[dict[str, Any]], object], words: str) -> None:
    commands, a, b = _recording()
    commands.run("p", [a], [b])
    commands.signal("s", 1)
    given = _bindings()
    semaphore = given["semaphores"]["s"]
    spoil(given)
    with CommandStream() as stream, stream.trace() as trace:
        with pytest.raises(CommandError, match=words):
            commands.replay(stream, **given)
        stream.synchronize()
    assert [e.kind for e in trace.entries] == ["record"]
    assert semaphore.query() == 0


def test_a_freed_binding_and_another_program_are_refused() -> None:
    commands, a, b = _recording()
    commands.run("p", [a], [b])
    given = _bindings()
    given["bindings"]["a"].free()
    builder = GraphBuilder("other")
    other = load(builder.build({"y": builder.emit("neg", builder.input("x", EIGHT))}), Device("reference"))
    with CommandStream() as stream:
        with pytest.raises(BufferFreed):
            commands.replay(stream, **given)
        with pytest.raises(CommandError, match=r"(?s)'p' of 'r' is given as another.*f32\[8\]"):
            commands.replay(stream, **{**_bindings(), "programs": {"p": other}})


def test_a_failure_in_a_replay_names_the_recording_and_the_command() -> None:
    commands, a, b = _recording()
    commands.copy(b, a)
    commands.run("p", [a], [b])
    given = _bindings()
    given["programs"]["p"].close()
    with CommandStream() as stream:
        commands.replay(stream, **given)
        with pytest.raises(DeviceError, match=r"r\[1\] run @p .* failed: DriverError") as caught:
            stream.synchronize()
    assert caught.value.where == "command 1 of the recording 'r'"


def test_replays_of_two_threads_on_one_stream_do_not_mix() -> None:
    commands = CommandBuffer("pair")
    a = commands.slot("a", FOUR)
    for value in range(8):
        commands.fill(a, value)
    buffers = [Buffer.empty(FOUR) for _ in range(2)]
    with CommandStream() as stream, stream.trace() as trace:

        def body(buffer: Buffer) -> None:
            for _ in range(20):
                commands.replay(stream, {"a": buffer})

        threads = [threading.Thread(target=body, args=(buffer,)) for buffer in buffers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        stream.synchronize()
    fills = [(e.writes[0].allocation, e.what) for e in trace.entries if e.kind == "fill"]
    assert len(fills) == 320
    for i in range(0, 320, 8):
        assert [what for _, what in fills[i : i + 8]] == [f"{v}.0" for v in range(8)]
        assert len({number for number, _ in fills[i : i + 8]}) == 1


# -- hostile files ----------------------------------------------------------------------------------------------------


def _spoiled(change: Callable[[dict[str, Any]], object], path: Path) -> Path:
    commands, a, b = _recording()
    commands.fill(a, 1)
    commands.run("p", [a], [b])
    commands.signal("s", 1)
    save_commands(path, commands)
    file = open_safetensors(path)
    document = json.loads(file.metadata["commands"])
    change(document)
    write_safetensors(path, file.tensors, {**file.metadata, "commands": json.dumps(document)})
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("name"),
        lambda d: d.update(more=1),
        lambda d: d.update(name=3),
        lambda d: d.update(slots={}),
        lambda d: d["slots"].append(["b", "f32", [4]]),
        lambda d: d["slots"].append(["d", "f31", [4]]),
        lambda d: d["slots"].append(["d", "f32", [-4]]),
        lambda d: d["slots"].append(["d", "f32", [2**62]]),
        lambda d: d["slots"].append(["d", "f32", [True]]),
        lambda d: d["slots"].append(["d", "f32"]),
        lambda d: d["slots"][2].__setitem__(2, [5]),
        lambda d: d["slots"].pop(2),
        lambda d: d["programs"][0].pop(),
        lambda d: d["programs"][0].__setitem__(0, [1]),
        lambda d: d.update(semaphores=[1]),
        lambda d: d["commands"].append("fill"),
        lambda d: d["commands"].append([]),
        lambda d: d["commands"].append([["fill"], 1]),
        lambda d: d["commands"].append(["burn", 1]),
        lambda d: d["commands"][0].__setitem__(2, "zz"),
        lambda d: d["commands"][0].__setitem__(2, "00"),
        lambda d: d["commands"][0][1].__setitem__(1, -4),
        lambda d: d["commands"][0][1].__setitem__(1, 4.0),
        lambda d: d["commands"][0][1].__setitem__(1, 2**70),
        lambda d: d["commands"][1][2].append(d["commands"][1][2][0]),
        lambda d: d["commands"][1].__setitem__(3, d["commands"][1][2]),
        lambda d: d["commands"][2].__setitem__(2, "1"),
        lambda d: d["commands"][2].__setitem__(2, True),
        lambda d: d["commands"][2].__setitem__(1, "t"),
    ],
)  # fmt: skip
def test_a_file_that_breaks_a_recordings_rules_is_refused(change: Callable[..., object], tmp_path: Path) -> None:
    path = _spoiled(change, tmp_path / "r.safetensors")
    with pytest.raises(CommandFileError, match="breaks the rules of a recording"):
        load_commands(path)


def test_files_of_other_forms_are_refused(tmp_path: Path, commands: CommandBuffer) -> None:
    path = tmp_path / "r"
    with pytest.raises(TensorFileNotFound):
        load_commands(path)
    path.write_bytes(b"no recording")
    with pytest.raises(CommandFileError, match="holds no recording"):
        load_commands(path)
    write_safetensors(path, {}, {"form": "rlx commands 99", "commands": "{}"})
    with pytest.raises(CommandFileError, match="(?s)this version reads.*'rlx commands 99'"):
        load_commands(path)
    write_safetensors(path, {}, {"form": "rlx commands 1", "commands": "[" * 100_000})
    with pytest.raises(CommandFileError, match="breaks the rules"):
        load_commands(path)
    save_commands(path, commands)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CommandFileError, match="holds no recording"):
        load_commands(path)
