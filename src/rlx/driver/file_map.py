"""Whole files as read-only memory: weights are read where they lie, when they are needed.

A `FileMap` is a file's own pages. Arrays look at it, keep it alive and need not be aligned; threads may share it.
Deleting the file, or moving another one to its place, is harmless while arrays live. Writing to it is not: `unchanged`
refuses to read weights of a file that has been written to since it was mapped, but a file that is cut short while it is
being read ends the process, as with every map.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

import numpy as np

from rlx.errors import FileMapError

#: The maps of this process that are still looked at, by file and by when it was written.
_maps: WeakValueDictionary[tuple[int, ...], FileMap] = WeakValueDictionary()


class FileMap(mmap.mmap):
    """A file's bytes; `map_open_file` makes it."""

    path: Path
    stamp: tuple[int, ...]

    def array(self, start: int, end: int) -> np.ndarray:
        """Bytes [start, end), read-only."""
        return np.frombuffer(self, np.uint8, end - start, start)

    def is_unchanged(self) -> bool:
        """Whether nobody has written to the file since it was mapped, as far as its size and time tell."""
        if self.size() != len(self):
            return False
        try:
            now = _stamp(self.path.stat())
        except OSError:  # it is gone; its pages stay
            return True
        return now[:2] != self.stamp[:2] or now == self.stamp


def map_open_file(file: IO[bytes], path: Path) -> FileMap:
    """The map of the file at `path`, open for reading; all who ask for it share it, and may close the file.

    Raises ValueError where it is empty, OSError where the system refuses.
    """
    stamp = _stamp(os.fstat(file.fileno()))
    found = _maps.get(stamp)
    if found is None:
        found = FileMap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found.path, found.stamp = path.absolute(), stamp
        _maps[stamp] = found
    return found


def file_map_of(array: np.ndarray) -> FileMap | None:
    """The map that an array looks at, if any."""
    under: Any = array
    while under is not None and not isinstance(under, FileMap):
        under = under.obj if isinstance(under, memoryview) else getattr(under, "base", None)
    return under


def let_pages_go(array: np.ndarray) -> None:
    """Count a mapped array's pages as this process's no more, until they are touched again."""
    found = file_map_of(array)
    if found is None or not array.nbytes or not hasattr(mmap, "MADV_DONTNEED"):
        return
    low, high = np.lib.array_utils.byte_bounds(array)
    base = found.array(0, 0).ctypes.data
    first = -(-(low - base) // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (high - base) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        found.madvise(mmap.MADV_DONTNEED, first, length)


@contextmanager
def unchanged(arrays: Iterable[np.ndarray]) -> Iterator[None]:
    """Hold that the files of mapped arrays are as they were mapped, before and after they are read.

    Raises FileMapError where one was written to.
    """
    maps = {id(found): found for array in arrays if (found := file_map_of(array)) is not None}
    _check(maps.values())
    yield
    _check(maps.values())


def _check(maps: Iterable[FileMap]) -> None:
    for found in maps:
        if not found.is_unchanged():
            raise FileMapError(
                f"{str(found.path)!r} was written to since its weights were loaded from it",
                hint="load it again; to replace a model's file, write the new one beside it and move it there",
            )


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """Which file, how long, and when it was written."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
