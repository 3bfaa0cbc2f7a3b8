"""Memory of setup: what only setup's steps touch need not outlive them.

Static values lie in persistent memory, since runs may read them. Those that no run reads (weights in another dtype or
order, before they are packed) become temporaries of setup, so that no second copy of the weights stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from rlx.codegen.program import Branch, Copy, Launch, Operand, Repeat, Step, VirtualBuffer


def release_after_setup(setup: Sequence[Step], steps: Sequence[Step]) -> tuple[Step, ...]:
    """`setup` with temporary buffers for the persistent ones that no step of `steps` touches."""
    needed = set(touched(steps))
    to: dict[VirtualBuffer, VirtualBuffer] = {}
    for buffer in dict.fromkeys(touched(setup)):
        if buffer.kind == "persistent" and buffer not in needed:
            to[buffer] = VirtualBuffer(buffer.name, buffer.nbytes, "temporary")
    return tuple(renamed(step, to) for step in setup) if to else tuple(setup)


def touched(steps: Iterable[Step]) -> Iterator[VirtualBuffer]:
    """Every buffer that the steps name, with repeats."""
    for step in steps:
        if isinstance(step, Launch):
            yield from (o.buffer for o in step.operands)
        elif isinstance(step, Copy):
            yield from (step.source.buffer, step.destination.buffer)
        elif isinstance(step, Branch):
            yield step.predicate.buffer
            yield from touched((*step.then, *step.orelse))
        else:
            yield step.predicate.buffer
            yield from touched((*step.test, *step.body))


def renamed(step: Step, to: Mapping[VirtualBuffer, VirtualBuffer]) -> Step:
    """The step with other buffers in the place of some, everywhere within it."""

    def operand(o: Operand) -> Operand:
        return Operand(to[o.buffer], o.byte_offset) if o.buffer in to else o

    def nested(steps: Iterable[Step]) -> tuple[Step, ...]:
        return tuple(renamed(s, to) for s in steps)

    if isinstance(step, Launch):
        reads, writes = (tuple(to.get(b, b) for b in buffers) for buffers in (step.reads, step.writes))
        return replace(step, operands=tuple(map(operand, step.operands)), reads=reads, writes=writes)
    if isinstance(step, Copy):
        return replace(step, source=operand(step.source), destination=operand(step.destination))
    if isinstance(step, Branch):
        return replace(step, predicate=operand(step.predicate), then=nested(step.then), orelse=nested(step.orelse))
    assert isinstance(step, Repeat)
    return replace(step, predicate=operand(step.predicate), test=nested(step.test), body=nested(step.body))
