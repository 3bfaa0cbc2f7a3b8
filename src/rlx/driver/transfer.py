"""Writing into buffers: copies from anywhere to anywhere, and fills. What `Buffer.copy_from` and `Buffer.fill` do.

Where the host can read both sides, NumPy moves the elements, strides and all. Where it cannot, a device moves bytes,
and both sides must be contiguous. Between devices that know nothing of each other, the bytes go through the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlx.driver.device import HOST
from rlx.driver.element import element_of
from rlx.errors import BufferMismatch, BufferReadOnly, LayoutError

if TYPE_CHECKING:
    from rlx.driver.buffer import Buffer


def check_copy(target: Buffer, source: Buffer) -> None:
    """Raise what `copy` would, before anything is moved."""
    check_writable(target, "copy_from")
    if target.type != source.type:
        raise BufferMismatch(f"a buffer of {target.type} cannot be overwritten by one of {source.type}")
    if target.block.memory.backend.host_visible and source.block.memory.backend.host_visible:
        return
    for side in (target, source):
        if not side.is_contiguous:
            raise LayoutError(
                f"{side.type} with strides {side.strides} is not contiguous; it cannot cross between "
                f"{source.device} and {target.device}",
                hint="copy() it where it is first" if side.block.memory.backend.host_visible else None,
            )


def copy(target: Buffer, source: Buffer) -> None:
    """Overwrite target's elements with source's; the two may overlap.

    Raises BufferMismatch for another shape or dtype, BufferReadOnly, BufferFreed; LayoutError where memory that the
    host cannot read is not contiguous.
    """
    check_copy(target, source)
    to, origin = target.block.memory, source.block.memory
    if to.backend.host_visible and origin.backend.host_visible:
        np.copyto(target.numpy(), source.numpy())
    elif target.nbytes == 0:
        pass
    elif to is origin:
        to.backend.copy_within(target.address, source.address, target.nbytes)
    elif origin.backend.host_visible:
        to.backend.copy_in(target.address, source.address, target.nbytes)
    elif to.backend.host_visible:
        origin.backend.copy_out(target.address, source.address, target.nbytes)
    else:
        copy(target, source.to(HOST))


def check_fill(buffer: Buffer, value: complex | np.generic) -> np.ndarray:
    """`value` as one element of the buffer's dtype: raises what `fill` would, before anything is written.

    Raises BufferMismatch where the dtype cannot hold it, BufferReadOnly, BufferFreed; LayoutError as `copy`.
    """
    check_writable(buffer, "fill")
    element = element_of(buffer.dtype, value)
    if not buffer.block.memory.backend.host_visible and not buffer.is_contiguous:
        raise LayoutError(f"{buffer.type} with strides {buffer.strides} on {buffer.device} is not contiguous")
    return element


def fill(buffer: Buffer, element: np.ndarray) -> None:
    """Set every element. element: what `check_fill` gave."""
    backend = buffer.block.memory.backend
    if backend.host_visible:
        buffer.numpy()[...] = element
    elif buffer.nbytes:
        backend.fill(buffer.address, element.tobytes(), buffer.type.elements)


def check_writable(buffer: Buffer, what: str) -> None:
    """Raises BufferReadOnly."""
    if buffer.readonly:
        raise BufferReadOnly(f"{what}: {buffer.name} of {buffer.type} is read-only", hint="copy() it first")
