"""Measured ceilings: what they are made of. How high they are is the machine's business."""

import threading

import pytest

from rlx.backends.cpu.ceiling import measure_ceilings
from rlx.driver import Ceilings, MemoryLevel


def test_the_least_time_is_that_of_the_longer_of_arithmetic_and_reading():
    ceilings = Ceilings(threads=1, flops=1e9, read_bytes=1e8)
    assert ceilings.least_seconds(2e9, 1e8) == 2.0
    assert ceilings.least_seconds(1e9, 5e8) == 5.0


@pytest.mark.parametrize("threads", [1, 3])
def test_measuring_gives_believable_rates_and_leaves_no_thread_behind(threads):
    before = threading.active_count()
    ceilings = measure_ceilings(threads)
    assert ceilings.threads == threads
    # No processor of the last twenty years is slower, and none of this decade does 10 TFLOP/s a thread.
    assert 1e8 < ceilings.flops < 1e13 * threads
    assert 1e7 < ceilings.read_bytes < 1e12 * threads
    assert threading.active_count() == before


def test_data_is_read_at_the_rate_of_the_nearest_level_that_holds_it():
    levels = (MemoryLevel("L2", 1000, 8e8), MemoryLevel("L3", 9000, 4e8))
    ceilings = Ceilings(threads=1, flops=1e9, read_bytes=1e8, levels=levels)
    assert [ceilings.rate(n) for n in (0, 1000, 1001, 9000, 9001)] == [8e8, 8e8, 4e8, 4e8, 1e8]
    assert ceilings.least_seconds(0, 9001) == 9001 / 1e8
