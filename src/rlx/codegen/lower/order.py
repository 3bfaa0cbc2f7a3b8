"""The order of a lowered program's steps: one whose temporary memory peaks no higher than in program order.

Steps are moved, never changed. A step stays after those that wrote what it reads or writes, and after those that read
what it writes; a branch or a loop moves as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rlx.codegen.program import Copy, Launch, Repeat, Step, VirtualBuffer
from rlx.passes.schedule import Work, order_work, peak

#: Backends place buffers at such multiples; only sums of sizes depend on it.
_ALIGNMENT = 64


def order_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """`steps` in the order of smallest peak found; as they are where none is smaller."""
    return tuple(steps[i] for i in order_work(_work(steps)))


@dataclass(frozen=True)
class _Access:
    """What a step reads and writes."""

    reads: dict[VirtualBuffer, None]
    writes: dict[VirtualBuffer, None]


def _accesses(step: Step) -> Iterator[_Access]:
    """Of a launch or copy its own; of control flow the tests' and the nested steps', in their order."""
    if isinstance(step, Launch):
        yield _Access(dict.fromkeys(step.reads), dict.fromkeys(step.writes))
    elif isinstance(step, Copy):
        yield _Access({step.source.buffer: None}, {step.destination.buffer: None})
    else:
        test, body = (step.test, step.body) if isinstance(step, Repeat) else ((), (*step.then, *step.orelse))
        for nested in test:
            yield from _accesses(nested)
        yield _Access({step.predicate.buffer: None}, {})
        for nested in body:
            yield from _accesses(nested)


def _merged(accesses: Iterable[_Access]) -> _Access:
    merged = _Access({}, {})
    for access in accesses:
        merged.reads.update(access.reads)
        merged.writes.update(access.writes)
    return merged


def _work(steps: Sequence[Step]) -> Work:
    accesses = [_merged(_accesses(step)) for step in steps]
    touched = [dict.fromkeys((*access.reads, *access.writes)) for access in accesses]
    users: dict[VirtualBuffer, int] = {}
    for buffers in touched:
        for buffer in buffers:
            users[buffer] = users.get(buffer, 0) + 1
    own: list[list[VirtualBuffer]] = []  # a buffer of one step alone is inside it, wherever that runs
    shared: dict[VirtualBuffer, int] = {}
    for buffers in touched:
        own.append([b for b in buffers if b.kind == "temporary" and users[b] == 1])
        for b in buffers:
            if b.kind == "temporary" and users[b] > 1:
                shared.setdefault(b, len(shared))
    return Work(
        after=_dependences(accesses),
        touches=[[shared[b] for b in buffers if b in shared] for buffers in touched],
        sizes=[_bytes(buffer) for buffer in shared],
        inside=[_peak_inside(step, buffers) for step, buffers in zip(steps, own, strict=True)],
    )


def _peak_inside(step: Step, own: Sequence[VirtualBuffer]) -> int:
    """The most bytes of `own` alive at once while the step runs its nested ones, in their order."""
    leaves = list(_accesses(step))
    index = {buffer: i for i, buffer in enumerate(own)}
    touches = [[index[b] for b in {**leaf.reads, **leaf.writes} if b in index] for leaf in leaves]
    count = len(leaves)
    return peak(Work([()] * count, touches, [_bytes(buffer) for buffer in own], [0] * count), range(count))


def _bytes(buffer: VirtualBuffer) -> int:
    return -(-buffer.nbytes // _ALIGNMENT) * _ALIGNMENT


def _dependences(accesses: Sequence[_Access]) -> list[list[int]]:
    """For each step the earlier ones that it must follow."""
    writer: dict[VirtualBuffer, int] = {}
    readers: dict[VirtualBuffer, list[int]] = {}
    found: list[list[int]] = []
    for position, access in enumerate(accesses):
        earlier: dict[int, None] = {}
        for buffer in (*access.reads, *access.writes):
            if buffer in writer:
                earlier[writer[buffer]] = None
        for buffer in access.writes:
            earlier.update(dict.fromkeys(readers.get(buffer, ())))
        found.append(sorted(earlier))
        for buffer in access.reads:
            readers.setdefault(buffer, []).append(position)
        for buffer in access.writes:
            writer[buffer] = position
            readers[buffer] = []
    return found
