"""The account of a device's memory, and what out-of-memory says."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from rlx.driver import HOST, Buffer, Device, DeviceMemory, HostMemory, device_memory
from rlx.errors import OutOfMemory
from rlx.ir.dtypes import u8
from rlx.ir.types import TensorType
from rlx.options import OptionError


def _bytes(count: int) -> TensorType:
    return TensorType((count,), u8)


@pytest.fixture
def memory() -> DeviceMemory:
    """An account of its own over real host memory."""
    return DeviceMemory(Device("cpu"), HostMemory())


@pytest.fixture
def limited(opaque: Device) -> Iterator[DeviceMemory]:
    memory = device_memory(opaque)
    yield memory
    memory.set_limit(None)


def test_bytes_in_use_peak_and_counts_follow_blocks(memory: DeviceMemory) -> None:
    first, second = memory.allocate(1000), memory.allocate(3000)
    stats = memory.statistics
    assert (stats.in_use, stats.peak, stats.live, stats.allocations) == (4000, 4000, 2, 2)
    del second
    third = memory.allocate(500)
    stats = memory.statistics
    assert (stats.in_use, stats.peak, stats.live, stats.allocations) == (1500, 4000, 2, 3)
    memory.reset_peak()
    assert memory.statistics.peak == 1500
    del first, third
    assert memory.statistics.in_use == memory.statistics.live == 0


def test_blocks_go_back_to_the_device_when_the_memory_is_trimmed(opaque: Device) -> None:
    host = HostMemory()
    memory = DeviceMemory(HOST, host)
    blocks = [memory.allocate(size) for size in (10, 3 << 20)]
    assert len(host._owners) == 2
    blocks.clear()
    assert len(host._owners) == 2
    assert memory.trim() == memory.statistics.peak_reserved == (2 << 20) + (3 << 20)
    assert len(host._owners) == memory.statistics.reserved == 0
    ranges = device_memory(opaque).backend.ranges  # type: ignore[attr-defined]  # the plug-in's own record
    gc.collect()
    device_memory(opaque).trim()
    before = set(ranges)
    with Buffer.empty(_bytes(1 << 20), opaque):
        assert len(set(ranges) - before) == 1
    device_memory(opaque).trim()
    assert set(ranges) == before


def test_each_device_has_one_account(opaque: Device) -> None:
    before = device_memory(HOST).statistics.in_use
    there = Buffer.empty(_bytes(5000), opaque)
    assert device_memory(HOST).statistics.in_use == before
    assert device_memory(opaque) is there.block.memory
    assert device_memory(opaque).statistics.in_use >= 5000


def test_bytes_of_others_are_not_counted() -> None:
    before = device_memory(HOST).statistics
    Buffer.from_numpy(np.zeros(1000))
    Buffer.from_dlpack(np.zeros(1000))
    assert device_memory(HOST).statistics == before


def test_out_of_memory_says_requested_free_limit_and_the_largest_holders(limited: DeviceMemory) -> None:
    gc.collect()
    limited.set_limit(limited.statistics.in_use + 10_000)
    held = [
        Buffer.empty(_bytes(size), limited.device, name=name) for name, size in (("mask", 1000), ("kv cache", 6000))
    ]
    with pytest.raises(OutOfMemory) as caught:
        Buffer.empty(_bytes(3001), limited.device)
    text = str(caught.value)
    for part in ("opaque:0", "3001 bytes", "3000 free", "kv cache 6000, mask 1000", "set_limit"):
        assert part in text
    assert isinstance(caught.value, MemoryError)
    Buffer.empty(_bytes(3000), limited.device).free()
    assert len(held) == 2


def test_a_backend_without_room_becomes_out_of_memory_and_leaves_the_account_as_it_was() -> None:
    class Full(HostMemory):
        def allocate(self, nbytes: int, alignment: int) -> int:
            raise MemoryError("the bank is full")

    memory = DeviceMemory(Device("cpu"), Full())
    with pytest.raises(OutOfMemory, match="the bank is full"):
        memory.allocate(100)
    assert memory.statistics.in_use == 0


def test_more_than_the_machine_has_is_refused_before_the_system_is_asked(memory: DeviceMemory) -> None:
    with pytest.raises(OutOfMemory, match=str(1 << 60)):
        memory.allocate(1 << 60)
    memory.set_limit(1 << 62)
    with pytest.raises(OutOfMemory, match="does not map"):
        memory.allocate(1 << 61)


def test_threads_that_allocate_and_free_leave_the_account_straight(memory: DeviceMemory) -> None:
    def work() -> None:
        for size in range(1, 300):
            block = memory.allocate(size)
            del block

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert memory.statistics.in_use == memory.statistics.live == 0
    assert memory.statistics.allocations == 4 * 299


def test_blocks_in_reference_cycles_are_given_back_by_the_collector(memory: DeviceMemory) -> None:
    cycle: list[object] = [memory.allocate(1000)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert memory.statistics.in_use == 0


@pytest.mark.parametrize("nbytes", [1, 63, 4096, (1 << 20) - 1, 1 << 20, (2 << 20) + 1, 5 << 20])
@pytest.mark.parametrize("alignment", [1, 64, 4096, 1 << 16])
def test_host_allocations_are_aligned_apart_and_writable_to_the_last_byte(nbytes: int, alignment: int) -> None:
    memory = HostMemory()
    addresses = [memory.allocate(nbytes, alignment) for _ in range(3)]
    for i, address in enumerate(addresses):
        assert address % alignment == 0
        memory.fill(address, bytes([i + 1]), nbytes)
    sink = np.zeros(nbytes, np.uint8)
    for i, address in enumerate(addresses):
        memory.copy_out(sink.ctypes.data, address, nbytes)
        assert sink.min() == sink.max() == i + 1
        memory.free(address)


@pytest.mark.parametrize("pattern", [b"\x07", b"\x01\x02", b"abcd", b"12345678", bytes(range(16))])
def test_host_fill_repeats_the_pattern(pattern: bytes) -> None:
    memory = HostMemory()
    address = memory.allocate(len(pattern) * 37 + 1, 64)
    memory.fill(address, b"\xee", len(pattern) * 37 + 1)
    memory.fill(address, pattern, 37)
    sink = np.zeros(len(pattern) * 37 + 1, np.uint8)
    memory.copy_out(sink.ctypes.data, address, len(sink))
    assert sink.tobytes() == pattern * 37 + b"\xee"
    memory.free(address)


@pytest.mark.parametrize("limit", [-1, "1 GB", 1e9])
def test_a_limit_that_is_no_number_of_bytes_is_refused(memory: DeviceMemory, limit: int) -> None:
    before = memory.statistics.limit
    with pytest.raises(OptionError, match="no limit"):
        memory.set_limit(limit)
    assert memory.statistics.limit == before
