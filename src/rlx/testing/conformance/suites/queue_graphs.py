"""Random queue graphs: fills, copies and runs on several lanes, in every mode, against NumPy and the reference device.

`random_script` draws a script in which every two commands that touch common bytes, and one of them writes, are ordered:
by their lane, or by a semaphore. So there is one right end, and whatever a device makes of the freedom that is left,
it must come there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from rlx.driver import Buffer, CommandStream, Device, Event, Executable, Operand
from rlx.driver.command import Command, Run, Signal, Wait, reads_of, writes_of
from rlx.errors import DeviceError
from rlx.ir import TensorType
from rlx.ir.dtypes import f32
from rlx.testing.conformance.blocking import SOON
from rlx.testing.conformance.case import Programs, Subject, Suite
from rlx.testing.conformance.expect import expect, expect_bits, expect_equal
from rlx.testing.conformance.graphs import add, affine, swap
from rlx.testing.conformance.script import MODES, Player, Script, perform, simulate

SUITE = Suite("queue_graphs")
LANES, SLOTS = 3, 5
SMALL = TensorType((8,), f32)
WHOLE = TensorType((24,), f32)


def random_script(rng: np.random.Generator, length: int) -> Script:
    """`length` commands on three lanes over five buffers, with the semaphores that order them."""
    script = Script()
    slots = [script.slot(f"s{i}", rng.integers(-3, 4, WHOLE.sizes).astype(np.float32)) for i in range(SLOTS)]
    programs = [
        (script.program(affine(SMALL), lambda x: (2 * x + 1,)), 1, 1),
        (script.program(add(SMALL), lambda x, y: (x + y,)), 2, 1),
        (script.program(swap(SMALL), lambda x, y: (x - y, x * y)), 2, 2),
    ]
    ordered: list[tuple[int, Command]] = []
    clocks = [0] * LANES  # the last value that each lane signalled

    def part() -> Operand:
        return slots[rng.integers(SLOTS)].part(32 * int(rng.integers(3)), SMALL)

    for _ in range(length):
        lane = int(rng.integers(LANES))
        kind = rng.integers(4)
        if kind == 0:
            script.fill(part() if rng.integers(2) else slots[rng.integers(SLOTS)], int(rng.integers(-3, 4)), lane=lane)
        elif kind == 1:
            target, source = part(), part()
            if not target.overlaps(source):
                script.copy(target, source, lane=lane)
        else:
            key, inputs, outputs = programs[rng.integers(len(programs))]
            operands = _apart([part() for _ in range(3 * (inputs + outputs))], inputs, outputs)
            if operands is not None:
                script.run(key, *operands, lane=lane)
        _order(script, ordered, clocks)
    return script


def _apart(found: list[Operand], inputs: int, outputs: int) -> tuple[list[Operand], list[Operand]] | None:
    """The first operands of which no output overlaps another."""
    reads = found[:inputs]
    writes: list[Operand] = []
    for operand in found[inputs:]:
        if len(writes) < outputs and not any(operand.overlaps(o) for o in (*reads, *writes)):
            writes.append(operand)
    return (reads, writes) if len(writes) == outputs else None


def _order(script: Script, ordered: list[tuple[int, Command]], clocks: list[int]) -> None:
    """Put waits before the last command and a signal behind it, so that it follows what it depends on."""
    if len(script.steps) == len(ordered):
        return
    lane, command = script.steps.pop()
    needed: dict[int, int] = {}
    count = [0] * LANES
    for at, earlier in ordered:
        if isinstance(earlier, Signal):
            count[at] = earlier.value
        elif at != lane and _conflict(earlier, command):
            needed[at] = count[at] + 1  # the signal right behind it
    for at, value in sorted(needed.items()):
        script.wait(f"lane{at}", value, lane=lane)
    script.steps.append((lane, command))
    clocks[lane] += 1
    script.signal(f"lane{lane}", clocks[lane], lane=lane)
    ordered[:] = script.steps


def _conflict(one: Command, two: Command) -> bool:
    if isinstance(one, Signal | Wait) or isinstance(two, Signal | Wait):
        return False
    return any(
        a.overlaps(b)
        for first, second in ((one, two), (two, one))
        for a in writes_of(first)
        for b in (*writes_of(second), *reads_of(second))
    )


class _Culprit:
    """A program that fails."""

    def __init__(self, executable: Executable) -> None:
        self.inputs, self.outputs = executable.inputs, executable.outputs

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        raise ZeroDivisionError("on purpose")


def _spoil(script: Script, rng: np.random.Generator) -> tuple[int, dict[int, int]]:
    """Let one run of the script fail: (its lane, lane -> how many of its commands are begun, where it is sure to fail).

    A lane is sure to fail behind the culprit, and behind each wait for a signal that does not come because of it.
    """
    runs = [at for at, (_, command) in enumerate(script.steps) if isinstance(command, Run)]
    at = int(rng.choice(runs))
    lane, command = script.steps[at]
    assert isinstance(command, Run)
    script.graphs["culprit"] = script.graphs[command.key]
    script.steps[at] = lane, Run("culprit", command.inputs, command.outputs)
    issued, begun, missing = [0] * LANES, dict[int, int](), dict[str, int]()
    for step, (lane_of, command) in enumerate(script.steps):
        issued[lane_of] += 1
        if lane_of in begun:
            if isinstance(command, Signal):
                missing.setdefault(command.semaphore, command.value)
        elif step == at or (isinstance(command, Wait) and command.value >= missing.get(command.semaphore, 2**64)):
            begun[lane_of] = issued[lane_of]
    return lane, begun


def _drained(told: dict[str, str], stream: CommandStream) -> None:
    try:
        stream.record(Event("the end of the script")).wait(SOON)
    except DeviceError as error:
        told[stream.name] = str(error)


@SUITE.in_modes(("direct", "recorded", "loaded"))
def a_failure_reaches_all_that_is_behind_it_on_every_lane(subject: Subject) -> None:
    for _ in range(4):
        script = random_script(subject.rng, 25)
        lane, begun = _spoil(script, subject.rng)
        player = Player(subject, script)
        player.programs["culprit"] = _Culprit(player.programs["culprit"])  # type: ignore[assignment]
        told: dict[str, str] = {}
        player.play(drain=partial(_drained, told))
        for each, count in begun.items():
            outcomes = [entry.outcome for entry in player.traces[each].entries]
            expect_equal(outcomes[count:], ["skipped"] * len(outcomes[count:]), f"what became of lane {each} behind it")
            expect(f"lane {each}" in told, f"lane {each} waited for what had failed, and did not fail")
        expect_equal(player.traces[lane].entries[begun[lane] - 1].what, "culprit", "the last that the lane began")
        for name, error in told.items():
            expect("ZeroDivisionError: on purpose" in error, f"{name} failed for another reason: {error}")


@SUITE.in_modes(MODES)
def random_work_on_three_lanes_comes_to_its_one_right_end(subject: Subject) -> None:
    reference = Programs(Device("reference"))
    for _ in range(4):
        script = random_script(subject.rng, 25)
        expected = simulate(script)
        oracle = Subject(reference, "oracle")
        with oracle.ends:
            on_reference = perform(oracle, script)
        got = perform(subject, script)
        for name, content in expected.items():
            expect_bits(on_reference[name], content, f"{name!r} on the reference device")
            expect_bits(got[name], content, f"{name!r}")
    reference.close()
