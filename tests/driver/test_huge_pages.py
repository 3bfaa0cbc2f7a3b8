"""Huge pages under memory that is there: asked for, the bytes stay; where the system cannot, it says so."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from rlx.driver.huge_pages import HUGE_PAGE, ask_for_huge_pages


def _huge_bytes(address: int) -> int:
    """Bytes of huge pages in the mapping around an address, as the system tells."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            first, end = (int(word, 16) for word in words[0].split("-"))
            inside = first <= address < end
        elif inside and words[0] == "AnonHugePages:":
            return int(words[1]) << 10
    return 0


@pytest.fixture
def small_pages() -> np.ndarray:
    """An array of 16 MiB that begins anywhere, in 4 KiB pages."""
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):
        pytest.skip("this system takes no advice about huge pages")
    mapping = mmap.mmap(-1, 8 * HUGE_PAGE + 640, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    array = np.frombuffer(mapping, np.uint8)[640:]
    array[:] = np.random.default_rng(3).integers(0, 256, array.size, np.uint8)
    return array


def test_bytes_stay_where_they_are_and_what_they_are_in_huge_pages(small_pages: np.ndarray) -> None:
    before, address = small_pages.copy(), small_pages.ctypes.data
    assert _huge_bytes(address + HUGE_PAGE) == 0
    if not ask_for_huge_pages(address, small_pages.nbytes):
        pytest.skip("this system collapses no pages, or has no huge one left")
    assert _huge_bytes(address + HUGE_PAGE) >= 7 * HUGE_PAGE
    np.testing.assert_array_equal(small_pages, before)


def test_a_range_without_a_whole_huge_page_is_left_alone(small_pages: np.ndarray) -> None:
    first = -(-small_pages.ctypes.data // HUGE_PAGE) * HUGE_PAGE
    assert not ask_for_huge_pages(first + 64, HUGE_PAGE)
    assert not ask_for_huge_pages(first, 0)


def test_memory_of_a_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)) * (4 * HUGE_PAGE // 256))
    array = np.memmap(path, np.uint8, "r")
    ask_for_huge_pages(array.ctypes.data, array.nbytes)
    np.testing.assert_array_equal(array[:: HUGE_PAGE + 5], [0, 5, 10, 15])
