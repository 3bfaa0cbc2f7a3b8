"""Scripts: what a device's queues shall do, as data, so that one case covers every way of issuing it.

direct    each command is a call of a stream
recorded  each queue's commands are recorded and replayed once
rebound   the same recordings are replayed twice, with other buffers, on a timeline that goes on; the first buffers must
          keep what the first replay gave them
loaded    as recorded, with the recordings saved to files and loaded from them

A script's lanes are streams; commands stand in one global order that is right when carried out one by one, and lanes
are ordered among each other by semaphores. `simulate` carries it out in NumPy: the oracle.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rlx.driver import (
    Buffer,
    CommandBuffer,
    CommandStream,
    Event,
    LaunchTrace,
    Operand,
    Semaphore,
    load_commands,
    save_commands,
)
from rlx.driver.command import Command, Copy, Fill, Run, Signal, Wait
from rlx.ir import Graph, TensorType, fingerprint, type_of
from rlx.testing.conformance.blocking import SOON
from rlx.testing.conformance.case import Subject
from rlx.testing.conformance.expect import expect_bits

MODES = ("direct", "recorded", "rebound", "loaded")
Contents = dict[str, np.ndarray]


@dataclass
class Script:
    """Buffers with their first content, programs, and commands in order, each with its lane."""

    contents: Contents = field(default_factory=dict)
    graphs: dict[str, Graph] = field(default_factory=dict)
    steps: list[tuple[int, Command]] = field(default_factory=list)
    meanings: dict[str, Callable[..., tuple[np.ndarray, ...]]] = field(default_factory=dict)

    def slot(self, name: str, content: np.ndarray) -> Operand:
        """A buffer and what it holds at first."""
        self.contents[name] = content
        return Operand(name, type_of(content))

    def program(self, graph: Graph, meaning: Callable[..., tuple[np.ndarray, ...]]) -> str:
        """A program, and what it computes, in NumPy; gives its key."""
        key = fingerprint(graph)
        self.graphs[key], self.meanings[key] = graph, meaning
        return key

    def fill(self, target: Operand, value: float, *, lane: int = 0) -> None:
        element = np.array(value, target.type.dtype.numpy).tobytes()
        self.steps.append((lane, Fill(target, element)))

    def copy(self, target: Operand, source: Operand, *, lane: int = 0) -> None:
        self.steps.append((lane, Copy(target, source)))

    def run(self, key: str, inputs: list[Operand], outputs: list[Operand], *, lane: int = 0) -> None:
        self.steps.append((lane, Run(key, tuple(inputs), tuple(outputs))))

    def signal(self, semaphore: str, value: int, *, lane: int = 0) -> None:
        self.steps.append((lane, Signal(semaphore, value)))

    def wait(self, semaphore: str, value: int, *, lane: int = 0) -> None:
        self.steps.append((lane, Wait(semaphore, value)))

    @property
    def lanes(self) -> list[int]:
        return sorted({lane for lane, _ in self.steps})

    @property
    def semaphores(self) -> dict[str, int]:
        """Names -> the largest value that the script signals or waits for."""
        found: dict[str, int] = {}
        for _, command in self.steps:
            if isinstance(command, Signal | Wait):
                found[command.semaphore] = max(found.get(command.semaphore, 0), command.value)
        return found


def simulate(script: Script) -> Contents:
    """What every buffer holds in the end, by NumPy, one command after the other."""
    contents = {name: np.array(content, order="C") for name, content in script.contents.items()}

    def place(operand: Operand) -> np.ndarray:
        raw = contents[operand.slot].reshape(-1).view(np.uint8)[operand.offset : operand.end]
        return raw.view(operand.type.dtype.numpy).reshape(operand.type.sizes)

    for _, command in script.steps:
        match command:
            case Fill(target):
                place(target)[...] = command.value
            case Copy(target, source):
                place(target)[...] = place(source).copy()
            case Run(key, inputs, outputs):
                for output, result in zip(outputs, script.meanings[key](*map(place, inputs)), strict=True):
                    place(output)[...] = result
            case _:
                pass
    return contents


def perform(subject: Subject, script: Script) -> Contents:
    """What every buffer holds when the device has carried the script out, in the subject's mode."""
    return trace(subject, script)[0]


def trace(subject: Subject, script: Script) -> tuple[Contents, dict[int, LaunchTrace]]:
    """As `perform`, with what each lane's stream did; of two replays, the second's."""
    player = Player(subject, script)
    buffers = player.play()
    if subject.mode == "rebound":
        first, buffers = buffers, player.play()
        for name, expected in simulate(script).items():
            expect_bits(subject.read(first[name]), expected, f"buffer {name!r} of the first replay, after the second")
    return {name: subject.read(buffer) for name, buffer in buffers.items()}, player.traces


def check(subject: Subject, script: Script) -> None:
    """Fail where the device carries the script out to another end than NumPy."""
    got = perform(subject, script)
    for name, expected in simulate(script).items():
        expect_bits(got[name], expected, f"buffer {name!r}")


def _drain(stream: CommandStream) -> None:
    """Wait for the stream, but not for ever."""
    stream.record(Event("the end of the script")).wait(SOON)


class Player:
    """A script on a device, in the subject's mode. programs: key -> what runs; may be changed before `play`.

    streams, traces: by lane.
    """

    def __init__(self, subject: Subject, script: Script) -> None:
        self.subject, self.script = subject, script
        self.streams = {lane: subject.stream(f"lane {lane}") for lane in script.lanes}
        self.semaphores = {name: Semaphore(name=name) for name in script.semaphores}
        self.plays = 0
        self.programs = {key: subject.program(graph) for key, graph in script.graphs.items()}
        self.recordings = {} if subject.mode == "direct" else self._record()
        self.traces: dict[int, LaunchTrace] = {}

    def play(self, *, drain: Callable[[CommandStream], None] = _drain) -> dict[str, Buffer]:
        """Fresh buffers, and the script carried out on them. drain: waits for a stream."""
        buffers = {name: self.subject.buffer(content) for name, content in self.script.contents.items()}
        bases = {name: self.plays * top for name, top in self.script.semaphores.items()}
        self.plays += 1
        followed = [stream.trace() for stream in self.streams.values()]
        self.traces = dict(zip(self.streams, [f.__enter__() for f in followed], strict=True))
        try:
            if self.subject.mode == "direct":
                for lane, command in self.script.steps:
                    self._issue(self.streams[lane], command, buffers)
            else:
                for lane, recording in self.recordings.items():
                    recording.replay(
                        self.streams[lane],
                        {name: buffers[name] for name in recording.slots},
                        programs={key: self.programs[key] for key in recording.programs},
                        semaphores={name: (self.semaphores[name], bases[name]) for name in recording.semaphores},
                    )
            for stream in self.streams.values():
                drain(stream)
        finally:
            for each in followed:
                each.__exit__(None, None, None)
        for each in self.traces.values():
            each.entries = [e for e in each.entries if e.kind != "record"]  # those of the draining
        return buffers

    def _issue(self, stream: CommandStream, command: Command, buffers: dict[str, Buffer]) -> None:
        def place(operand: Operand) -> Buffer:
            whole = buffers[operand.slot]
            if operand.type == whole.type:
                return whole
            at, size = operand.offset, operand.type.dtype.itemsize
            return whole.reshape(-1)[at // size : operand.end // size].reshape(*operand.type.sizes)

        match command:
            case Fill(target):
                stream.fill(place(target), command.value)
            case Copy(target, source):
                stream.copy(place(target), place(source))
            case Run(key, inputs, outputs):
                stream.run(self.programs[key], [place(o) for o in inputs], [place(o) for o in outputs], name=key)
            case Signal(semaphore, value):
                stream.signal(self.semaphores[semaphore], value)
            case Wait(semaphore, value):
                stream.wait(self.semaphores[semaphore], value)

    def _record(self) -> dict[int, CommandBuffer]:
        recordings: dict[int, CommandBuffer] = {}
        for lane in self.script.lanes:
            recording = recordings[lane] = CommandBuffer(f"lane-{lane}")
            for name, content in self.script.contents.items():
                recording.slot(name, type_of(content))
            for key, graph in self.script.graphs.items():
                recording.program(key, _types(graph.input_types), _types(graph.output_types))
            for name in self.script.semaphores:
                recording.semaphore(name)
            for at, command in self.script.steps:
                if at == lane:
                    recording.add(command)
        if self.subject.mode == "loaded":
            with tempfile.TemporaryDirectory() as folder:
                for lane, recording in recordings.items():
                    save_commands(Path(folder, str(lane)), recording)
                    recordings[lane] = load_commands(Path(folder, str(lane)))
        return recordings


def _types(types: dict[str, TensorType]) -> list[TensorType]:
    return list(types.values())
