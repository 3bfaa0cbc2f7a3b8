"""Packed weights that programs share: two that pack the same arrays in the same way keep one copy.

What packed a piece is its program's to say (`packing`, a digest, or AS_IT_IS); what it was packed from are the very
arrays that a program was given, and nobody may be able to write them: pieces made of writable arrays are never shared.
Owner. A block owns one allocation, with all pieces that one program's setup packed. Executables keep the blocks that
their pieces lie in; the memory ends with the last of them.
Threads. `SHARED.lock` is held from looking pieces up until what was not found has been packed and noted.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from rlx.backends.cpu.walker import ALIGNMENT, JUMP, BoundProgram
from rlx.driver import Device, DeviceArena
from rlx.driver.fork import renew_in_child

Key = tuple[str, str, tuple[int, ...]]
#: How a weight is packed that programs read as it is, but not from its file.
AS_IT_IS = ""


class PackedBlock:
    """One allocation on a device for pieces of these sizes, in bytes."""

    def __init__(self, device: Device, sizes: Sequence[int]) -> None:
        self.places: list[int] = []
        end = 0
        for nbytes in sizes:
            self.places.append(end)
            end += -(-nbytes // ALIGNMENT) * ALIGNMENT
        self._arena = DeviceArena(device, end)
        self.sources: dict[Key, tuple[weakref.ref[np.ndarray], ...]] = {}

    def address(self, place: int) -> int:
        """Where piece number `place` lies."""
        return self._arena.address + self.places[place]


class PackedWeights:
    """The pieces of all programs of this process that are still there; see the module's contract."""

    def __init__(self) -> None:
        self._found: dict[Key, tuple[weakref.ref[PackedBlock], int]] = {}
        renew_in_child(self)

    def renew(self) -> None:
        """Make the lock anew; see `rlx.driver.fork`."""
        self.lock = threading.RLock()

    def find(
        self, device: Device, piece: Mapping[str, Any], arrays: Sequence[np.ndarray]
    ) -> tuple[PackedBlock, int] | None:
        """The block that holds a piece of a program with these parameters, and its place there; None if none does."""
        sources = [arrays[i] for i in piece["sources"]]
        key = _key(device, piece, sources)
        reference, place = self._found.get(key, (None, 0))
        block = reference() if reference is not None else None
        if block is None:
            return None
        same = all(r() is a for r, a in zip(block.sources[key], sources, strict=True))
        return (block, place) if same and all(map(_is_fixed, sources)) else None

    def note(
        self, device: Device, piece: Mapping[str, Any], arrays: Sequence[np.ndarray], block: PackedBlock, place: int
    ) -> None:
        """Let others find a piece that was packed to a block, where nobody can write what it was packed from."""
        sources = [arrays[i] for i in piece["sources"]]
        if all(map(_is_fixed, sources)):
            key = _key(device, piece, sources)
            self._found = {k: found for k, found in self._found.items() if found[0]() is not None}
            block.sources[key] = tuple(map(weakref.ref, sources))
            self._found[key] = weakref.ref(block), place


def _key(device: Device, piece: Mapping[str, Any], sources: Sequence[np.ndarray]) -> Key:
    return str(device), piece["packing"], tuple(map(id, sources))


def _is_fixed(array: np.ndarray) -> bool:
    """Whether no array or buffer that an array looks at is writable."""
    under: Any = array
    while isinstance(under, np.ndarray):
        if under.flags.writeable:
            return False
        under = under.base
    if under is None:
        return True
    try:
        return memoryview(under).readonly
    except TypeError:  # it does not say
        return False


def without(setup: BoundProgram, bases: Collection[int]) -> BoundProgram:
    """The steps of setup without the launches that write to these bases."""
    left_out = setup.twin()
    left_out.records = setup.records.copy()
    for record in setup.launches_at(bases):
        left_out.records[record] = (JUMP, 0, setup.records[record, 2], 0, 1, 0, record + 1, 0)
    return left_out


#: What this process's programs share.
SHARED = PackedWeights()
