"""Lowered programs: kernels applied to virtual buffers, before memory is planned.

A `LoweredProgram` has two step lists. `setup` runs once when weights are bound: it computes all that depends on
parameters and constants alone (folded scales, packed matrices). `steps` runs at each call. A `VirtualBuffer` is so
many bytes with a lifetime still to be planned; operands of a step are byte offsets into virtual buffers, so a reshape
or a contiguous slice costs nothing. Control flow nests steps; the branch not taken does not run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from rlx.codegen.kernel import Kernel
from rlx.ir.location import UNKNOWN, Location
from rlx.ir.types import TensorType

BufferKind = Literal["input", "output", "parameter", "constant", "persistent", "temporary"]


@dataclass(frozen=True, eq=False)
class VirtualBuffer:
    """Bytes to be placed.

    kind: input, output and parameter live in the caller's memory; constant carries `data`; persistent is written by
    `setup` and read by `steps`; temporary lives inside one run.
    index: for input, output and parameter: which one, in the graph's order.
    """

    name: str
    nbytes: int
    kind: BufferKind
    index: int = -1
    data: bytes = b""


@dataclass(frozen=True)
class Operand:
    """A place in a virtual buffer."""

    buffer: VirtualBuffer
    byte_offset: int = 0


@dataclass(frozen=True, eq=False)
class Launch:
    """Run one kernel; operands match `kernel.args` in order.

    in_place: (written, read) places among the operands: the written one may have the memory of the read one, whose
    elements it then overwrites one by one, if the kernel is given one argument for both.
    """

    kernel: Kernel
    operands: tuple[Operand, ...]
    reads: tuple[VirtualBuffer, ...]
    writes: tuple[VirtualBuffer, ...]
    location: Location = UNKNOWN
    sources: tuple[str, ...] = ()  # names of the graph ops fused into it, in order
    in_place: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Copy:
    """Copy nbytes; source and destination do not overlap."""

    source: Operand
    destination: Operand
    nbytes: int
    location: Location = UNKNOWN


@dataclass(frozen=True, eq=False)
class Branch:
    """if the bool byte at `predicate`: then, else: orelse. Several arms through nesting."""

    predicate: Operand
    then: tuple[Step, ...]
    orelse: tuple[Step, ...]
    location: Location = UNKNOWN


@dataclass(frozen=True, eq=False)
class Repeat:
    """loop: test; stop unless the bool byte at `predicate`; body. `test` runs before each turn."""

    test: tuple[Step, ...]
    predicate: Operand
    body: tuple[Step, ...]
    location: Location = UNKNOWN


Step = Launch | Copy | Branch | Repeat


def walk_steps(steps: Iterable[Step]) -> Iterable[Launch | Copy]:
    """Every launch and copy, nested ones included, in program order."""
    for step in steps:
        if isinstance(step, Launch | Copy):
            yield step
        elif isinstance(step, Branch):
            yield from walk_steps(step.then)
            yield from walk_steps(step.orelse)
        else:
            yield from walk_steps(step.test)
            yield from walk_steps(step.body)


@dataclass(frozen=True, eq=False)
class LoweredProgram:
    """All that is left to do: place the buffers, emit the kernels, walk the steps."""

    name: str
    inputs: dict[str, TensorType]
    outputs: dict[str, TensorType]
    parameters: dict[str, TensorType]
    setup: tuple[Step, ...]
    steps: tuple[Step, ...]
    dispatch: tuple[tuple[str, str, str], ...] = ()  # (composite, location, "native" | "inlined")
    in_inputs: dict[str, str] = field(default_factory=dict)  # output -> the donated input in whose memory it lies
    notes: dict[str, str] = field(default_factory=dict)
