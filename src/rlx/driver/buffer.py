"""Buffers: typed, shaped bytes that know where they live.

Owner. A buffer made by `empty`, `from_numpy`, `from_dlpack`, `map_file`, `to` or `copy` holds its bytes; views made
from it (`[...]`, `reshape`, `transpose`, `view`) share that hold. `free` ends the hold for the buffer and all its views
at once: each later use of any of them raises BufferFreed. The bytes themselves end with their last reader: a NumPy
array, a DLPack tensor or an operation on a stream that was made before `free` stays valid.
Transfers. Bytes move between devices by `to` and `copy_from` and nothing else. Reading a device's memory as host memory
raises NotHostMemory; it is never a silent copy.
Writing. A buffer over a read-only array, tensor or file is read-only, and so is all that is made from it. Writing to
it raises BufferReadOnly.
Ordering. Calls here happen on the calling thread, at once, and wait for no stream. Given `stream`, a call checks what
it is given, enqueues its work there and returns; the stream keeps the bytes until the work is done. Handing bytes to
another library (`__dlpack__`, `__cuda_array_interface__`) is ordered as `rlx.driver.handover` says.
Threads. Any thread may call anything. Two threads that write one buffer, or read and write it, must agree on an order.
Equality is identity.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rlx.driver import array_interface, dlpack, transfer, view
from rlx.driver.backend import MemoryKind
from rlx.driver.device import HOST, Device
from rlx.driver.foreign import ForeignBytes
from rlx.driver.layout import Index, Strides, array_at, dense_strides, is_dense, layout_of
from rlx.driver.mapped_file import map_file
from rlx.driver.memory import ALIGNMENT, Block, device_memory
from rlx.errors import BufferDonated, BufferFreed, BufferMismatch, DLPackError, NotHostMemory, NotOwner
from rlx.ir.dtypes import DType, from_numpy
from rlx.ir.types import TensorType, type_of

if TYPE_CHECKING:
    from rlx.driver.stream import CommandStream


class _Hold:
    """What a buffer and its views share: a block, until `free`."""

    __slots__ = ("block", "donated", "name")

    def __init__(self, block: Block, name: str) -> None:
        self.block: Block | None = block
        self.donated = False
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
        cls,
        type: TensorType,
        device: Device | str = HOST,
        *,
        kind: MemoryKind = "device",
        name: str = "a buffer",
        alignment: int = ALIGNMENT,
    ) -> Self:
        """A buffer of unknown content, row-major.

        kind: of memory. "host" and "pinned" memory is the host's, and so is the buffer's device; a device's pinned
        memory is what copies to and from it are fast with. On the CPU, "device", "host" and "unified" are one.
        name: what it is for, as messages tell it.
        Raises OutOfMemory, DeviceNotFound; MemoryKindError where the device has no such memory; IRError for a symbolic
        shape.
        """
        block = device_memory(device, kind).allocate(type.nbytes, alignment, whose=name)
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
    def from_numpy(cls, array: np.ndarray, copy: bool = False, *, device: Device | str = HOST) -> Self:
        """A buffer over the array's own bytes, or over a copy of them.

        The buffer keeps the array alive, takes its strides, and is read-only where it is.
        device: one whose memory is the host's.
        Raises IRError for a dtype that RLX does not have, NotHostMemory for a device with other memory.
        """
        if copy:
            buffer = cls.empty(type_of(array), device)
            buffer.copy_from(cls.from_numpy(array))
            return buffer
        return cls._adopt(array_interface.numpy_bytes(array, device))

    @classmethod
    def map_file(cls, path: str | Path, type: TensorType, offset: int = 0, *, writable: bool = False) -> Self:
        """A buffer over a file's own bytes, row-major, from byte `offset` on; read as they are touched.

        writable: writes reach the file; otherwise the buffer is read-only. A file that is cut short while it is mapped
        ends the process when the missing bytes are touched, as with any mapping.
        Raises FileMapError where the file cannot be opened or is too short.
        """
        return cls._adopt(map_file(Path(path), type, offset, writable=writable), is_file=True)

    @classmethod
    def from_dlpack(cls, tensor: Any, *, device: Device | str | None = None, copy: bool | None = None) -> Self:
        """A buffer over the bytes of any object with `__dlpack__`, without copying; read-only where it says so.

        device: where the buffer is to be; elsewhere than the tensor it is a copy. copy: True copies in any case, False
        never does.
        Raises DLPackError where the tensor's dtype, layout or device has no counterpart here, and where copy=False
        cannot be had.
        """
        buffer = cls._adopt(dlpack.import_bytes(tensor, copy))
        if device is None or Device(device) == buffer.device:
            return buffer
        if copy is False:
            raise DLPackError(f"the tensor is on {buffer.device}: on {device} it is a copy, and copy=False was asked")
        moved = cls.empty(buffer.type, device)
        moved.copy_from(buffer)
        return moved

    @classmethod
    def from_cuda_array(cls, array: Any, device: Device | None = None) -> Self:
        """A buffer over the bytes of any object with `__cuda_array_interface__`, which it keeps alive.

        device: which one the bytes are on, since the protocol does not say; the first CUDA device where None. Its work
        is ordered behind the stream that the object names.
        Raises DeviceNotFound; ArrayInterfaceError where the object has no such interface, or one that no buffer can
        have.
        """
        return cls._adopt(array_interface.cuda_bytes(array, device or Device("cuda")))

    @classmethod
    def _adopt(cls, given: ForeignBytes, *, is_file: bool = False) -> Self:
        hold = _Hold(given.block(is_file=is_file), given.name)
        return cls(hold, given.address, given.type, given.strides, readonly=given.readonly, is_view=False)

    # -- facts -----------------------------------------------------------------------------------------------------

    @property
    def block(self) -> Block:
        """The bytes held; a reference keeps them alive past `free`. Raises BufferFreed."""
        block = self._hold.block
        if block is None and self._hold.donated:
            raise BufferDonated(
                f"{self.type} was used after {self._hold.name} was donated", hint="use what it was donated for instead"
            )
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
    def kinds(self) -> tuple[MemoryKind, ...]:
        """Every kind of memory that the bytes are in, the most telling first. Raises BufferFreed."""
        return self.block.kinds

    @property
    def kind(self) -> MemoryKind:
        """The first of `kinds`: "host" for memory of this process, though the CPU's device memory is that too."""
        return self.block.kinds[0]

    @property
    def name(self) -> str:
        """What the bytes are for, as messages tell it."""
        return self._hold.name

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
        return self._view(view.indexed(self, index))

    def reshape(self, *shape: int) -> Buffer:
        """A view of another shape over the same elements; one size may be -1.

        Raises LayoutError where the number of elements differs or strides cannot express it (`copy` first).
        """
        return self._view(view.reshaped(self, shape))

    def transpose(self, *permutation: int) -> Buffer:
        """A view with axes permuted. Raises LayoutError where `permutation` is none."""
        return self._view(view.transposed(self, permutation))

    def view(self, dtype: DType) -> Buffer:
        """The same bytes read as another dtype; where widths differ, the last axis takes the change.

        Raises LayoutError where the last axis is not dense or does not divide.
        """
        return self._view(view.reinterpreted(self, dtype))

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
                hint=f"move it first: buffer.to({str(HOST)!r})",
            )
        return array_at(self._address, self.shape, self.strides, self.dtype.numpy, readonly=self.readonly, keep=block)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """What `np.asarray` calls; as `numpy()`."""
        return array_interface.as_array(self, dtype, copy)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's array protocol, for dtypes that it can name. `data` is an object, so that it holds the bytes.

        Raises NotHostMemory, BufferFreed; AttributeError for a dtype that needs `__array__`.
        """
        return array_interface.host_interface(self)

    # -- other libraries -------------------------------------------------------------------------------------------

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The CUDA array protocol, version 3, on devices of kind "cuda"; the reader keeps this buffer.

        Raises AttributeError on any other device and for a dtype that the protocol cannot name, so that `hasattr` is
        False; BufferFreed; DeviceError where work that the bytes were waiting for failed.
        """
        return array_interface.cuda_interface(self)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A DLPack capsule over the same bytes, or over a copy; versioned where the reader can take it.

        stream: the reader's queue; -1 where the reader sees to the order. See `rlx.driver.handover`.
        dl_device: the buffer's own, or the host, whatever the device: there it is a copy. copy: False never copies.
        Raises DLPackError: a stream that cannot be, another device, a copy that was forbidden, a dtype without a code,
        a read-only buffer for a reader that does not know the flag. DeviceError where work that the bytes were waiting
        for failed.
        """
        return dlpack.export_buffer(self, stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        """(device type, device id). Raises DLPackError where DLPack has no number for the device."""
        return dlpack.number_of(self)

    # -- transfers -------------------------------------------------------------------------------------------------

    def to(self, device: Device | str, *, stream: CommandStream | None = None) -> Buffer:
        """These elements on `device`: this buffer itself where it is there already, otherwise a dense copy.

        Raises OutOfMemory, DeviceNotFound; LayoutError as `copy_from`.
        """
        return self if Device(device) == self.device else self._copy_on(device, stream)

    def copy(self, *, stream: CommandStream | None = None) -> Buffer:
        """A dense, writable copy on the same device. Raises OutOfMemory; LayoutError as `copy_from`."""
        return self._copy_on(self.device, stream)

    def _copy_on(self, device: Device | str, stream: CommandStream | None) -> Buffer:
        buffer = Buffer.empty(self.type, device)
        buffer.copy_from(self, stream=stream)
        return buffer

    def copy_from(self, other: Buffer, *, stream: CommandStream | None = None) -> None:
        """Overwrite with the other's elements, wherever it lives; the two may overlap.

        Raises BufferMismatch for another shape or dtype and for what is no Buffer, BufferReadOnly, BufferFreed;
        LayoutError where memory that the host cannot read is not contiguous.
        """
        if not isinstance(other, Buffer):
            what = f"{self.type} cannot be overwritten by a {other.__class__.__name__}"
            raise BufferMismatch(what, hint="Buffer.from_numpy(array) is a buffer over an array's bytes")
        if stream is None:
            transfer.copy(self, other)
        else:
            transfer.check_copy(self, other)
            stream.copy(self, other)

    def fill(self, value: complex | np.generic, *, stream: CommandStream | None = None) -> None:
        """Set every element to `value`, converted to the buffer's dtype.

        Raises BufferMismatch where the dtype cannot hold it, BufferReadOnly, BufferFreed; LayoutError as `copy_from`.
        """
        element = transfer.check_fill(self, value)
        if stream is None:
            transfer.fill(self, element)
        else:
            stream.fill(self, value)

    # -- the end ---------------------------------------------------------------------------------------------------

    def free(self, *, stream: CommandStream | None = None) -> None:
        """End this buffer and all its views. The bytes end with their last reader. Freeing twice is allowed.

        stream: one that uses the bytes in ways that it does not know of, by their address: they end when it has done
        what is enqueued now. Raises NotOwner for a view.
        """
        if self._is_view:
            raise NotOwner(f"a view of {self._hold.name} does not own its bytes", hint="free what it was made from")
        if stream is not None and not self.is_freed:
            stream.run(_last_use, [self], name=f"free of {self.name}")
        self._hold.block = None

    def retain(self) -> Buffer:
        """A buffer over the same bytes that lives by itself: `free` of either does not end the other."""
        hold = _Hold(self.block, self._hold.name)
        return Buffer(hold, self._address, self.type, self.strides, readonly=self.readonly, is_view=False)

    def donate(self) -> Buffer:
        """A buffer that takes the bytes over: this one and all its views end, and say so where they are used later.

        Later uses raise BufferDonated, a BufferFreed. Raises NotOwner for a view.
        """
        taken = self.retain()
        self.free()
        self._hold.donated = True
        return taken

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.free()


def _last_use(inputs: object, outputs: object) -> None:
    """Holds its inputs until a stream has come to it, and does nothing."""
