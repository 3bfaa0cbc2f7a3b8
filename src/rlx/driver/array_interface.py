"""The array protocols: bytes described by a dictionary. `__array_interface__` on the host, `__cuda_array_interface__`
on CUDA devices.

Both are version 3. They say nothing of lifetime: whoever reads them keeps the object that gave them. On the host the
data is given as an object, which holds the bytes by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.driver import handover
from rlx.driver.array_object import array_address
from rlx.driver.device import Device
from rlx.driver.foreign import ForeignBytes
from rlx.driver.layout import array_at, byte_range, dense_strides
from rlx.driver.memory import device_memory
from rlx.errors import ArrayInterfaceError, BufferMismatch, IRError, NotHostMemory
from rlx.ir.dtypes import from_numpy
from rlx.ir.types import TensorType, type_of

if TYPE_CHECKING:
    from rlx.driver.buffer import Buffer


def numpy_bytes(array: np.ndarray, device: Device | str) -> ForeignBytes:
    """An array's own bytes, as memory of a device. Raises NotHostMemory, IRError for a dtype that RLX does not have,
    BufferMismatch for what is no array.
    """
    if not isinstance(array, np.ndarray):
        raise BufferMismatch(f"expected a NumPy array, not a {type(array).__name__}", hint="np.asarray(it) makes one")
    memory = device_memory(device)
    if not memory.backend.host_visible:
        hint = "a NumPy array can be copied there with copy=True"
        raise NotHostMemory(f"the memory of {device} is not the host's", hint=hint)
    readonly = not array.flags.writeable
    return ForeignBytes(memory, array_address(array), type_of(array), array.strides, readonly, array, "a NumPy array")


def as_array(buffer: Buffer, dtype: np.dtype | None, copy: bool | None) -> np.ndarray:
    """What `np.asarray(buffer)` gives. Raises NotHostMemory, BufferFreed; BufferMismatch where copy=False cannot be."""
    array = buffer.numpy()
    if dtype is not None and array.dtype != dtype:
        if copy is False:
            raise BufferMismatch(f"{buffer.type} as {np.dtype(dtype)} needs a copy, and copy=False was asked")
        return array.astype(dtype)
    return array.copy() if copy else array


def host_interface(buffer: Buffer) -> dict[str, Any]:
    """`__array_interface__`. Raises NotHostMemory, BufferFreed; AttributeError for a dtype that it cannot name."""
    array = buffer.numpy()
    typestr = _type_string(buffer)
    low, high = byte_range(array.shape, array.strides, array.itemsize)
    start = buffer.address + low
    raw = array_at(start, (high - low,), (1,), np.dtype(np.uint8), readonly=buffer.readonly, keep=array)
    return {
        "version": 3, "data": raw, "offset": -low, "shape": array.shape, "strides": array.strides, "typestr": typestr,
    }  # fmt: skip


def cuda_interface(buffer: Buffer) -> dict[str, Any]:
    """`__cuda_array_interface__`, for buffers on devices of kind "cuda".

    Work that streams have yet to do with the bytes is waited for; `stream` is the queue that the device's own work is
    on, for the reader to order its work behind, or None where all is done.
    Raises AttributeError on any other device and for a dtype that the protocol cannot name, BufferFreed, DeviceError.
    """
    if buffer.device.kind != "cuda":
        raise AttributeError(f"a buffer on {buffer.device} has no CUDA array interface")
    typestr = _type_string(buffer)
    queue = handover.own_queue(buffer.block.memory)
    handover.give(buffer.block, handover.CUDA, queue)
    return {
        "version": 3,
        "shape": buffer.shape,
        "typestr": typestr,
        "data": (buffer.address if buffer.nbytes else 0, buffer.readonly),
        "strides": None if buffer.is_contiguous else buffer.strides,
        "stream": queue,
    }


def cuda_bytes(source: Any, device: Device) -> ForeignBytes:
    """The bytes of an object with `__cuda_array_interface__`; the device's work is ordered behind its stream.

    Raises DeviceNotFound; ArrayInterfaceError: no such attribute, a version before 2, a mask, a dtype without a
    counterpart.
    """
    interface = getattr(source, "__cuda_array_interface__", None)
    what = f"a {type(source).__name__}"
    if not isinstance(interface, dict):
        raise ArrayInterfaceError(f"{what} has no __cuda_array_interface__")
    if interface.get("version", 0) < 2:
        raise ArrayInterfaceError(f"{what} speaks version {interface.get('version')} of the protocol, expected 2 or 3")
    if interface.get("mask") is not None:
        raise ArrayInterfaceError(f"{what} has a mask, which no buffer can have")
    queue = interface.get("stream")
    if queue == 0:
        raise ArrayInterfaceError(f"{what} gives 0 as its stream, which the protocol forbids as ambiguous")
    try:
        dtype = np.dtype(interface["typestr"])
        tensor = TensorType(tuple(int(size) for size in interface["shape"]), from_numpy(dtype))
        address, readonly = interface["data"]
    except (KeyError, TypeError, ValueError, IRError) as error:
        raise ArrayInterfaceError(f"{what} has an interface that RLX cannot take: {error}") from error
    strides = interface.get("strides") or dense_strides(tensor.sizes, dtype.itemsize)
    memory = device_memory(device)
    if queue is not None:
        handover.take(memory, queue)
    return ForeignBytes(memory, int(address), tensor, tuple(strides), bool(readonly), source, "a CUDA array")


def _type_string(buffer: Buffer) -> str:
    dtype = buffer.dtype.numpy
    if dtype.isbuiltin != 1:
        raise AttributeError(f"{buffer.dtype} has no NumPy type string")
    return dtype.str
