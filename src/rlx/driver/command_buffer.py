"""Command buffers: work recorded once, replayed with other bindings.

    commands = CommandBuffer("step")
    x, y = commands.slot("x", vector), commands.slot("y", vector)
    double = commands.graph(graph)
    commands.run(double, [x], [y])
    commands.replay(stream, {"x": a, "y": b}, programs={double.key: executable})

A recording knows no device and no address: operands are places in slots, programs have keys, semaphores have names, and
a replay says what each is. A recording that carries its programs' graphs runs on every backend, from a file too:
`rlx.Session.prepare` compiles them in one call. Semaphore values count from the semaphore's base at the replay, so that
a recording can be replayed on a timeline that goes on.

Checks. Recording checks every command, a replay checks every binding, before anything is enqueued; both raise
CommandError and change nothing. Slots are separate memory: bindings that overlap are refused where either is written.
Ordering. A replay enqueues its commands behind one another, with nothing of another thread between them, and returns.
Failure. As the stream's: a failure names the recording, the command's number, and what it is.
Owner. A stream keeps what a replay was given until it is done. A recording keeps its constants' arrays; each replay
brings the constants that its device has not seen.
Threads. One thread records; afterwards any number may replay, print and save.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from rlx.driver.buffer import Buffer
from rlx.driver.command import Command, Copy, Fill, Operand, Program, Run, Signal, Wait, reads_of, writes_of
from rlx.driver.device import Device
from rlx.driver.element import element_of
from rlx.driver.executable import Executable
from rlx.driver.operation import (
    Operation,
    copy_operation,
    fill_operation,
    run_operation,
    signal_operation,
    wait_operation,
)
from rlx.driver.semaphore import MAX_PAYLOAD, Semaphore
from rlx.driver.stream import CommandStream
from rlx.errors import BufferMismatch, CommandError
from rlx.ir.fingerprint import fingerprint
from rlx.ir.graph import Graph
from rlx.ir.printer import print_graph
from rlx.ir.types import TensorType, type_of


class CommandBuffer:
    """A recording; see the module's contract.

    slots: name -> type, in the order of declaration, constants included. constants: name -> read-only array.
    programs: key -> types. semaphores: names. commands: in the order of execution.
    """

    def __init__(self, name: str = "commands") -> None:
        self.name = name
        self.slots: dict[str, TensorType] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.programs: dict[str, Program] = {}
        self.semaphores: list[str] = []
        self.commands: list[Command] = []
        self._resident: dict[Device, dict[str, Buffer]] = {}

    # -- declaring -------------------------------------------------------------------------------------------------

    def slot(self, name: str, type: TensorType) -> Operand:
        """A place for a buffer of that type, bound at each replay.

        Raises CommandError for a name that is taken, IRError for a symbolic shape.
        """
        self._check_name("slot", name, self.slots)
        _ = type.nbytes  # raises where symbolic
        self.slots[name] = type
        return Operand(name, type)

    def constant(self, name: str, array: np.ndarray) -> Operand:
        """A slot whose content is recorded; it is copied now, and never written. Raises as `slot`."""
        operand = self.slot(name, type_of(array))
        self.constants[name] = np.array(array, order="C")
        self.constants[name].flags.writeable = False
        return operand

    def program(
        self,
        key: str,
        inputs: Sequence[TensorType],
        outputs: Sequence[TensorType],
        *,
        graph: str = "",
        parameters: Mapping[str, str] | None = None,
    ) -> Program:
        """A program to run, given as an executable at each replay.

        graph: its text, for those who are to compile it elsewhere. parameters: names in it -> constants with the data.
        Raises CommandError for a key that is taken, or a parameter whose constant is missing.
        """
        self._check_name("program", key, self.programs)
        for name, constant in (parameters or {}).items():
            if constant not in self.constants:
                raise CommandError(f"parameter {name!r} of program {key!r} has no constant {constant!r}")
        self.programs[key] = Program(key, tuple(inputs), tuple(outputs), graph, tuple((parameters or {}).items()))
        return self.programs[key]

    def graph(self, graph: Graph) -> Program:
        """A program that the recording carries: the graph's text, and its weights as constants, for any device.

        Its key is the graph's fingerprint. Raises CommandError where the recording has it; IRError for symbolic shapes.
        """
        key = fingerprint(graph)
        self._check_name("program", key, self.programs)
        parameters = {p.name: f"parameter{i}.{key[:12]}" for i, p in enumerate(graph.parameters)}
        for parameter in graph.parameters:
            self.constant(parameters[parameter.name], parameter.data)
        inputs, outputs = list(graph.input_types.values()), list(graph.output_types.values())
        return self.program(key, inputs, outputs, graph=print_graph(graph), parameters=parameters)

    def semaphore(self, name: str) -> str:
        """A semaphore, bound at each replay. Raises CommandError for a name that is taken."""
        self._check_name("semaphore", name, self.semaphores)
        self.semaphores.append(name)
        return name

    # -- recording -------------------------------------------------------------------------------------------------

    def fill(self, target: Operand, value: complex | np.generic) -> None:
        """Record `target.fill(value)`. Raises CommandError where the dtype cannot hold it, or as the module says."""
        try:
            element = element_of(target.type.dtype, value)
        except BufferMismatch as error:
            raise CommandError(f"{target}: {error.message}") from None
        self.add(Fill(target, element.tobytes()))

    def copy(self, target: Operand, source: Operand) -> None:
        """Record `target.copy_from(source)`. Raises CommandError for types that differ."""
        self.add(Copy(target, source))

    def run(self, program: Program | str, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> None:
        """Record a program's run. Raises CommandError for other types, or outputs that overlap another operand."""
        key = program if isinstance(program, str) else program.key
        self.add(Run(key, tuple(inputs), tuple(outputs)))

    def signal(self, semaphore: str, value: int) -> None:
        """Record a signal of the semaphore's base plus `value`. Raises CommandError."""
        self.add(Signal(semaphore, value))

    def wait(self, semaphore: str, value: int) -> None:
        """Record a wait for the semaphore's base plus `value`. Raises CommandError."""
        self.add(Wait(semaphore, value))

    def add(self, command: Command) -> None:
        """Record a command. Raises CommandError where it breaks a rule."""
        where = f"command {len(self.commands)} of {self.name!r}: {type(command).__name__.lower()}"
        for operand in (*reads_of(command), *writes_of(command)):
            self._check_operand(operand, where)
        for operand in writes_of(command):
            if operand.slot in self.constants:
                raise CommandError(f"constant {operand.slot!r} cannot be written", where=where)
        match command:
            case Copy(target, source):
                if target.type != source.type:
                    raise CommandError(f"{target} cannot be overwritten by {source}", where=where)
            case Fill(target, element):
                if len(element) != target.type.dtype.itemsize:
                    raise CommandError(f"an element of {target} has not {len(element)} bytes", where=where)
            case Run():
                self._check_run(command, where)
            case Signal(name, value) | Wait(name, value):
                if name not in self.semaphores:
                    raise CommandError(f"there is no semaphore {name!r}", where=where, hint="declare it first")
                if type(value) is not int or not 0 <= value <= MAX_PAYLOAD:
                    raise CommandError(f"no payload can be {value!r}", where=where)
        self.commands.append(command)

    def _check_name(self, what: str, name: str, taken: Mapping[str, object] | Sequence[str]) -> None:
        if not isinstance(name, str) or not name or not name.isprintable() or set(name) & set("%@$:()[], "):
            raise CommandError(f"{name!r} cannot name a {what}", hint="printable, without spaces and any of %@$:()[],")
        if name in taken:
            raise CommandError(f"{self.name!r} has a {what} {name!r} already")

    def _check_operand(self, operand: Operand, where: str) -> None:
        if operand.slot not in self.slots:
            raise CommandError(f"there is no slot {operand.slot!r}", where=where, hint="declare it first")
        if operand.offset < 0 or operand.end > self.slots[operand.slot].nbytes:
            raise CommandError(f"{operand} reaches out of {self.slots[operand.slot]}", where=where)
        if operand.offset % operand.type.dtype.itemsize:
            raise CommandError(f"{operand} does not lie at a multiple of its element's size", where=where)

    def _check_run(self, command: Run, where: str) -> None:
        program = self.programs.get(command.key)
        if program is None:
            raise CommandError(f"there is no program {command.key!r}", where=where, hint="declare it first")
        given = tuple(o.type for o in command.inputs), tuple(o.type for o in command.outputs)
        if given != (program.inputs, program.outputs):
            raise CommandError(f"{command} does not fit {program}", where=where)
        for i, output in enumerate(command.outputs):
            for other in (*command.inputs, *command.outputs[:i]):
                if output.overlaps(other):
                    raise CommandError(f"output {output} overlaps {other}", where=where)

    # -- replaying -------------------------------------------------------------------------------------------------

    def replay(
        self,
        stream: CommandStream,
        bindings: Mapping[str, Buffer],
        *,
        programs: Mapping[str, Executable] | None = None,
        semaphores: Mapping[str, Semaphore | tuple[Semaphore, int]] | None = None,
    ) -> None:
        """Enqueue every command on `stream`.

        bindings: slot -> contiguous buffer of its type, for all slots but constants. programs: key -> executable, for
        all that run. semaphores: name -> semaphore, or (semaphore, base); the base is 0 where none is given.
        Raises CommandError, BufferFreed or OutOfMemory before anything is enqueued; DeviceError after `close`.
        """
        self._check_names("slot", bindings, [name for name in self.slots if name not in self.constants])
        self._check_names("program", programs or {}, list(self.programs))
        self._check_names("semaphore", semaphores or {}, self.semaphores)
        buffers = {name: self._bound(name, buffer) for name, buffer in bindings.items()}
        self._check_separate(buffers)
        self._check_places(buffers, stream.device)
        executables = {key: self._executable(key, given) for key, given in (programs or {}).items()}
        timelines = {name: s if isinstance(s, tuple) else (s, 0) for name, s in (semaphores or {}).items()}
        for name, (semaphore, _) in timelines.items():
            if not isinstance(semaphore, Semaphore):
                raise CommandError(
                    f"{name!r} of {self.name!r} is given as a {semaphore.__class__.__name__}, expected a Semaphore"
                )
        for command in self.commands:
            if isinstance(command, Signal | Wait) and timelines[command.semaphore][1] + command.value > MAX_PAYLOAD:
                raise CommandError(f"{command} exceeds what a payload can be")
        buffers.update(self._constants_on(stream.device))
        stream.enqueue(*[
            self._operation(number, command, buffers, executables, timelines, stream.device)
            for number, command in enumerate(self.commands)
        ])  # fmt: skip

    def _operation(
        self,
        number: int,
        command: Command,
        buffers: Mapping[str, Buffer],
        executables: Mapping[str, Executable],
        timelines: Mapping[str, tuple[Semaphore, int]],
        device: Device,
    ) -> Operation:
        def place(operand: Operand) -> Buffer:
            return _place(buffers[operand.slot], operand)

        name, where = f"{self.name}[{number}] {command}", f"command {number} of the recording {self.name!r}"
        match command:
            case Fill(target):
                return fill_operation(place(target), command.value, name, where)
            case Copy(target, source):
                return copy_operation(place(target), place(source), name, where)
            case Run(key, inputs, outputs):
                reads, writes = [place(o) for o in inputs], [place(o) for o in outputs]
                return run_operation(executables[key], reads, writes, name, where, what=key)
            case Signal(semaphore, value):
                timeline, base = timelines[semaphore]
                return signal_operation(timeline, base + value, device, name, where)
            case Wait(semaphore, value):
                timeline, base = timelines[semaphore]
                return wait_operation(timeline, base + value, name, where)

    def _check_names(self, what: str, given: Mapping[str, object], expected: Sequence[str]) -> None:
        missing, unknown = [n for n in expected if n not in given], [n for n in given if n not in expected]
        if missing or unknown:
            wrong = [f"{n!r} is missing" for n in missing] + [f"{n!r} is unknown" for n in unknown]
            raise CommandError(
                f"{self.name!r} is replayed with other {what}s than it has: {', '.join(wrong)}",
                where=f"it has {', '.join(map(repr, expected)) or 'none'}",
            )

    def _bound(self, name: str, buffer: Buffer) -> Buffer:
        if not isinstance(buffer, Buffer):
            raise CommandError(
                f"slot {name!r} of {self.name!r} is bound to a {buffer.__class__.__name__}, expected a Buffer"
            )
        if buffer.type != self.slots[name]:
            raise CommandError(f"slot {name!r} of {self.name!r} is {self.slots[name]}, bound to {buffer.type}")
        if not buffer.is_contiguous:
            raise CommandError(f"slot {name!r} of {self.name!r} is bound to a buffer that is not contiguous")
        _ = buffer.address  # raises where freed
        if buffer.readonly and name in self._written():
            raise CommandError(f"slot {name!r} of {self.name!r} is written, and bound to a read-only buffer")
        return buffer

    def _written(self) -> set[str]:
        return {operand.slot for command in self.commands for operand in writes_of(command)}

    def _check_separate(self, buffers: Mapping[str, Buffer]) -> None:
        written = self._written()
        ranges = sorted(
            ("" if b.block.memory.backend.host_visible else str(b.device), b.address, b.address + b.nbytes, name)
            for name, b in buffers.items()
            if b.nbytes
        )
        reach: tuple[str, int, str] = ("", -1, "")
        for memory, start, end, name in ranges:
            if memory == reach[0] and start < reach[1] and {name, reach[2]} & written:
                raise CommandError(f"slots {reach[2]!r} and {name!r} of {self.name!r} are bound to overlapping bytes")
            if memory != reach[0] or end > reach[1]:
                reach = (memory, end, name)

    def _check_places(self, buffers: Mapping[str, Buffer], device: Device) -> None:
        for command in self.commands:
            if isinstance(command, Run):
                for operand in (*command.inputs, *command.outputs):
                    bound = buffers.get(operand.slot)
                    if bound is not None and bound.device != device:
                        raise CommandError(
                            f"slot {operand.slot!r} of {self.name!r} is bound on {bound.device}, "
                            f"its programs run on {device}"
                        )

    def _executable(self, key: str, executable: Executable) -> Executable:
        program = self.programs[key]
        given = tuple(executable.inputs.values()), tuple(executable.outputs.values())
        if given != (program.inputs, program.outputs):
            raise CommandError(
                f"program {key!r} of {self.name!r} is given as another one",
                where=f"recorded as {program}, given as {Program(key, *given)}",
            )
        return executable

    def _constants_on(self, device: Device) -> dict[str, Buffer]:
        resident = self._resident.get(device)
        if resident is None:
            resident = {}
            for name, array in self.constants.items():
                resident[name] = Buffer.empty(self.slots[name], device, name=f"the constant {name!r} of {self.name!r}")
                resident[name].copy_from(Buffer.from_numpy(array))
            self._resident[device] = resident
        return resident

    # -- text ------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        """The recording as text: equal texts, but for constants' content, mean equal recordings."""
        lines = [f"commands {self.name}"]
        for name, type in self.slots.items():
            lines.append(f"  {'constant' if name in self.constants else 'slot'} %{name}: {type}")
        lines += [f"  program {program}" for program in self.programs.values()]
        lines += [f"  semaphore ${name}" for name in self.semaphores]
        return "\n".join([*lines, *(f"  {i:3} {command}" for i, command in enumerate(self.commands))])

    def diff(self, other: CommandBuffer) -> str:
        """What differs: a unified diff of the texts, and a line for each constant or graph that is another."""
        one, two = str(self).splitlines(), str(other).splitlines()
        lines = list(difflib.unified_diff(one, two, self.name, other.name, lineterm="", n=2))
        for name in self.constants.keys() & other.constants.keys():
            if self.constants[name].tobytes() != other.constants[name].tobytes():
                lines.append(f"! constant %{name} has another content")
        for key in self.programs.keys() & other.programs.keys():
            if self.programs[key].graph != other.programs[key].graph:
                lines.append(f"! program @{key} has another graph")
            if self.programs[key].parameters != other.programs[key].parameters:
                lines.append(f"! program @{key} has other parameters")
        return "\n".join(lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CommandBuffer) and self.commands == other.commands and not self.diff(other)

    __hash__ = None  # type: ignore[assignment]  # it grows while it is recorded

    def __repr__(self) -> str:
        return f"<CommandBuffer {self.name!r}, {len(self.commands)} commands, {len(self.slots)} slots>"


def _place(buffer: Buffer, operand: Operand) -> Buffer:
    """The operand's bytes in what its slot is bound to."""
    if operand.offset == 0 and operand.type == buffer.type:
        return buffer
    block = buffer.block
    return Buffer.over(block, operand.type, buffer.address - block.address + operand.offset, owner=buffer)
