"""Commands: what a recording holds, one frozen value each, without addresses.

An `Operand` is a place in a binding slot: a name, an offset in bytes, a type. What the slot is bound to is decided at
each replay. `Program` and `Fill.element` are plain data, so commands compare, print and travel between machines. They
never change, so any thread may read them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from rlx.errors import CommandError
from rlx.ir.types import TensorType

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Operand:
    """`type`'s elements, row-major, from byte `offset` of a slot on."""

    slot: str
    type: TensorType
    offset: int = 0

    def part(self, offset: int, type: TensorType) -> Operand:
        """A place inside this one, `offset` bytes from its start. Raises CommandError where it does not fit."""
        if offset < 0 or offset + type.nbytes > self.type.nbytes:
            raise CommandError(f"{type} at byte {offset} does not fit into {self}")
        return Operand(self.slot, type, self.offset + offset)

    @property
    def end(self) -> int:
        """One past its last byte in the slot."""
        return self.offset + self.type.nbytes

    def overlaps(self, other: Operand) -> bool:
        """True where the two share a byte, as far as the recording can know."""
        return self.slot == other.slot and self.offset < other.end and other.offset < self.end

    def __str__(self) -> str:
        return f"%{self.slot}[{self.offset}: {self.type}]" if self.offset else f"%{self.slot}: {self.type}"


@dataclass(frozen=True, slots=True)
class Program:
    """What a `Run` needs: a key that names the compiled program, and the types that it must have.

    graph: its text, where the recording carries it, so that any device can compile it.
    parameters: (the graph's parameter, the constant that holds its data), for each of its weights.
    """

    key: str
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    graph: str = ""
    parameters: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"@{self.key}: ({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))})"


@dataclass(frozen=True, slots=True)
class Fill:
    """Set every element of `target`; `element` is one of them, as bytes."""

    target: Operand
    element: bytes

    @property
    def value(self) -> np.generic:
        """The element as a number of the target's dtype."""
        return np.frombuffer(self.element, self.target.type.dtype.numpy)[0]

    def __str__(self) -> str:
        return f"fill {self.target} = {self.value}"


@dataclass(frozen=True, slots=True)
class Copy:
    """Overwrite `target` with `source`."""

    target: Operand
    source: Operand

    def __str__(self) -> str:
        return f"copy {self.source} -> {self.target}"


@dataclass(frozen=True, slots=True)
class Run:
    """Run a program."""

    key: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]

    def __str__(self) -> str:
        return f"run @{shown(self.key)} ({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))})"


@dataclass(frozen=True, slots=True)
class Signal:
    """Let a semaphore reach its base at this replay plus `value`."""

    semaphore: str
    value: int

    def __str__(self) -> str:
        return f"signal ${self.semaphore} + {self.value}"


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until a semaphore has reached its base at this replay plus `value`."""

    semaphore: str
    value: int

    def __str__(self) -> str:
        return f"wait ${self.semaphore} + {self.value}"


def shown(key: str) -> str:
    """A program's key where it is read and not compared: of a fingerprint the first twelve digits, as people do."""
    return key[:12] if _FINGERPRINT.fullmatch(key) else key


Command = Fill | Copy | Run | Signal | Wait


def reads_of(command: Command) -> tuple[Operand, ...]:
    """The operands that a command reads."""
    match command:
        case Copy():
            return (command.source,)
        case Run():
            return command.inputs
        case _:
            return ()


def writes_of(command: Command) -> tuple[Operand, ...]:
    """The operands that a command writes."""
    match command:
        case Copy() | Fill():
            return (command.target,)
        case Run():
            return command.outputs
        case _:
            return ()
