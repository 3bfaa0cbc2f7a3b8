"""Arenas: one allocation, buffers inside it, and the zones between them."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from rlx.driver import HOST, Buffer, Device, DeviceArena, Interval, device_memory, plan_apart, plan_memory
from rlx.errors import BufferFreed, BufferMismatch, NotOwner, PlanError, RedZoneError
from rlx.ir.dtypes import f16, f32, i64, u8
from rlx.ir.types import TensorType

VALUES = [Interval("q", 0, 2, 256), Interval("k", 1, 3, 100), Interval("v", 2, 4, 0)]
Q, K = TensorType((64,), f32), TensorType((25,), f32)


def test_buffers_lie_where_they_are_asked_and_share_one_allocation() -> None:
    before = device_memory(HOST).statistics.allocations
    with DeviceArena(HOST, 4096) as arena:
        first, second = arena.buffer(0, Q), arena.buffer(128, Q)
        assert device_memory(HOST).statistics.allocations == before + 1
        assert (first.address, second.address) == (arena.address, arena.address + 128)
        first.fill(1)
        second.fill(2)
        assert first.numpy().tolist() == [1.0] * 32 + [2.0] * 32
        assert arena.address % 64 == 0


def test_values_of_a_plan_are_found_by_name() -> None:
    plan = plan_memory(VALUES)
    with DeviceArena(HOST, plan) as arena:
        assert arena.nbytes == plan.size
        assert arena.value("k", K).address == arena.address + plan.offsets["k"]
        with pytest.raises(PlanError, match="'w'"):
            arena.value("w", K)
        with pytest.raises(BufferMismatch, match="'q' has 256 bytes"):
            arena.value("q", K)


@pytest.mark.parametrize("offset", [-4, 4096 - 255, 4096, 1 << 40])
def test_a_buffer_that_does_not_fit_is_refused(offset: int) -> None:
    with DeviceArena(HOST, 4096) as arena, pytest.raises(BufferMismatch, match="does not fit into 4096"):
        arena.buffer(offset, Q)


def test_closing_ends_every_buffer_and_gives_the_memory_back() -> None:
    before = device_memory(HOST).statistics.in_use
    arena = DeviceArena(HOST, 1 << 20, prefault=True)
    buffer, kept = arena.buffer(0, Q), arena.buffer(256, Q).numpy()
    assert device_memory(HOST).statistics.in_use == before + (1 << 20)
    with pytest.raises(NotOwner):
        buffer.free()
    arena.close()
    arena.close()
    for use in (lambda: buffer.address, lambda: arena.address, lambda: arena.buffer(0, Q)):
        with pytest.raises(BufferFreed, match="an arena"):
            use()
    assert kept.shape == (64,)
    assert device_memory(HOST).statistics.in_use == before + (1 << 20)  # under the NumPy view
    del kept
    assert device_memory(HOST).statistics.in_use == before


def test_prefault_touches_every_page_before_it_is_used() -> None:
    nbytes, faults = 256 << 20, {}
    for prefault in (False, True):
        device_memory(HOST).trim()
        with DeviceArena(HOST, nbytes, prefault=prefault) as arena:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            arena.buffer(0, TensorType((nbytes,), u8)).fill(1)
            faults[prefault] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults[True] < faults[False] / 4, faults


@pytest.mark.parametrize("place", ["cpu", "opaque"])
def test_debug_values_start_as_poison_that_reads_as_nan(place: str, opaque: Device) -> None:
    with DeviceArena(Device(place), plan_apart(VALUES), debug=True) as arena:
        q = arena.value("q", Q)
        assert np.isnan(q.to(HOST).numpy()).all()
        assert np.isnan(q.view(f16).to(HOST).numpy()).all()
        assert (q.view(i64).to(HOST).numpy() == -1).all()
        q.fill(0)
        arena.poison()
        assert np.isnan(q.to(HOST).numpy()).all()
        arena.check()


@pytest.mark.parametrize("place", ["cpu", "opaque"])
@pytest.mark.parametrize(
    ("at", "count", "why"),
    [
        (lambda p: p.offsets["q"] + 256, 1, r"1 bytes .* 0 bytes past the end of value 'q'"),
        (lambda p: p.offsets["k"] + 103, 5, r"5 bytes .* 3 bytes past the end of value 'k'"),
        (lambda p: p.offsets["q"] - 1, 1, r"1 bytes before the start of value 'q'"),
        (lambda p: p.offsets["k"] - 2, 1, r"2 bytes before the start of value 'k'"),
        (lambda p: p.size - 1, 1, r"past the end of value"),
    ],
)
def test_a_write_outside_every_value_names_the_nearest(place: str, at, count: int, why: str, opaque: Device) -> None:
    plan = plan_apart(VALUES)
    with DeviceArena(Device(place), plan, debug=True) as arena:
        arena.value("q", Q).fill(1)
        arena.value("k", K).fill(1)
        arena.check()
        arena.buffer(at(plan), TensorType((count,), u8)).fill(7)
        with pytest.raises(RedZoneError, match=why):
            arena.check()


def test_an_arena_without_a_plan_learns_its_values_as_they_are_named() -> None:
    with DeviceArena(HOST, 1024, debug=True) as arena:
        state = arena.buffer(256, Q, name="state")
        assert np.isnan(state.numpy()).all()
        state.fill(0)
        arena.check()
        arena.buffer(248, TensorType((8,), u8)).fill(0)
        with pytest.raises(RedZoneError, match="before the start of value 'state'"):
            arena.check()


def test_without_debug_nothing_is_checked() -> None:
    with DeviceArena(HOST, plan_apart(VALUES)) as arena:
        arena.buffer(0, TensorType((arena.nbytes,), u8)).fill(9)
        arena.check()


def test_an_empty_arena_works() -> None:
    with DeviceArena(HOST, 0, debug=True) as arena:
        arena.check()
        assert arena.buffer(0, TensorType((0,), f32)).numpy().shape == (0,)


def test_buffers_of_an_arena_keep_it_alive() -> None:
    buffer = DeviceArena(HOST, 4096).buffer(0, Q)
    buffer.fill(3)
    assert isinstance(buffer, Buffer)
    assert buffer.numpy().sum() == 192
