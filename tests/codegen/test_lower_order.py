"""Steps in the order of smallest peak: every buffer still gets and gives what it did in program order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from reference_templates import ReferenceTemplates

from rlx.codegen.lower import lower
from rlx.codegen.lower.order import order_steps
from rlx.codegen.program import Branch, Copy, Launch, Operand, Repeat, Step, VirtualBuffer
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.passes import optimize

#: What is written into the bytes of a predicate decides the branch: 1 in every input.
FIRST, SECOND = 1, 2


def _random_steps(rng: np.random.Generator, count: int) -> list[Step]:
    """Copies between buffers that are written again and again, some of them in branches."""
    inputs = [VirtualBuffer(f"in{i}", 64 * (1 + i), "input", i) for i in range(4)]
    outputs = [VirtualBuffer(f"out{i}", 64, "output", i) for i in range(4)]
    scratch = [VirtualBuffer(f"t{i}", 64 * int(rng.integers(1, 40)), "temporary") for i in range(count // 2)]
    known = list(inputs)

    def copy() -> Copy:
        source = known[int(rng.integers(max(0, len(known) - 8), len(known)))]
        choices = outputs if rng.random() < 0.15 else scratch
        destination = choices[int(rng.integers(len(choices)))]
        if destination is source:
            destination = outputs[0] if source is not outputs[0] else outputs[1]
        known.append(destination)
        return Copy(Operand(source), Operand(destination), min(source.nbytes, destination.nbytes))

    steps: list[Step] = []
    for _ in range(count):
        if rng.random() < 0.1:
            predicate = Operand(known[int(rng.integers(len(known)))])
            steps.append(Branch(predicate, (copy(), copy()), (copy(),)))
        else:
            steps.append(copy())
    return steps


def _run(steps: Sequence[Step], memory: dict[VirtualBuffer, np.ndarray]) -> None:
    for step in steps:
        if isinstance(step, Copy):
            source = _bytes(memory, step.source.buffer)
            _bytes(memory, step.destination.buffer)[: step.nbytes] = source[: step.nbytes]
        elif isinstance(step, Branch):
            _run(step.then if _bytes(memory, step.predicate.buffer)[0] == FIRST else step.orelse, memory)


def _bytes(memory: dict[VirtualBuffer, np.ndarray], buffer: VirtualBuffer) -> np.ndarray:
    if buffer not in memory:
        fill = [FIRST, SECOND][buffer.index % 2] if buffer.kind == "input" else 0
        memory[buffer] = np.full(buffer.nbytes, fill + 4 * max(buffer.index, 0), np.uint8)
        memory[buffer][0] = fill
    return memory[buffer]


def _peak(steps: Sequence[Step]) -> int:
    """Bytes of the temporary buffers alive at once, by the first and the last step that names each."""
    named = [set(_names(step)) for step in steps]
    buffers = set().union(*named)
    spans = {b: [i for i, names in enumerate(named) if b in names] for b in buffers if b.kind == "temporary"}
    return max(sum(b.nbytes for b, at in spans.items() if at[0] <= i <= at[-1]) for i in range(len(steps)))


def _names(step: Step) -> list[VirtualBuffer]:
    if isinstance(step, Copy):
        return [step.source.buffer, step.destination.buffer]
    if isinstance(step, Launch):
        return [*step.reads, *step.writes]
    nested = (*step.test, *step.body) if isinstance(step, Repeat) else (*step.then, *step.orelse)
    return [step.predicate.buffer, *(b for inner in nested for b in _names(inner))]


def test_ordered_copies_leave_in_every_output_what_program_order_leaves() -> None:
    moved = 0
    for seed in range(150):
        steps = _random_steps(np.random.default_rng(seed), 24)
        ordered = order_steps(steps)
        moved += list(ordered) != steps
        assert sorted(map(id, ordered)) == sorted(map(id, steps))
        before: dict[VirtualBuffer, np.ndarray] = {}
        after: dict[VirtualBuffer, np.ndarray] = {}
        _run(steps, before)
        _run(ordered, after)
        for buffer, contents in before.items():
            if buffer.kind == "output":
                np.testing.assert_array_equal(after[buffer], contents, err_msg=f"seed {seed}, {buffer.name}")
    assert moved > 50


@pytest.mark.parametrize("seed", range(10))
def test_no_order_peaks_above_program_order(seed: int) -> None:
    steps = [s for s in _random_steps(np.random.default_rng(500 + seed), 40) if isinstance(s, Copy)]
    assert _peak(order_steps(steps)) <= _peak(steps)


def test_branches_written_side_by_side_need_the_memory_of_one() -> None:
    b = GraphBuilder()
    inputs = [b.input(f"x{i}", TensorType((64, 32), f32)) for i in range(4)]  # of one, products would be joined
    wide = [
        b.emit(
            "dot_general", x, b.parameter(f"w{i}", np.ones((32, 512), np.float32)), lhs_contract=(1,), rhs_contract=(0,)
        )
        for i, x in enumerate(inputs)
    ]
    narrow = [
        b.emit(
            "dot_general", v, b.parameter(f"n{i}", np.ones((512, 8), np.float32)), lhs_contract=(1,), rhs_contract=(0,)
        )
        for i, v in enumerate(wide)
    ]
    total = narrow[0]
    for value in narrow[1:]:
        total = b.binary("add", total, value)
    program = lower(optimize(b.build([total])), ReferenceTemplates())
    one = 64 * 512 * 4
    assert one <= _peak(program.steps) < 2 * one
