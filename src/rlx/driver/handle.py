"""Handles: named device memory that outlives runs.

A `BufferHandle` holds state that programs update in place: a cache of keys and values, a recurrent network's state. Its
address never changes, so it can be bound when a program is compiled.

Owner. The handle owns its bytes; `buffer` is a view that ends with `close`.
Versions. `version` grows with each `write`, `reset` and `mark_updated`; whoever keeps a copy can see that it is old.
Ordering. `read`, `write` and `reset` happen on the calling thread, at once: order them with the streams that use the
state.
Files. States are saved to safetensors files under their names, and come back from any such file with their type:
`save_handles` and `load_handles` for several, `save` and `load` for one. Loading changes all of them or none.
Threads. Any thread may call anything; two that change one handle must agree on an order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from rlx.driver.buffer import Buffer
from rlx.driver.device import HOST, Device
from rlx.driver.safetensors import open_safetensors, write_safetensors
from rlx.errors import BufferMismatch, StateMismatch
from rlx.ir.types import TensorType, type_of


class BufferHandle:
    """State under a name; see the module's contract.

    type: static. initial: what `reset` writes, an array of that type; zeros where None.
    Raises OutOfMemory, DeviceNotFound; BufferMismatch where `initial` has another type.
    """

    def __init__(
        self, name: str, type: TensorType, device: Device | str = HOST, *, initial: np.ndarray | None = None
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
        if not isinstance(array, np.ndarray):
            raise BufferMismatch(f"state {self.name!r} takes a NumPy array, not a {array.__class__.__name__}")
        if type_of(array) != self.type:
            raise BufferMismatch(f"state {self.name!r} is {self.type}, not {type_of(array)}")
        self._buffer.copy_from(Buffer.from_numpy(np.array(array, order="C", copy=None)))
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

    def save(self, path: str | Path) -> None:
        """Write the content to a safetensors file of its own; see `save_handles`."""
        save_handles(path, [self])

    def load(self, path: str | Path) -> None:
        """Replace the content by the tensor of this name in a safetensors file; see `load_handles`."""
        load_handles(path, [self])

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


def save_handles(path: str | Path, handles: Iterable[BufferHandle], metadata: Mapping[str, str] | None = None) -> None:
    """Write the content of several states to one safetensors file, each under its name, replacing what is there.

    Raises StateMismatch where two have one name, UnsupportedTensor for a dtype that the format lacks, OSError where the
    place cannot be written, BufferFreed for a closed one.
    """
    contents: dict[str, np.ndarray] = {}
    for handle in handles:
        if handle.name in contents:
            raise StateMismatch(f"two states are called {handle.name!r}: one file cannot hold both")
        contents[handle.name] = handle.read()
    write_safetensors(Path(path), contents, metadata)


def load_handles(path: str | Path, handles: Iterable[BufferHandle]) -> None:
    """Replace the content of each state by the tensor of its name; the file may hold others as well.

    Nothing is changed where one is missing or has another type: StateMismatch shows both sides. Raises
    TensorFileNotFound and the other errors of `rlx.driver.safetensors`, BufferFreed for a closed state.
    """
    file = open_safetensors(Path(path))
    contents: list[tuple[BufferHandle, np.ndarray]] = []
    for handle in handles:
        array = file.tensors.get(handle.name)
        if array is None:
            names = ", ".join(map(repr, file.tensors)) or "nothing"
            raise StateMismatch(f"{str(path)!r} has no state {handle.name!r}", where=f"it holds {names}")
        if type_of(array) != handle.type:
            raise StateMismatch(f"state {handle.name!r} is {handle.type}, in {str(path)!r} it is {type_of(array)}")
        _ = handle.address  # raises where closed
        contents.append((handle, array))
    for handle, array in contents:
        handle.write(array)
