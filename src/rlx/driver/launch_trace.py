"""Launch traces: what a stream really did, as typed entries that can be compared.

    with stream.trace() as trace:
        ...
        stream.synchronize()
    print(trace)

An entry says what was done and to which bytes, but holds no address: allocations are numbered in the order in which the
trace first met them, and a place in one is an offset. So the traces of two equal pieces of work are equal, wherever
their buffers lie, and a replayed recording can be held against the direct calls that it stands for.

Ordering. Entries stand in the order of execution; an operation enters when it begins. A stream has at most one trace.
Threads. One stream writes a trace; read it when the stream is idle.
Lifetime. A trace keeps no bytes alive.
"""

from __future__ import annotations

import difflib
import weakref
from dataclasses import dataclass, field
from typing import Literal

from rlx.driver.buffer import Buffer
from rlx.driver.memory import Block
from rlx.driver.operation import Kind, Operation

#: begun: it was begun on a stream that had not failed; skipped: a failure came before it.
Outcome = Literal["begun", "skipped"]


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes that an operation touches: the number of their allocation, the offset in bytes there, and the type."""

    allocation: int
    offset: int
    type: str

    def __str__(self) -> str:
        return f"#{self.allocation}+{self.offset}: {self.type}"


@dataclass(frozen=True, slots=True)
class Launch:
    """One operation of a stream. what: a program's name, a fill's value, a semaphore's payload, an event's name."""

    kind: Kind
    what: str
    reads: tuple[Use, ...]
    writes: tuple[Use, ...]
    outcome: Outcome

    def __str__(self) -> str:
        words = [self.kind, self.what] if self.what else [self.kind]
        if self.reads:
            words.append(f"({', '.join(map(str, self.reads))})")
        if self.writes:
            words.append(f"-> ({', '.join(map(str, self.writes))})")
        return " ".join(words) + (" skipped" if self.outcome == "skipped" else "")


@dataclass(eq=False)
class LaunchTrace:
    """Entries in the order of execution; see the module's contract. Traces are equal where their entries are."""

    entries: list[Launch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers: weakref.WeakKeyDictionary[Block, int] = weakref.WeakKeyDictionary()
        self._allocations = 0

    def add(self, operation: Operation, outcome: Outcome) -> None:
        """Take an operation in. For streams."""
        reads, writes = tuple(map(self._use, operation.reads)), tuple(map(self._use, operation.writes))
        self.entries.append(Launch(operation.kind, operation.what, reads, writes, outcome))

    def _use(self, buffer: Buffer) -> Use:
        block = buffer.block
        number = self._numbers.get(block)
        if number is None:
            number = self._numbers[block] = self._allocations
            self._allocations += 1
        return Use(number, buffer.address - block.address, str(buffer.type))

    def diff(self, other: LaunchTrace) -> str:
        """A unified diff of the two traces' text; empty where they are equal."""
        return "\n".join(difflib.unified_diff(str(self).splitlines(), str(other).splitlines(), lineterm="", n=2))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LaunchTrace) and self.entries == other.entries

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries))
