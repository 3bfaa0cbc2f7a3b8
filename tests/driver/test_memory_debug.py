"""Debugging a memory: red zones, poison, and where what is live was allocated."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from rlx.driver import HOST, Buffer, Device, DeviceArena, DeviceMemory, HostMemory, device_memory, track_allocations
from rlx.errors import RedZoneError
from rlx.ir.dtypes import f32, u8
from rlx.ir.types import TensorType

FOUR = TensorType((4,), f32)


@pytest.fixture
def memory() -> DeviceMemory:
    memory = DeviceMemory(HOST, HostMemory())
    memory.set_debug(True)
    return memory


@pytest.fixture
def debugged(opaque: Device) -> Iterator[Device]:
    device_memory(opaque).set_debug(True)
    yield opaque
    device_memory(opaque).set_debug(False)


def test_fresh_bytes_are_poison_on_every_device(debugged: Device) -> None:
    buffer = Buffer.empty(FOUR, debugged)
    assert np.isnan(buffer.to(HOST).numpy()).all()
    device_memory(debugged).check()


@pytest.mark.parametrize(
    ("offset", "words"), [(100, "0 bytes past the end"), (103, "3 bytes past"), (-5, "5 bytes before")]
)
def test_a_write_beside_a_block_is_named_once(memory: DeviceMemory, offset: int, words: str) -> None:
    block = memory.allocate(100, whose="the mask")
    memory.check()
    memory.backend.fill(block.address + offset, b"\0", 1)
    with pytest.raises(RedZoneError, match=f"{words}.* of the mask of 100 bytes"):
        memory.check()
    memory.check()


def test_a_write_beside_a_block_that_ended_is_found_by_the_next_allocation(memory: DeviceMemory) -> None:
    block = memory.allocate(100, whose="the mask")
    memory.backend.fill(block.address + 100, b"\0", 1)
    del block
    with pytest.raises(RedZoneError, match="the mask"):
        memory.allocate(10)


def test_a_write_after_the_end_is_named(memory: DeviceMemory) -> None:
    block = memory.allocate(100, whose="the old cache")
    address = block.address
    del block
    memory.check()
    memory.backend.fill(address + 7, b"\0", 2)
    with pytest.raises(
        RedZoneError, match="the old cache of 100 bytes was written after it was freed: 2 bytes, from byte 7"
    ):
        memory.check()


def test_freed_bytes_stay_out_of_use_for_a_while_and_not_for_ever(memory: DeviceMemory) -> None:
    seen: set[int] = set()
    for _ in range(20):
        block = memory.allocate(64)
        assert block.address not in seen
        seen.add(block.address)
        del block
    for _ in range(200):
        memory.allocate(64)
    assert memory.statistics.live <= 65


def test_a_full_memory_takes_back_what_was_kept_out_of_use(memory: DeviceMemory) -> None:
    memory.set_limit(3000)
    for _ in range(10):
        memory.allocate(1000)


def test_alignment_holds_between_red_zones(memory: DeviceMemory) -> None:
    for alignment in (1, 64, 4096):
        assert memory.allocate(10, alignment).address % alignment == 0


def test_blocks_made_before_during_and_after_debugging_end_alike() -> None:
    memory = DeviceMemory(HOST, HostMemory())
    blocks = [memory.allocate(100)]
    memory.set_debug(True)
    blocks.append(memory.allocate(100))
    memory.set_debug(False)
    blocks.append(memory.allocate(100))
    blocks.clear()
    assert memory.statistics.in_use == memory.statistics.live == 0
    assert memory.trim() > 0


def test_a_live_allocation_is_named_with_its_line(opaque: Device) -> None:
    before = Buffer.empty(FOUR)
    with track_allocations() as allocations:
        Buffer.empty(FOUR).free()
        kept = Buffer.empty(TensorType((100,), u8), opaque, name="the cache")
        line = sys._getframe().f_lineno - 1
        arena = DeviceArena(HOST, 5000)
    after = Buffer.empty(FOUR)
    gc.collect()
    largest, second = allocations.live
    assert (largest.nbytes, largest.whose) == (5000, "an arena")
    assert (second.device, second.nbytes, second.whose) == ("opaque:0", 100, "the cache")
    assert second.where == f"{__file__}:{line}"
    text = str(allocations)
    assert text.startswith("2 live allocations, 5100 bytes\n") and f"the cache, allocated at {__file__}:{line}" in text
    kept.free()
    arena.close()
    assert allocations.live == [] and not before.is_freed and not after.is_freed


def test_trackers_overlap_and_forget_what_ended() -> None:
    with track_allocations() as outer:
        first = Buffer.empty(FOUR)
        with track_allocations() as inner:
            second = Buffer.empty(FOUR)
            for _ in range(3000):
                Buffer.empty(FOUR)
        assert len(inner._noted) < 2000
    assert (len(outer.live), len(inner.live)) == (2, 1)
    first.free()
    second.free()
