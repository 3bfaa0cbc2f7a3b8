"""Buffers: typed, shaped bytes that know where they live.

Owner. A buffer made by `empty`, `from_numpy`, `from_dlpack`, `map_file`, `to` or `copy` holds its bytes; views made
from it (`[...]`, `reshape`, `transpose`, `view`) share that hold. `free` ends the hold for the buffer and all its views
at once: each later use of any of them raises BufferFreed. The bytes themselves end with their last reader: a NumPy
array, a DLPack tensor or an operation on a stream that was made before `free` stays valid.
Transfers. Bytes move between devices by `to` and `copy_from` and nothing else. Reading a device's memory as host memory
raises NotHostMemory; it is never a silent copy.
Writing. A buffer over a read-only array, tensor or file is read-only, and so is all that is made from it. Writing to it
raises BufferReadOnly.
Ordering. Calls here happen on the calling thread, at once; a `CommandStream` orders them with a device's work.
Threads. Any thread may call anything. Two threads that write one buffer, or read and write it, must agree on an order.
Equality is identity.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from rlx.driver import dlpack
from rlx.driver.device import HOST, Device
from rlx.driver.layout import Index, Strides, array_at, byte_range, dense_strides, is_dense, layout_of
from rlx.driver.memory import ALIGNMENT, Block, DeviceMemory, device_memory
from rlx.errors import (
    BufferFreed,
    BufferMismatch,
    BufferReadOnly,
    DLPackError,
    FileMapError,
    LayoutError,
    NotHostMemory,
    NotOwner,
)
from rlx.ir.dtypes import DType, from_numpy
from rlx.ir.types import TensorType, type_of


class _Hold:
    """What a buffer and its views share: a block, until `free`."""

    __slots__ = ("block", "name")

    def __init__(self, block: Block, name: str) -> None:
        self.block: Block | None = block
        self.name = name


class Buffer:
    """Typed, shaped, strided bytes on a device; see the module's contract. Made by the class methods, not called.

    type: shape and dtype; the shape is static.
    strides: bytes from one element to the next, an axis each; may be negative or 0.
    readonly: True where writing raises.
    """

    __slots__ = ("_address", "_hold", "_is_view", "readonly", "strides", "type")

    def __init__(
        self, hold: _Hold, address: int, type: TensorType, strides: Strides, *, readonly: bool, is_view: bool
    ) -> None:
        self._hold = hold
        self._address = address
        self._is_view = is_view
        self.type = type
        self.strides = strides
        self.readonly = readonly

    # -- making ----------------------------------------------------------------------------------------------------

    @classmethod
    def empty(
        cls, type: TensorType, device: Device = HOST, *, name: str = "a buffer", alignment: int = ALIGNMENT
    ) -> Self:
        """A buffer of unknown content, row-major.

        name: what it is for, as messages tell it.
        Raises OutOfMemory, DeviceNotFound; IRError for a symbolic shape.
        """
        block = device_memory(device).allocate(type.nbytes, alignment, whose=name)
        return cls.over(block, type, name=name)

    @classmethod
    def over(
        cls, block: Block, type: TensorType, offset: int = 0, *, name: str = "a buffer", owner: Buffer | None = None
    ) -> Self:
        """A row-major buffer over bytes of a block. With `owner` it is a view of that buffer and ends with it.

        Raises BufferMismatch where the bytes do not reach.
        """
        if offset < 0 or offset + type.nbytes > block.nbytes:
            raise BufferMismatch(f"{type} at byte {offset} does not fit into {block.nbytes} bytes")
        strides = dense_strides(type.sizes, type.dtype.itemsize)
        hold = owner._hold if owner is not None else _Hold(block, name)
        readonly = owner is not None and owner.readonly
        return cls(hold, block.address + offset, type, strides, readonly=readonly, is_view=owner is not None)

    @classmethod
    def from_numpy(cls, array: np.ndarray, copy: bool = False, *, device: Device = HOST) -> Self:
        """A buffer over the array's own bytes, or over a copy of them.

        The buffer keeps the array alive, takes its strides, and is read-only where it is.
        device: one whose memory is the host's.
        Raises IRError for a dtype that RLX does not have, NotHostMemory for a device with other memory.
        """
        if copy:
            buffer = cls.empty(type_of(array), device)
            buffer.copy_from(cls.from_numpy(array))
            return buffer
        memory = _host_visible(device, "a NumPy array can be copied there with copy=True")
        return cls._adopt(memory, array, not array.flags.writeable, keep=array, name="a NumPy array")

    @classmethod
    def map_file(cls, path: str | Path, type: TensorType, offset: int = 0, *, writable: bool = False) -> Self:
        """A buffer over a file's own bytes, row-major, from byte `offset` on; read as they are touched.

        writable: writes reach the file; otherwise the buffer is read-only. A file that is cut short while it is mapped
        ends the process when the missing bytes are touched, as with any mapping.
        Raises FileMapError where the file cannot be opened or is too short.
        """
        path = Path(path)
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            with path.open("r+b" if writable else "rb") as file:
                size = path.stat().st_size
                if offset < 0 or offset + type.nbytes > size:
                    raise FileMapError(f"{path} has {size} bytes; {type} at byte {offset} needs {type.nbytes}")
                if type.nbytes == 0:  # an empty range cannot be mapped
                    mapped = np.empty(0, np.uint8)
                else:
                    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
                    length = offset - start + type.nbytes
                    mapping = mmap.mmap(file.fileno(), length, access=access, offset=start)
                    mapped = np.frombuffer(mapping, np.uint8, type.nbytes, offset - start)
        except FileMapError:
            raise
        except (OSError, ValueError) as error:
            raise FileMapError(f"cannot map {path}: {error}") from error
        block = Block(device_memory(HOST), layout_of(mapped)[0], type.nbytes, keep=mapped)
        buffer = cls.over(block, type, name=f"the file {path}")
        buffer.readonly = not writable
        return buffer

    @classmethod
    def from_dlpack(cls, tensor: Any) -> Self:
        """A buffer over the bytes of any object with `__dlpack__`, without copying; read-only where it says so.

        Raises DLPackError where its dtype, layout or device has no counterpart here.
        """
        given = dlpack.import_tensor(tensor)
        memory = device_memory(_device_of(given.device))
        low, high = byte_range(given.shape, given.strides, given.dtype.itemsize)
        hold = _Hold(Block(memory, given.address + low, high - low, keep=given.keep), "a DLPack tensor")
        type = TensorType(given.shape, given.dtype)
        return cls(hold, given.address, type, given.strides, readonly=given.readonly, is_view=False)

    @classmethod
    def _adopt(cls, memory: DeviceMemory, array: np.ndarray, readonly: bool, *, keep: object, name: str) -> Self:
        type = type_of(array)
        address = layout_of(array)[0]
        low, high = byte_range(array.shape, array.strides, array.itemsize)
        block = Block(memory, address + low, high - low, keep=keep)
        return cls(_Hold(block, name), address, type, array.strides, readonly=readonly, is_view=False)

    # -- facts -----------------------------------------------------------------------------------------------------

    @property
    def block(self) -> Block:
        """The bytes held; a reference keeps them alive past `free`. Raises BufferFreed."""
        block = self._hold.block
        if block is None:
            raise BufferFreed(f"{self.type} was used after {self._hold.name} was freed")
        return block

    @property
    def address(self) -> int:
        """Where the first element is: a pointer on the host, the device's own notion elsewhere. Raises BufferFreed."""
        if self._hold.block is None:
            return self.block.address  # raises
        return self._address

    @property
    def device(self) -> Device:
        """Where the bytes are. Raises BufferFreed."""
        return self.block.memory.device

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.sizes

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the elements: their number times their size."""
        return self.type.nbytes

    @property
    def is_contiguous(self) -> bool:
        """True where elements lie row-major without gaps."""
        return is_dense(self.shape, self.strides, self.dtype.itemsize)

    @property
    def is_freed(self) -> bool:
        return self._hold.block is None

    @property
    def is_view(self) -> bool:
        """True where the bytes belong to another buffer or to an arena."""
        return self._is_view

    def __repr__(self) -> str:
        block = self._hold.block
        words = [str(self.type), f"on {block.memory.device}" if block is not None else "freed"]
        words += [word for word, true in (("read-only", self.readonly), ("view", self._is_view)) if true]
        return f"<Buffer {' '.join(words)}>"

    # -- views -----------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Buffer:
        """A view by integers, slices, `...` and None, as NumPy's basic indexing.

        Raises LayoutError for other indices (they would copy) and for ones out of range.
        """
        parts = index if isinstance(index, tuple) else (index,)
        if not all(p is None or p is Ellipsis or isinstance(p, slice | int | np.integer) for p in parts) or any(
            isinstance(p, bool) for p in parts
        ):
            raise LayoutError(f"{self.type} cannot be viewed with {index!r}", hint="only ints and slices make views")
        try:
            # the trailing Ellipsis makes NumPy give a view even of a single element
            return self._view(self._address_array()[parts if Ellipsis in parts else (*parts, Ellipsis)])
        except IndexError as error:
            raise LayoutError(f"{self.type} cannot be viewed with {index!r}: {error}") from None

    def reshape(self, *shape: int) -> Buffer:
        """A view of another shape over the same elements; one size may be -1.

        Raises LayoutError where the number of elements differs or strides cannot express it (`copy` first).
        """
        try:
            return self._view(np.reshape(self._address_array(), shape, copy=False))
        except ValueError as error:
            raise LayoutError(f"{self.type} has no view of shape {shape}: {error}", hint="copy() it first") from None

    def transpose(self, *permutation: int) -> Buffer:
        """A view with axes permuted. Raises LayoutError where `permutation` is none."""
        try:
            return self._view(self._address_array().transpose(permutation))
        except ValueError as error:
            raise LayoutError(f"{self.type} cannot be transposed by {permutation}: {error}") from None

    def view(self, dtype: DType) -> Buffer:
        """The same bytes read as another dtype; where widths differ, the last axis takes the change.

        Raises LayoutError where the last axis is not dense or does not divide.
        """
        try:
            return self._view(self._address_array().view(dtype.numpy))
        except (ValueError, TypeError) as error:
            raise LayoutError(f"{self.type} cannot be read as {dtype}: {error}") from None

    def _address_array(self) -> np.ndarray:
        return array_at(self.address, self.shape, self.strides, self.dtype.numpy)

    def _view(self, array: np.ndarray) -> Buffer:
        address, shape, strides, dtype = layout_of(array)
        type = TensorType(shape, from_numpy(dtype))
        return Buffer(self._hold, address, type, strides, readonly=self.readonly, is_view=True)

    # -- host access -----------------------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """The bytes as a NumPy array, without copying; read-only where the buffer is. It keeps the bytes alive.

        Raises NotHostMemory where the bytes are not the host's, BufferFreed.
        """
        block = self.block
        if not block.memory.backend.host_visible:
            raise NotHostMemory(
                f"{self.type} is on {block.memory.device}, whose memory the host cannot read",
                hint=f"move it first: buffer.to({str(HOST)!r} device)",
            )
        return array_at(self._address, self.shape, self.strides, self.dtype.numpy, readonly=self.readonly, keep=block)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """What `np.asarray` calls; as `numpy()`."""
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise BufferMismatch(f"{self.type} as {np.dtype(dtype)} needs a copy, and copy=False was asked")
            return array.astype(dtype)
        return array.copy() if copy else array

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's array protocol, for dtypes that it can name. `data` is an object, so that it holds the bytes.

        Raises NotHostMemory, BufferFreed; AttributeError for a dtype that needs `__array__`.
        """
        array = self.numpy()
        if array.dtype.isbuiltin != 1:
            raise AttributeError(f"{self.dtype} has no NumPy type string")
        low, high = byte_range(array.shape, array.strides, array.itemsize)
        raw = array_at(self._address + low, (high - low,), (1,), np.dtype(np.uint8), readonly=self.readonly, keep=array)
        return {
            "version": 3, "data": raw, "offset": -low, "shape": array.shape, "strides": array.strides,
            "typestr": array.dtype.str,
        }  # fmt: skip

    # -- DLPack ----------------------------------------------------------------------------------------------------

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A DLPack capsule over the same bytes, or over a copy where `copy` is True; versioned where the reader can.

        Raises DLPackError: a stream on the host, another device, a dtype without a code, or a read-only buffer for a
        reader that does not know the flag.
        """
        device = self.__dlpack_device__()
        if dl_device is not None and tuple(dl_device) != device:
            raise DLPackError(f"{self.type} is on DLPack device {device}, asked for {dl_device}", hint="use to(device)")
        if stream not in (None, -1):
            raise DLPackError(f"{self.device} has no streams to order with, asked for stream {stream!r}")
        source = self.copy() if copy else self
        return dlpack.export_tensor(
            dlpack.Tensor(
                source.address, source.shape, source.strides, source.dtype, device, source.readonly, source.block
            ),
            versioned=max_version is not None and max_version[0] >= 1,
            copied=bool(copy),
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        """(device type, device id). Raises DLPackError where DLPack has no number for the device."""
        if self.block.memory.backend.host_visible:
            return (dlpack.CPU, 0)
        known = self.device.properties.dlpack_device
        if known is None:
            raise DLPackError(f"DLPack has no device type for {self.device}", hint="use to(device)")
        return known

    # -- transfers -------------------------------------------------------------------------------------------------

    def to(self, device: Device) -> Buffer:
        """These elements on `device`: this buffer itself where it is there already, otherwise a dense copy.

        Raises OutOfMemory, DeviceNotFound; LayoutError as `copy_from`.
        """
        if device == self.device:
            return self
        buffer = Buffer.empty(self.type, device)
        buffer.copy_from(self)
        return buffer

    def copy(self) -> Buffer:
        """A dense, writable copy on the same device. Raises OutOfMemory; LayoutError as `copy_from`."""
        buffer = Buffer.empty(self.type, self.device)
        buffer.copy_from(self)
        return buffer

    def copy_from(self, other: Buffer) -> None:
        """Overwrite with the other's elements, wherever it lives; the two may overlap.

        Raises BufferMismatch for another shape or dtype, BufferReadOnly, BufferFreed; LayoutError where memory that
        the host cannot read is not contiguous.
        """
        self._check_writable("copy_from")
        if self.type != other.type:
            raise BufferMismatch(f"a buffer of {self.type} cannot be overwritten by one of {other.type}")
        target, source = self.block, other.block
        if target.memory.backend.host_visible and source.memory.backend.host_visible:
            np.copyto(self.numpy(), other.numpy())
            return
        for side in (self, other):
            if not side.is_contiguous:
                raise LayoutError(
                    f"{side.type} with strides {side.strides} is not contiguous; it cannot cross between "
                    f"{source.memory.device} and {target.memory.device}",
                    hint="copy() it where it is first" if side.block.memory.backend.host_visible else None,
                )
        if self.nbytes == 0:
            return
        if target.memory is source.memory:
            target.memory.backend.copy_within(self.address, other.address, self.nbytes)
        elif source.memory.backend.host_visible:
            target.memory.backend.copy_in(self.address, other.address, self.nbytes)
        elif target.memory.backend.host_visible:
            source.memory.backend.copy_out(self.address, other.address, self.nbytes)
        else:
            self.copy_from(other.to(HOST))

    def fill(self, value: complex | np.generic) -> None:
        """Set every element to `value`, converted to the buffer's dtype.

        Raises BufferMismatch where the dtype cannot hold it, BufferReadOnly, BufferFreed; LayoutError as `copy_from`.
        """
        self._check_writable("fill")
        try:
            element = np.array(value, self.dtype.numpy)
        except (OverflowError, TypeError, ValueError) as error:
            raise BufferMismatch(f"{self.dtype} cannot hold {value!r}: {error}") from None
        backend = self.block.memory.backend
        if backend.host_visible:
            self.numpy()[...] = element
        elif not self.is_contiguous:
            raise LayoutError(f"{self.type} with strides {self.strides} on {self.device} is not contiguous")
        elif self.nbytes:
            backend.fill(self.address, element.tobytes(), self.type.elements)

    def _check_writable(self, what: str) -> None:
        if self.readonly:
            raise BufferReadOnly(f"{what}: {self._hold.name} of {self.type} is read-only", hint="copy() it first")

    # -- the end ---------------------------------------------------------------------------------------------------

    def free(self) -> None:
        """End this buffer and all its views. The bytes end with their last reader. Freeing twice is allowed.

        Raises NotOwner for a view.
        """
        if self._is_view:
            raise NotOwner(f"a view of {self._hold.name} does not own its bytes", hint="free what it was made from")
        self._hold.block = None

    def retain(self) -> Buffer:
        """A buffer over the same bytes that lives by itself: `free` of either does not end the other."""
        hold = _Hold(self.block, self._hold.name)
        return Buffer(hold, self._address, self.type, self.strides, readonly=self.readonly, is_view=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.free()


def _host_visible(device: Device, hint: str) -> DeviceMemory:
    memory = device_memory(device)
    if not memory.backend.host_visible:
        raise NotHostMemory(f"the memory of {device} is not the host's", hint=hint)
    return memory


def _device_of(numbers: tuple[int, int]) -> Device:
    if numbers == (dlpack.CPU, 0):
        return HOST
    for device in Device.all():
        if device.properties.dlpack_device == numbers:
            return device
    raise DLPackError(
        f"the tensor is on DLPack device {numbers}, which is none of RLX's",
        where=f"devices here: {', '.join(map(str, Device.all()))}",
    )
