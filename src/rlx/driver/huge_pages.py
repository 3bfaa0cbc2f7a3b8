"""Huge pages under memory that is there already, whoever owns it.

Addresses and contents stay; the system moves the bytes to other physical memory, a quarter of a millisecond a MiB.
Reading a large array from memory is up to 1.5 times as fast then: through 4 KiB pages a processor looks up an address
every 64 lines, and fetches none beyond it in advance.
"""

from __future__ import annotations

import ctypes
import mmap

HUGE_PAGE = 2 << 20
#: Linux's advice to do at once what MADV_HUGEPAGE allows; Python's mmap does not name it.
_MADV_COLLAPSE = 25


def ask_for_huge_pages(address: int, nbytes: int) -> bool:
    """Let the huge pages that lie wholly in a range be such; whether the system has done so.

    False where there is none, where the system knows none or has none left, and where it refuses: memory mapped from a
    file lies in the pages that its file system chose. The range must stay mapped meanwhile.
    """
    first = -(-address // HUGE_PAGE) * HUGE_PAGE
    length = (address + nbytes) // HUGE_PAGE * HUGE_PAGE - first
    if length <= 0 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return False
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    advice = (mmap.MADV_HUGEPAGE, _MADV_COLLAPSE)  # the first alone lets the system do it later, some day
    return all(madvise(first, length, each) == 0 for each in advice)
