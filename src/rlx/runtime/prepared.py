"""Recordings made ready: every program that a recording carries, compiled for one device.

    with rlx.Session("webgpu").prepare("step.commands") as step, CommandStream(step.device) as stream:
        step.replay(stream, {"x": a, "y": b})

Owner. It owns its programs; `close` frees them, and replays after it raise ProgramClosed. Replays that are enqueued
when it is closed fail on their stream.
Ordering, failure, threads: as `CommandBuffer.replay`. Runs of one program take turns, whatever streams they are on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from rlx.driver import Buffer, CommandBuffer, CommandStream, Device, Semaphore
from rlx.runtime.program import CompiledGraph


class PreparedCommands:
    """A recording and its programs on one device; see the module's contract. Made by `Session.prepare`.

    commands: the recording. programs: key -> program, for each that it runs.
    """

    def __init__(self, commands: CommandBuffer, device: Device, programs: Mapping[str, CompiledGraph]) -> None:
        self.commands = commands
        self.device = device
        self.programs = dict(programs)

    def replay(
        self,
        stream: CommandStream,
        bindings: Mapping[str, Buffer],
        *,
        semaphores: Mapping[str, Semaphore | tuple[Semaphore, int]] | None = None,
    ) -> None:
        """Enqueue every command on a stream of the device. Raises as `CommandBuffer.replay`; ProgramClosed."""
        executables = {key: program.executable for key, program in self.programs.items()}
        self.commands.replay(stream, bindings, programs=executables, semaphores=semaphores)

    def close(self) -> None:
        """Free the programs. Closing twice is allowed."""
        for program in self.programs.values():
            program.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PreparedCommands {self.commands.name!r} on {self.device}, {len(self.programs)} programs>"
