"""The caching allocator: what it keeps, what it gives back, and that it is right when everything happens at once."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.driver.allocator import CachingAllocator, NoRoom

MIB = 1 << 20


class Bank:
    """A device's memory that only counts. granularity 0: it cannot be divided."""

    host_visible = False

    def __init__(self, capacity: int = 64 * MIB) -> None:
        self.capacity_bytes = capacity
        self.live: dict[int, int] = {}
        self.asked = 0
        self.next = 1 << 40

    def allocate(self, nbytes: int, alignment: int) -> int:
        self.asked += 1
        if sum(self.live.values()) + nbytes > self.capacity_bytes:
            raise MemoryError("the bank is full")
        address = -(-self.next // alignment) * alignment
        self.next = address + nbytes
        self.live[address] = nbytes
        return address

    def free(self, address: int) -> None:
        del self.live[address]

    def copy_in(self, destination: int, host_source: int, nbytes: int) -> None: ...
    def copy_out(self, host_destination: int, source: int, nbytes: int) -> None: ...
    def copy_within(self, destination: int, source: int, nbytes: int) -> None: ...
    def fill(self, destination: int, pattern: bytes, count: int) -> None: ...


class DivisibleBank(Bank):
    granularity = 64


def _ask(allocator: CachingAllocator, *sizes: int, alignment: int = 64) -> list[int]:
    return [allocator.allocate(size, alignment, f"{size} bytes") for size in sizes]


@pytest.mark.parametrize("bank", [Bank, DivisibleBank])
def test_the_same_sizes_again_and_again_ask_the_device_for_nothing(bank: type[Bank]) -> None:
    allocator = CachingAllocator(bank())
    sizes = (1, 100, 5000, 300_000, 2 * MIB)
    for address in _ask(allocator, *sizes):
        allocator.release(address)
    first = allocator.statistics
    for _ in range(20):
        for address in _ask(allocator, *sizes):
            allocator.release(address)
    after = allocator.statistics
    assert after.device_allocations == first.device_allocations
    assert after.allocations == 21 * len(sizes)
    assert after.peak_reserved == first.reserved == after.reserved
    assert after.in_use == after.live == 0


def test_small_requests_share_a_segment_and_large_ones_have_their_own() -> None:
    bank = DivisibleBank(1 << 40)
    allocator = CachingAllocator(bank)
    small = _ask(allocator, *[64] * 100)
    assert list(bank.live.values()) == [2 * MIB]
    _ask(allocator, 3 * MIB)
    assert sorted(bank.live.values()) == [2 * MIB, 3 * MIB]
    assert max(small) - min(small) == 99 * 64


def test_freed_neighbours_serve_a_larger_request() -> None:
    allocator = CachingAllocator(DivisibleBank(1 << 40))
    parts = _ask(allocator, *[8 * MIB] * 4)  # four segments: nothing joins across them
    for address in parts:
        allocator.release(address)
    assert allocator.statistics.largest_hole == 8 * MIB
    for address in _ask(allocator, 3 * MIB, 2 * MIB, 3 * MIB):  # inside one of them
        allocator.release(address)
    assert allocator.statistics.largest_hole == 8 * MIB
    asked = allocator.statistics.device_allocations
    _ask(allocator, 8 * MIB)
    assert allocator.statistics.device_allocations == asked


def test_a_full_device_is_trimmed_and_asked_again_before_the_request_fails() -> None:
    bank = DivisibleBank(10 * MIB)
    allocator = CachingAllocator(bank)
    allocator.keep = allocator.limit = 1 << 40
    for address in _ask(allocator, 3 * MIB, 3 * MIB, 3 * MIB):
        allocator.release(address)
    (large,) = _ask(allocator, 8 * MIB)
    with pytest.raises(NoRoom, match="the bank is full"):
        _ask(allocator, 4 * MIB)
    statistics = allocator.statistics
    assert (statistics.in_use, statistics.live) == (8 * MIB, 1)
    allocator.release(large)
    _ask(allocator, 10 * MIB)


def test_holes_of_large_segments_serve_small_requests_before_they_fail() -> None:
    bank = DivisibleBank(8 * MIB)
    allocator = CachingAllocator(bank)
    allocator.keep = 8 * MIB
    first, second = _ask(allocator, 4 * MIB, 4 * MIB)
    allocator.release(first)
    third, fourth = _ask(allocator, 3 * MIB, 64)
    assert first <= min(third, fourth) < max(third, fourth) < first + 4 * MIB
    assert second in bank.live


def test_the_limit_bounds_what_is_in_use_and_unused_segments_go_before_more_is_reserved() -> None:
    bank = DivisibleBank()
    allocator = CachingAllocator(bank)
    allocator.limit = 10 * MIB
    for address in _ask(allocator, 4 * MIB, 6 * MIB):
        allocator.release(address)
    (large,) = _ask(allocator, 9 * MIB)
    assert list(bank.live) == [large]
    assert allocator.statistics.reserved == 9 * MIB
    with pytest.raises(NoRoom, match="limit"):
        _ask(allocator, MIB + 1)
    _ask(allocator, MIB)


def test_unused_segments_are_kept_up_to_a_bound() -> None:
    bank = DivisibleBank()
    allocator = CachingAllocator(bank)
    allocator.keep = 5 * MIB
    for address in _ask(allocator, 2 * MIB, 3 * MIB, 4 * MIB):
        allocator.release(address)
    assert sorted(bank.live.values()) == [2 * MIB, 3 * MIB]
    assert allocator.trim() == 5 * MIB
    assert not bank.live
    assert allocator.statistics.reserved == 0
    assert allocator.statistics.peak_reserved == 9 * MIB


def test_an_error_of_the_device_that_is_not_about_room_passes_through() -> None:
    class Lost(Bank):
        def allocate(self, nbytes: int, alignment: int) -> int:
            raise RuntimeError("the device is gone")

    allocator = CachingAllocator(Lost())
    with pytest.raises(RuntimeError, match="gone"):
        _ask(allocator, 100)
    assert allocator.statistics.in_use == 0


def test_a_release_inside_an_allocation_neither_hangs_nor_is_lost() -> None:
    """As a garbage collection does: on the same thread, with the allocator's lock held, and in the device's call."""
    bank = DivisibleBank()
    allocator = CachingAllocator(bank)
    first, second = _ask(allocator, MIB, MIB)
    take, allocate = allocator._large.take, bank.allocate

    def collecting_take(nbytes: int, alignment: int) -> tuple[int, int] | None:
        allocator._large.take = take  # type: ignore[method-assign]
        allocator.release(first)
        return take(nbytes, alignment)

    def collecting_allocate(nbytes: int, alignment: int) -> int:
        allocator.release(second)
        return allocate(nbytes, alignment)

    allocator._large.take, bank.allocate = collecting_take, collecting_allocate  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: _ask(allocator, 2 * MIB), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert allocator.statistics.in_use == 2 * MIB


def test_a_collection_at_any_point_leaves_the_account_straight() -> None:
    """Cycles that hold bytes end wherever the collector runs, here as often as it can."""

    class Holder:
        def __init__(self, size: int) -> None:
            address = allocator.allocate(size, 64, "a cycle")
            self.me = self
            weakref.finalize(self, allocator.release, address)

    allocator = CachingAllocator(DivisibleBank())
    threshold = gc.get_threshold()
    gc.set_threshold(3, 2, 2)
    try:
        for number in range(1500):
            Holder(64 * (1 + number % 7))
            _ = allocator.statistics if number % 3 else allocator.trim()
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert allocator.statistics.in_use == allocator.statistics.live == 0
    assert allocator.trim() >= 0 and allocator.statistics.reserved == 0


def test_threads_get_bytes_of_their_own_and_the_account_ends_straight() -> None:
    bank = DivisibleBank(256 * MIB)
    allocator = CachingAllocator(bank)
    owner = np.zeros(1 << 22, np.uint8)  # a byte for 64 bytes of addresses
    wrong: list[str] = []

    def work(me: int) -> None:
        rng = np.random.default_rng(me)
        held: list[tuple[int, int]] = []
        for _ in range(400):
            if held and rng.random() < 0.5:
                address, units = held.pop(int(rng.integers(len(held))))
                at = (address - (1 << 40)) // 64
                if set(owner[at : at + units].tolist()) != {me}:
                    wrong.append(f"thread {me} lost {address}")
                owner[at : at + units] = 0
                allocator.release(address)
            else:
                units = int(rng.integers(1, 3000)) if rng.random() < 0.8 else 12000
                address = allocator.allocate(units * 64, 64, "a thread")
                at = (address - (1 << 40)) // 64
                if owner[at : at + units].any():
                    wrong.append(f"thread {me} was given {address} of another")
                owner[at : at + units] = me
                held.append((address, units))
        for address, units in held:
            at = (address - (1 << 40)) // 64
            owner[at : at + units] = 0
            allocator.release(address)

    threads = [threading.Thread(target=work, args=(me,)) for me in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert allocator.statistics.in_use == allocator.statistics.live == 0
    allocator.trim()
    assert not bank.live


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 300_000), st.sampled_from([1, 64, 4096, 65536])), max_size=40),
    divisible=st.booleans(),
)
def test_ranges_are_apart_aligned_and_inside_what_the_device_gave(
    sizes: list[tuple[int, int]], divisible: bool
) -> None:
    bank = (DivisibleBank if divisible else Bank)()
    allocator = CachingAllocator(bank)
    held: dict[int, int] = {}
    for number, (size, alignment) in enumerate(sizes):
        address = allocator.allocate(size, alignment, "")
        assert address % alignment == 0
        assert any(start <= address and address + size <= start + n for start, n in bank.live.items())
        assert all(address + max(size, 1) <= other or other + max(n, 1) <= address for other, n in held.items())
        held[address] = size
        if number % 3 == 0:
            address = next(iter(held))
            del held[address]
            allocator.release(address)
    assert allocator.statistics.in_use == sum(held.values())
    assert allocator.statistics.live == len(held)
    assert allocator.statistics.reserved == sum(bank.live.values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_in_the_middle_of_a_change_leaves_both_processes_a_whole_state() -> None:
    allocator = CachingAllocator(DivisibleBank(1 << 40))
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            for address in _ask(allocator, 64, 4096, MIB):
                allocator.release(address)
            allocator.trim()

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                try:
                    held = {address for _ in range(20) for address in _ask(allocator, 64, 4096, MIB)}
                    whole = len(held) == 60 and allocator.statistics.in_use >= 20 * (64 + 4096 + MIB)
                    os._exit(0 if whole else 1)
                finally:
                    os._exit(2)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert allocator.statistics.in_use == 0
