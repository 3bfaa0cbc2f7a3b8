"""Arenas: values lie where the plan says, and a debug arena sees who steps outside."""

from __future__ import annotations

import gc

import numpy as np

from rlx.driver import DeviceArena, Interval, plan_apart, plan_memory
from rlx.errors import BufferFreed, BufferMismatch, PlanError, RedZoneError
from rlx.ir import TensorType
from rlx.ir.dtypes import f32, u8
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect, expect_bits, expect_equal, expect_raises

SUITE = Suite("arena")
VALUES = [Interval("a", 0, 2, 256), Interval("b", 1, 3, 512), Interval("c", 2, 4, 256)]


@SUITE.case
def values_lie_at_their_offsets_in_one_allocation(subject: Subject) -> None:
    plan = plan_memory(VALUES)
    gc.collect()
    before = subject.memory.statistics
    with DeviceArena(subject.device, plan) as arena:
        during = subject.memory.statistics
        expect_equal((during.live - before.live, during.in_use - before.in_use), (1, plan.size), "blocks and bytes")
        for interval in VALUES:
            buffer = arena.value(interval.name, TensorType((interval.size // 4,), f32))
            expect_equal(
                buffer.address - arena.address, plan.offsets[interval.name], f"the offset of {interval.name!r}"
            )
            expect_equal(buffer.device, subject.device, "the device of a value")


@SUITE.case
def values_alive_together_do_not_disturb_each_other(subject: Subject) -> None:
    rng = subject.rng
    intervals = [
        Interval(f"v{i}", start, start + int(rng.integers(1, 6)), int(rng.integers(1, 500)))
        for i, start in enumerate(int(s) for s in rng.integers(0, 12, 30))
    ]
    plan = plan_memory(intervals)
    with DeviceArena(subject.device, plan) as arena:
        for step in range(18):
            alive = [(i, v) for i, v in enumerate(intervals) if v.start <= step < v.end]
            buffers = {i: arena.value(v.name, TensorType((v.size,), u8)) for i, v in alive}
            for i, v in alive:
                if v.start == step:
                    buffers[i].fill(i)
            for i, v in alive:
                expect_bits(subject.read(buffers[i]), np.full(v.size, i, np.uint8), f"{v.name!r} at step {step}")


@SUITE.case
def a_debug_arena_names_the_value_that_was_overrun(subject: Subject) -> None:
    with DeviceArena(subject.device, plan_apart(VALUES), debug=True) as arena:
        plan = arena.plan
        assert plan is not None
        arena.check()
        for interval in VALUES:
            arena.value(interval.name, TensorType((interval.size,), u8)).fill(1)
        arena.check()
        end = plan.offsets["a"] + plan.sizes["a"]
        arena.buffer(end + 2, TensorType((1,), u8)).fill(1)
        expect_raises(RedZoneError, arena.check, "'a'", "past the end")


@SUITE.case
def a_debug_arena_poisons_what_was_not_written(subject: Subject) -> None:
    with DeviceArena(subject.device, plan_memory(VALUES), debug=True) as arena:
        value = arena.value("b", TensorType((128,), f32))
        expect(np.isnan(subject.read(value)).all(), "a fresh value of floats is not NaN")
        value.fill(1)
        arena.poison()
        expect(np.isnan(subject.read(value)).all(), "poison() leaves what was written")


@SUITE.case
def closing_ends_what_was_handed_out(subject: Subject) -> None:
    arena = DeviceArena(subject.device, 1024)
    buffer = arena.buffer(64, TensorType((4,), f32))
    arena.close()
    arena.close()
    expect_raises(BufferFreed, lambda: buffer.fill(0))
    expect_raises(BufferFreed, lambda: arena.address)


@SUITE.case
def what_does_not_fit_is_refused(subject: Subject) -> None:
    with DeviceArena(subject.device, plan_memory(VALUES)) as arena:
        expect_raises(BufferMismatch, lambda: arena.value("a", TensorType((1,), f32)), "'a'")
        expect_raises(PlanError, lambda: arena.value("d", TensorType((1,), f32)), "'d'")
        expect_raises(BufferMismatch, lambda: arena.buffer(arena.nbytes - 2, TensorType((1,), f32)))
