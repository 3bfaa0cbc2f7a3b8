"""Give back the memory that LLVM holds between compilations.

LLVM is a large library: compiling a model touches some 70 MB of its code and read-only data, and leaves freed blocks in
malloc's pools. `release_memory` drops both from this process. Pages of a file that nobody wrote to are the system's to
drop at any time; it reads them again, mostly from its page cache, when the next compilation touches them. Threads that
are inside LLVM meanwhile only wait for their pages. Nothing happens where the system is not Linux; it never raises for
what cannot be given back.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import struct
from functools import cache
from pathlib import Path

from llvmlite.binding import ffi

_MAPS = Path("/proc/self/maps")
_PT_LOAD, _PF_W = 1, 2
_PAGE = mmap.PAGESIZE


def release_memory() -> None:
    """Drop the library's clean pages, and hand malloc's free memory back."""
    if not _MAPS.exists():
        return
    libc = ctypes.CDLL(None)
    for address, length in _read_only_segments():
        libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
    with contextlib.suppress(AttributeError):  # glibc's alone
        libc.malloc_trim(ctypes.c_size_t(0))


@cache
def _read_only_segments() -> tuple[tuple[int, int], ...]:
    """(address, bytes) of the library's segments that its file declares without the right to write: not even the loader
    has written to them, for relocations lie in writable segments alone.
    """
    path = Path(ffi.lib._name).resolve()
    start = next((line.split("-")[0] for line in _MAPS.read_text().splitlines() if line.endswith(str(path))), None)
    if start is None:
        return ()
    with path.open("rb") as file:
        head = file.read(64)
        at, size, count = *struct.unpack_from("<Q", head, 32), *struct.unpack_from("<HH", head, 54)
        file.seek(at)
        table = file.read(size * count)
    segments = []
    for row in range(count):
        kind, flags, _, vaddr, _, file_bytes = struct.unpack_from("<IIQQQQ", table, row * size)
        if kind == _PT_LOAD and not flags & _PF_W:
            first, last = -(-vaddr // _PAGE) * _PAGE, (vaddr + file_bytes) // _PAGE * _PAGE
            segments.append((int(start, 16) + first, last - first))
    return tuple(segments)
