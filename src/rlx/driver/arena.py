"""Arenas: one allocation that holds every value of a program.

Owner. The arena owns its bytes; the buffers it hands out are views that end with `close`. Bytes outlive `close` only
under a reader that was there before (a NumPy view, an operation on a stream).
Content. Fresh bytes are unknown, and a value's bytes are unknown until the program writes them.
Debugging. In debug mode, bytes that belong to no value are red zone: they hold a pattern, and `check` raises
RedZoneError where one was changed, naming the nearest value. Values start as poison, which reads as NaN or as a huge
number; `poison` writes it again between runs. `rlx.driver.planner.plan_apart` makes plans with a red zone around every
value. The planner's usual plans share bytes between values and leave few gaps, so they show little.
Threads. Any thread may call; `check` and `poison` must not run beside the program.
"""

from __future__ import annotations

import mmap
from types import TracebackType
from typing import Self

import numpy as np

from rlx.driver.buffer import Buffer
from rlx.driver.device import HOST, Device
from rlx.driver.memory_plan import MemoryPlan
from rlx.errors import BufferMismatch, PlanError, RedZoneError
from rlx.ir.dtypes import u8
from rlx.ir.types import TensorType

_RED = 0xB5
_POISON = 0xFF  # NaN in every float type, -1 or the largest number in integer types


class DeviceArena:
    """One allocation on a device; see the module's contract.

    device: where. content: bytes, or the plan whose values it holds.
    debug: red zones and poison. prefault: touch every page of host memory now, not during the first run.
    Raises OutOfMemory, DeviceNotFound.
    """

    def __init__(
        self, device: Device | str, content: int | MemoryPlan, *, debug: bool = False, prefault: bool = False
    ) -> None:
        self.device = Device(device)
        self.nbytes = content if isinstance(content, int) else content.size
        self.plan = None if isinstance(content, int) else content
        self.debug = debug
        alignment = max(64, self.plan.alignment) if self.plan else 64
        self._bytes = Buffer.empty(TensorType((self.nbytes,), u8), self.device, name="an arena", alignment=alignment)
        self._values: dict[str, tuple[int, int]] = {}  # name -> (offset, bytes), for debugging
        if self.plan:
            self._values = {name: (at, self.plan.sizes[name]) for name, at in self.plan.offsets.items()}
        if debug:
            self._bytes.fill(_RED)
            self.poison()
        elif prefault and self._bytes.block.memory.backend.host_visible:
            self._bytes[:: mmap.PAGESIZE].fill(0)

    @property
    def address(self) -> int:
        """Where byte 0 is. Raises BufferFreed after `close`."""
        return self._bytes.address

    def buffer(self, offset: int, type: TensorType, *, name: str = "") -> Buffer:
        """A buffer over `type.nbytes` bytes from `offset` on, which ends with the arena.

        name: of the value, for debugging; an arena without a plan learns its values so.
        Raises BufferMismatch where the bytes do not fit, BufferFreed after `close`.
        """
        if name and name not in self._values:
            if self.plan:
                raise PlanError(f"the arena's plan has no value {name!r}")
            self._values[name] = (offset, type.nbytes)
            if self.debug:
                self._slice(offset, offset + type.nbytes).fill(_POISON)
        return Buffer.over(self._bytes.block, type, offset, owner=self._bytes)

    def value(self, name: str, type: TensorType) -> Buffer:
        """The buffer of a value of the plan. Raises PlanError for an unknown one, BufferMismatch for another size."""
        if name not in self._values:
            raise PlanError(f"the arena has no value {name!r}")
        offset, nbytes = self._values[name]
        if nbytes != type.nbytes:
            raise BufferMismatch(f"value {name!r} has {nbytes} bytes in the plan, {type} has {type.nbytes}")
        return self.buffer(offset, type)

    def poison(self) -> None:
        """Overwrite every value with poison. Raises BufferFreed after `close`."""
        for offset, nbytes in self._values.values():
            self._slice(offset, offset + nbytes).fill(_POISON)

    def check(self) -> None:
        """Look at every red zone. Raises RedZoneError at the first changed byte; does nothing without `debug`."""
        if not self.debug:
            return
        ranges = sorted((at, at + size, name) for name, (at, size) in self._values.items() if size)
        end, before = 0, ""
        for start, stop, name in [*ranges, (self.nbytes, self.nbytes, "")]:
            if start > end:
                self._check_zone(end, start, before, name)
            if stop > end:
                end, before = stop, name

    def _check_zone(self, start: int, stop: int, before: str, after: str) -> None:
        zone = self._slice(start, stop).to(HOST).numpy()
        changed = np.flatnonzero(zone != _RED)
        if not len(changed):
            return
        first, last = int(changed[0]), int(changed[-1])
        if before and (not after or first <= stop - start - 1 - last):
            where = f"{first} bytes past the end of value {before!r}"
        elif after:
            where = f"{stop - start - last} bytes before the start of value {after!r}"
        else:
            where = "in an arena without values"
        raise RedZoneError(
            f"{len(changed)} bytes that belong to no value were overwritten, {where}",
            where=f"arena bytes [{start + first}, {start + last + 1}) on {self.device}",
        )

    def _slice(self, start: int, stop: int) -> Buffer:
        return self._bytes[start:stop]

    def close(self) -> None:
        """End the arena and every buffer it handed out. Closing twice is allowed."""
        self._bytes.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
