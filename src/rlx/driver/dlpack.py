"""DLPack: tensors cross between libraries of one process without copying.

Export. NumPy makes the capsule, so that its lifetime is kept by C code that works during interpreter shutdown and
while an exception is pending; then the fields that NumPy cannot express are set in it: a dtype from ml_dtypes, a device
that is not the host. Import. The capsule is read here, field by field, and its deleter runs when the last reader ends.

Read-only. A versioned capsule (DLPack 1.0) carries the flag, both ways. A legacy capsule cannot: read-only bytes are
refused to a reader that wants one, and bytes that come in one are taken as read-only, since they may be.
Order. Both ways as `rlx.driver.handover` says.
Sub-byte types (i4, u4) take a byte an element here; only a versioned capsule can say so (its "padded" flag).
Structures as in dlpack.h, version 1.1.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.driver import handover
from rlx.driver.device import HOST, Device
from rlx.driver.foreign import ForeignBytes
from rlx.driver.layout import Strides, array_at, dense_strides
from rlx.driver.memory import DeviceMemory, device_memory
from rlx.driver.pending_work import PENDING_WORK
from rlx.errors import DLPackError
from rlx.ir import dtypes
from rlx.ir.dtypes import DType
from rlx.ir.types import TensorType

if TYPE_CHECKING:
    from rlx.driver.buffer import Buffer

CPU = (1, 0)
_NEWEST = (1, 1)
_READ_ONLY, _COPIED, _PADDED = 1, 2, 4
_LEGACY, _VERSIONED = b"dltensor", b"dltensor_versioned"
# kDLInt 0, kDLUInt 1, kDLFloat 2, kDLBfloat 4, kDLComplex 5, kDLBool 6, kDLFloat8_e4m3fn 10, kDLFloat8_e5m2 12
_CODES = {"int": 0, "uint": 1, "float": 2, "complex": 5, "bool": 6}
_CODE_OF: dict[DType, tuple[int, int]] = {d: (_CODES[d.kind], d.bits) for d in dtypes.ALL} | {
    dtypes.bool_: (6, 8), dtypes.bf16: (4, 16), dtypes.f8e4m3: (10, 8), dtypes.f8e5m2: (12, 8),
}  # fmt: skip
_DTYPE_OF = {code: dtype for dtype, code in _CODE_OF.items()}


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Legacy(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_capsule_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_capsule_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_SetName", ctypes.pythonapi)
)
_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # called without the GIL, as the standard allows
_USED = {_LEGACY: b"used_dltensor", _VERSIONED: b"used_dltensor_versioned"}  # a capsule does not copy its name


@dataclass(frozen=True)
class Tensor:
    """A tensor on either side of the protocol. strides: bytes. keep: what holds the bytes."""

    address: int
    shape: tuple[int, ...]
    strides: Strides
    dtype: DType
    device: tuple[int, int]
    readonly: bool
    keep: object


class _Owner:
    """A foreign tensor taken over; its deleter runs when this ends."""

    __slots__ = ("__weakref__",)


def export_buffer(
    buffer: Buffer,
    *,
    stream: Any,
    max_version: tuple[int, int] | None,
    dl_device: tuple[int, int] | None,
    copy: bool | None,
) -> object:
    """What `Buffer.__dlpack__` gives; see there."""
    elsewhere = dl_device is not None and tuple(dl_device) == CPU and not buffer.block.memory.backend.host_visible
    device = CPU if elsewhere else number_of(buffer)
    if dl_device is not None and tuple(dl_device) != device:
        raise DLPackError(f"{buffer.type} is on DLPack device {device}, asked for {dl_device}", hint="use to(device)")
    if elsewhere and copy is False:
        raise DLPackError(f"{buffer.type} is on {buffer.device}: on the host it is a copy, and copy=False was asked")
    wrong = handover.check_queue(device_memory(HOST) if elsewhere else buffer.block.memory, device[0], stream)
    if wrong is not None:
        raise DLPackError(wrong)
    copied = elsewhere or bool(copy)
    if copied:
        PENDING_WORK.wait(buffer.block)
        buffer = buffer.to(HOST) if elsewhere else buffer.copy()
    block, versioned = buffer.block, max_version is not None and max_version[0] >= 1
    tensor = Tensor(buffer.address, buffer.shape, buffer.strides, buffer.dtype, device, buffer.readonly, block)
    capsule = export_tensor(tensor, versioned=versioned, copied=copied)
    handover.give(block, device[0], stream)
    return capsule


def import_bytes(source: Any, copy: bool | None) -> ForeignBytes:
    """The bytes of any object with `__dlpack__`. Raises as `import_tensor`; DLPackError for a device not here."""
    given = import_tensor(source, copy)
    type = TensorType(given.shape, given.dtype)
    memory = memory_of(given.device)
    return ForeignBytes(memory, given.address, type, given.strides, given.readonly, given.keep, "a DLPack tensor")


def number_of(buffer: Buffer) -> tuple[int, int]:
    """(device type, device id). Raises DLPackError where DLPack has no number for the device."""
    if buffer.block.memory.backend.host_visible:
        return CPU
    known = buffer.device.properties.dlpack_device
    if known is None:
        raise DLPackError(f"DLPack has no device type for {buffer.device}", hint="use to(device)")
    return known


def memory_of(number: tuple[int, int]) -> DeviceMemory:
    """The memory that DLPack calls so. Raises DLPackError where none here is."""
    if number == CPU:
        return device_memory(HOST)
    for device in Device.all():
        if device.properties.dlpack_device == number:
            return device_memory(device)
    raise DLPackError(
        f"the tensor is on DLPack device {number}, which is none of RLX's",
        where=f"devices here: {', '.join(map(str, Device.all()))}",
    )


def export_tensor(tensor: Tensor, *, versioned: bool, copied: bool = False) -> object:
    """A capsule over the tensor's bytes.

    Raises DLPackError for strides that are no multiple of the element, and where a legacy capsule cannot say enough.
    """
    code, bits = _CODE_OF[tensor.dtype]
    padded = bits < 8 and tensor.dtype is not dtypes.bool_
    if not versioned and (tensor.readonly or padded):
        what = "that the tensor is read-only" if tensor.readonly else f"that {tensor.dtype} takes a byte an element"
        raise DLPackError(
            f"a legacy DLPack capsule cannot say {what}", hint="the reader must ask with max_version=(1, 0)"
        )
    itemsize = tensor.dtype.itemsize
    if any(stride % itemsize for stride in tensor.strides):
        raise DLPackError(f"strides {tensor.strides} are no multiples of the element's {itemsize} bytes")
    plain = np.dtype({1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}[itemsize])
    carrier = array_at(tensor.address, tensor.shape, tensor.strides, plain, readonly=tensor.readonly, keep=tensor.keep)
    capsule = carrier.__dlpack__(max_version=_NEWEST if versioned else None)
    name = _VERSIONED if versioned else _LEGACY
    managed = (_Versioned if versioned else _Legacy).from_address(_capsule_pointer(capsule, name))
    managed.tensor.dtype.code, managed.tensor.dtype.bits = code, bits
    managed.tensor.device_type, managed.tensor.device_id = tensor.device
    if isinstance(managed, _Versioned):
        managed.flags |= (_COPIED if copied else 0) | (_PADDED if padded else 0)
    return capsule


def import_tensor(source: Any, copy: bool | None = None) -> Tensor:
    """Take over what `source.__dlpack__()` gives.

    copy: passed on where it is not None.
    Raises DLPackError: no such method, a capsule used already, a newer major version, a dtype without a counterpart, a
    copy asked of a library that knows none. Errors of the other library pass through.
    """
    method = getattr(source, "__dlpack__", None)
    if method is None:
        raise DLPackError(f"a {type(source).__name__} has no __dlpack__ method")
    queue = _queue_for(source)
    ordered = {} if queue is None else {"stream": queue}
    try:
        capsule = method(max_version=_NEWEST, **ordered, **({} if copy is None else {"copy": copy}))
    except TypeError:  # a library from before DLPack 1.0
        if copy is not None:
            raise DLPackError(
                f"a {type(source).__name__} cannot be asked for copy={copy}: it is from before DLPack 1.0"
            ) from None
        capsule = method(**ordered)
    for name, layout in ((_VERSIONED, _Versioned), (_LEGACY, _Legacy)):
        if _capsule_is_valid(capsule, name):
            managed = layout.from_address(_capsule_pointer(capsule, name))
            tensor = _read(managed)
            _capsule_rename(capsule, _USED[name])
            if managed.deleter:
                end = weakref.finalize(tensor.keep, _Deleter(managed.deleter), ctypes.addressof(managed))
                end.atexit = False
            return tensor
    raise DLPackError(f"a {type(source).__name__} gave no DLPack capsule, or one that was used already")


def _queue_for(source: Any) -> int | None:
    """The queue of ours that the tensor will be used on, where its device has queues."""
    number = getattr(source, "__dlpack_device__", lambda: CPU)()
    if tuple(number) == CPU:
        return None
    return handover.own_queue(memory_of((int(number[0]), int(number[1]))))


def _read(managed: _Versioned | _Legacy) -> Tensor:
    flags = 0
    if isinstance(managed, _Versioned):
        flags = managed.flags
        if managed.major > _NEWEST[0]:
            raise DLPackError(f"the tensor speaks DLPack {managed.major}.{managed.minor}, RLX speaks {_NEWEST[0]}.x")
    raw = managed.tensor
    code = (raw.dtype.code, raw.dtype.bits)
    dtype = _DTYPE_OF.get(code)
    if dtype is None or raw.dtype.lanes != 1:
        raise DLPackError(f"DLPack dtype (code, bits) {code} with {raw.dtype.lanes} lanes has no RLX dtype")
    if dtype in (dtypes.i4, dtypes.u4) and not flags & _PADDED:
        raise DLPackError(f"packed {dtype} has no RLX dtype; a byte an element, flagged as padded, has")
    shape = tuple(raw.shape[i] for i in range(raw.ndim))
    if raw.strides:
        strides = tuple(raw.strides[i] * dtype.itemsize for i in range(raw.ndim))
    else:
        strides = dense_strides(shape, dtype.itemsize)
    readonly = bool(flags & _READ_ONLY) or isinstance(managed, _Legacy)
    address = (raw.data or 0) + raw.byte_offset
    return Tensor(address, shape, strides, dtype, (raw.device_type, raw.device_id), readonly, _Owner())
