"""Buffers on a WebGPU device: transfers at every offset, views, fills, limits, and what is refused."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from rlx.backends.webgpu.backend import WebGpuBackend
from rlx.driver import HOST, Buffer, DeviceArena
from rlx.driver.memory import device_memory
from rlx.errors import NotHostMemory, OutOfMemory
from rlx.ir import TensorType, dtypes


def _bytes(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, n, np.uint8)


@pytest.mark.parametrize("dtype", [d for d in dtypes.ALL if d.name != "bool"], ids=str)
def test_bytes_come_back_as_they_went(webgpu, dtype):
    array = _bytes(1, 37 * dtype.itemsize).view(dtype.numpy)
    back = Buffer.from_numpy(array).to(webgpu).to(HOST).numpy()
    np.testing.assert_array_equal(back.view(np.uint8), array.view(np.uint8))


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 2), (3, 9), (4, 8), (5, 37), (2, 3)])
def test_a_view_at_any_byte_is_written_without_touching_its_neighbours(webgpu, start, stop):
    whole, part = _bytes(2, 37), _bytes(3, stop - start)
    buffer = Buffer.from_numpy(whole).to(webgpu)
    buffer[start:stop].copy_from(Buffer.from_numpy(part))
    expected = whole.copy()
    expected[start:stop] = part
    np.testing.assert_array_equal(buffer.to(HOST).numpy(), expected)
    np.testing.assert_array_equal(buffer[start:stop].to(HOST).numpy(), part)


@pytest.mark.parametrize("shift", [1, 4, 8])
def test_overlapping_parts_of_one_buffer_are_copied_as_if_through_another(webgpu, shift):
    whole = _bytes(4, 64)
    buffer = Buffer.from_numpy(whole).to(webgpu)
    buffer[shift:40].copy_from(buffer[: 40 - shift])
    expected = whole.copy()
    expected[shift:40] = whole[: 40 - shift]
    np.testing.assert_array_equal(buffer.to(HOST).numpy(), expected)


def test_a_fill_repeats_its_pattern(webgpu):
    buffer = Buffer.empty(TensorType((7,), dtypes.i16), webgpu)
    buffer.fill(-3)
    np.testing.assert_array_equal(buffer.to(HOST).numpy(), np.full(7, -3, np.int16))


def test_device_memory_is_not_read_as_host_memory(webgpu):
    with pytest.raises(NotHostMemory):
        Buffer.from_numpy(np.zeros(4, np.float32)).to(webgpu).numpy()


def test_more_than_one_buffer_can_hold_lies_in_several(webgpu, monkeypatch):
    backend = webgpu.backend.memory(webgpu.ordinal)
    monkeypatch.setitem(backend.gpu.limits, "max-buffer-size", 1000)
    whole = _bytes(5, 5000)
    address = backend.allocate(5000, 256)
    assert len({id(backend.place(address + at)[0]) for at in range(0, 5000, 256)}) == 7, "768 bytes each"
    back = np.zeros(5000, np.uint8)
    backend.copy_in(address, whole.ctypes.data, 5000)
    for shift in (300, 301):  # forwards and backwards, over the seams, whole words and not
        backend.copy_within(address + shift, address, 4000)
        whole[shift : shift + 4000] = whole[:4000].copy()
        backend.copy_within(address, address + shift, 3000)
        whole[:3000] = whole[shift : shift + 3000].copy()
    backend.fill(address + 700, b"\1\2", 200)
    whole[700:1100] = np.tile(np.array([1, 2], np.uint8), 200)
    backend.copy_out(back.ctypes.data, address, 5000)
    backend.free(address)
    np.testing.assert_array_equal(back, whole)


def test_more_than_the_device_holds_is_out_of_memory_and_says_so(webgpu):
    with pytest.raises(OutOfMemory, match="the limit is reached"):
        Buffer.empty(TensorType((9 * int(webgpu.properties.features["max-buffer-size"]),), dtypes.u8), webgpu)


def test_long_reads_go_through_two_buffers_and_bring_every_byte(webgpu, monkeypatch):
    monkeypatch.setattr(webgpu.backend.memory(webgpu.ordinal)._staging, "piece", 1 << 12)
    whole = _bytes(6, 30_001)
    buffer = Buffer.from_numpy(whole).to(webgpu)
    for start, stop in ((0, 30_001), (1, 30_000), (4095, 12_289)):
        np.testing.assert_array_equal(buffer[start:stop].to(HOST).numpy(), whole[start:stop])


def test_reads_of_a_size_seen_before_make_no_buffer(webgpu):
    buffer = Buffer.from_numpy(_bytes(7, 5000)).to(webgpu)
    buffer.to(HOST)
    ring = webgpu.backend.memory(webgpu.ordinal)._staging
    made = ring.made
    for size in (5000, 4100, 4999):
        buffer[:size].to(HOST)
    assert ring.made == made


def test_an_address_outside_every_allocation_is_refused(webgpu):
    from rlx.errors import DriverError

    with pytest.raises(DriverError, match="belongs to no allocation"):
        device_memory(webgpu).backend.copy_within(8, 16, 4)


def test_a_debug_arena_finds_an_overwritten_red_zone(webgpu):
    from rlx.driver.planner import Interval, plan_apart
    from rlx.errors import RedZoneError

    plan = plan_apart([Interval("x", 0, 1, 16)], alignment=256)
    with DeviceArena(webgpu, plan, debug=True) as arena:
        arena.check()
        arena._bytes[plan.offsets["x"] + 16 : plan.offsets["x"] + 17].fill(0)
        with pytest.raises(RedZoneError):
            arena.check()


def test_threads_that_first_ask_together_get_one_memory(monkeypatch):
    meeting, given = threading.Barrier(2, timeout=10), []

    class Memory:
        def __init__(self, gpu):
            meeting.wait()

    monkeypatch.setattr(sys.modules[WebGpuBackend.__module__], "WebGpuMemory", Memory)
    backend = WebGpuBackend("webgpu", None)
    threads = [threading.Thread(target=lambda: given.append(backend.memory(0))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 2 and given[0] is given[1] is backend.memory(0)
