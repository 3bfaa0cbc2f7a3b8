"""Handles: named device memory that outlives runs.

A `BufferHandle` holds state that programs update in place: a cache of keys and values, a recurrent network's state. Its
address never changes, so it can be bound when a program is compiled.

Owner. The handle owns its bytes; `buffer` is a view that ends with `close`.
Versions. `version` grows with each `write`, `reset` and `mark_updated`; whoever keeps a copy can see that it is old.
Ordering. `read`, `write` and `reset` happen on the calling thread, at once: order them with the streams that use the
state.
Threads. Any thread may call anything; two that change one handle must agree on an order.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np

from rlx.driver.buffer import Buffer
from rlx.driver.device import HOST, Device
from rlx.errors import BufferMismatch
from rlx.ir.types import TensorType, type_of


class BufferHandle:
    """State under a name; see the module's contract.

    type: static. initial: what `reset` writes, an array of that type; zeros where None.
    Raises OutOfMemory, DeviceNotFound; BufferMismatch where `initial` has another type.
    """

    def __init__(
        self, name: str, type: TensorType, device: Device = HOST, *, initial: np.ndarray | None = None
    ) -> None:
        self.name = name
        self.type = type
        self._buffer = Buffer.empty(type, device, name=f"the state {name!r}")
        self._initial = None if initial is None else initial.copy()
        self._version = -1
        self.reset()

    @property
    def version(self) -> int:
        """How often the content was changed since it was made."""
        return self._version

    @property
    def address(self) -> int:
        """Where the bytes are; the same for life. Raises BufferFreed after `close`."""
        return self._buffer.address

    @property
    def buffer(self) -> Buffer:
        """A view of the bytes, for programs to bind. Raises BufferFreed after `close`."""
        return self._buffer[...]

    @property
    def device(self) -> Device:
        """Where the bytes are. Raises BufferFreed after `close`."""
        return self._buffer.device

    def read(self) -> np.ndarray:
        """A copy of the content, on the host. Raises BufferFreed after `close`."""
        return self._buffer.to(HOST).numpy().copy()

    def write(self, array: np.ndarray) -> None:
        """Replace the content. Raises BufferMismatch for another shape or dtype, BufferFreed after `close`."""
        if type_of(array) != self.type:
            raise BufferMismatch(f"state {self.name!r} is {self.type}, not {type_of(array)}")
        self._buffer.copy_from(Buffer.from_numpy(np.ascontiguousarray(array)))
        self.mark_updated()

    def reset(self) -> None:
        """Back to the initial content. Raises BufferFreed after `close`."""
        if self._initial is None:
            self._buffer.fill(0)
            self.mark_updated()
        else:
            self.write(self._initial)

    def mark_updated(self) -> None:
        """Say that a program has changed the content in place."""
        self._version += 1

    def close(self) -> None:
        """End the state and the views of it. Closing twice is allowed."""
        self._buffer.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<BufferHandle {self.name!r} {self.type} version {self._version}>"
