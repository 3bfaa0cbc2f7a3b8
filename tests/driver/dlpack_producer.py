"""A DLPack producer written from dlpack.h alone, so that tests do not share the code under test."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class Legacy(ctypes.Structure):
    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", Tensor),
    )  # fmt: skip


def capsule_name(capsule: object) -> bytes:
    return _name(capsule)


def read(capsule: object) -> Legacy | Versioned:
    """The structure in an unused capsule."""
    name = _name(capsule)
    layout = Versioned if name == b"dltensor_versioned" else Legacy
    return layout.from_address(_pointer(capsule, name))


class Producer:
    """Gives one capsule over `array`'s bytes. Everything in it can be set, right or wrong; `deleted` counts."""

    def __init__(
        self,
        array: np.ndarray,
        *,
        code: int,
        bits: int,
        versioned: bool = True,
        version: tuple[int, int] = (1, 1),
        flags: int = 0,
        lanes: int = 1,
        device: tuple[int, int] = (1, 0),
        shape: Sequence[int] | None = None,
        strides: Sequence[int] | None = (),
        byte_offset: int = 0,
    ) -> None:
        self.array = array
        self.versioned = versioned
        self.deleted = 0
        shape = array.shape if shape is None else shape
        if strides is not None and len(strides) == 0:
            strides = [s // array.itemsize for s in array.strides]
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._strides = (ctypes.c_int64 * len(shape))(*strides) if strides is not None else None
        self._deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._delete)
        self.managed = Versioned() if versioned else Legacy()
        if isinstance(self.managed, Versioned):
            self.managed.major, self.managed.minor = version
            self.managed.flags = flags
        self.managed.deleter = ctypes.cast(self._deleter, ctypes.c_void_p)
        tensor = self.managed.tensor
        tensor.data = array.ctypes.data - byte_offset
        tensor.byte_offset = byte_offset
        tensor.device_type, tensor.device_id = device
        tensor.ndim = len(shape)
        tensor.code, tensor.bits, tensor.lanes = code, bits, lanes
        tensor.shape = ctypes.cast(self._shape, ctypes.POINTER(ctypes.c_int64))
        if self._strides is not None:
            tensor.strides = ctypes.cast(self._strides, ctypes.POINTER(ctypes.c_int64))
        name = b"dltensor_versioned" if versioned else b"dltensor"
        self.capsule = _new(ctypes.addressof(self.managed), name, None)

    def _delete(self, address: int) -> None:
        assert address == ctypes.addressof(self.managed)
        self.deleted += 1

    def __dlpack__(self, *, max_version: Any = None) -> object:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class OldProducer(Producer):
    """From before DLPack 1.0: its method takes no version."""

    def __dlpack__(self) -> object:  # type: ignore[override]
        return self.capsule
