"""The memory of a WebGPU device, as addresses.

WebGPU has buffers, not addresses, so each allocation is a wgpu buffer, given a range of a 64-bit space of this module's
own: an address is the range's start plus an offset, and no address is ever given twice. An allocation larger than one
buffer may be is several, one behind the other. Nothing freed is kept: `rlx.driver` does that, for every kind of device.

Ordering. Calls are ordered with the device's queue: a copy out waits for all that was submitted before it.
Threads. Any thread may call; `Gpu.lock` orders what they submit, and is not held while a copy out waits.
"""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rlx.backends.webgpu.gpu import ALIGNMENT, Gpu
from rlx.backends.webgpu.staging import Staging
from rlx.errors import DriverError

#: Addresses are multiples of this, with a gap of as much behind each allocation, so that ranges never touch.
_STEP = 1 << 20


class WebGpuMemory:
    """See the module, and `rlx.driver.MemoryBackend`. open: opens the device, when memory is first asked for."""

    host_visible = False
    #: Offsets of bindings are multiples of it, so parts of an allocation can be bound.
    granularity = ALIGNMENT

    def __init__(self, open: Callable[[], Gpu]) -> None:
        self._open = open
        self._next = 1 << 40
        self._starts: list[int] = []  # of every wgpu buffer, sorted
        self._buffers: dict[int, Any] = {}
        self._allocations: dict[int, list[int]] = {}  # address -> the starts of its buffers
        self._made: Staging | None = None

    @property
    def gpu(self) -> Gpu:
        return self._open()

    @property
    def capacity_bytes(self) -> int:
        """WebGPU does not tell: one buffer's largest size, eight times over."""
        return 8 * self.gpu.limits["max-buffer-size"]

    # -- the address space -------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int, alignment: int) -> int:
        gpu = self.gpu
        gpu.check()
        size = -(-nbytes // ALIGNMENT) * ALIGNMENT
        usage = gpu.wgpu.BufferUsage.STORAGE | gpu.wgpu.BufferUsage.COPY_SRC | gpu.wgpu.BufferUsage.COPY_DST
        made: list[Any] = []
        with gpu.lock:
            try:
                for start in range(0, size, gpu.largest_buffer):
                    part = min(gpu.largest_buffer, size - start)
                    made.append(gpu.device.create_buffer(size=part, usage=usage))
            except gpu.wgpu.GPUError as error:
                for buffer in made:
                    buffer.destroy()
                if isinstance(error, gpu.wgpu.GPUOutOfMemoryError):
                    raise MemoryError(str(error)) from error
                raise gpu.failed(error, "allocating memory") from error
            step = max(alignment, _STEP)
            address = start = -(-self._next // step) * step
            self._next = address + size + step
            starts = []
            for buffer in made:
                starts.append(start)
                self._starts.append(start)
                self._buffers[start] = buffer
                start += buffer.size
            self._allocations[address] = starts
            return address

    def free(self, address: int) -> None:
        gpu = self.gpu
        with gpu.lock:
            for start in self._allocations.pop(address):
                self._starts.remove(start)
                buffer = self._buffers.pop(start)
                if gpu.lost is None:
                    buffer.destroy()

    def place(self, address: int) -> tuple[Any, int]:
        """The wgpu buffer that holds an address, and the offset in it."""
        with self.gpu.lock:
            at = bisect.bisect_right(self._starts, address) - 1
            start = self._starts[at] if at >= 0 else 0
            buffer = self._buffers.get(start)
            if buffer is None or address - start >= buffer.size:
                raise DriverError(f"address {address:#x} belongs to no allocation on {self.gpu.adapter.info['device']}")
            return buffer, address - start

    def _pieces(self, address: int, nbytes: int) -> Iterator[tuple[Any, int, int]]:
        """(wgpu buffer, offset, bytes) of each part of a range, in order."""
        while nbytes:
            buffer, offset = self.place(address)
            part = min(nbytes, buffer.size - offset)
            yield buffer, offset, part
            address, nbytes = address + part, nbytes - part

    # -- transfers ---------------------------------------------------------------------------------------------------

    def copy_in(self, destination: int, host_source: int, nbytes: int) -> None:
        for buffer, offset, part in self._pieces(destination, nbytes):
            self._write(buffer, offset, (ctypes.c_char * part).from_address(host_source), part)
            host_source += part

    def copy_out(self, host_destination: int, source: int, nbytes: int) -> None:
        for buffer, offset, part in self._pieces(source, nbytes):
            self._staging.read(buffer, offset, part, host_destination)
            host_destination += part

    def copy_all_out(self, copies: Sequence[tuple[int, int, int]]) -> None:
        """`copy_out` of many: (host address, address, bytes) each."""
        parts = []
        for host, source, nbytes in copies:
            for buffer, offset, part in self._pieces(source, nbytes):
                parts.append((buffer, offset, part, host))
                host += part
        if parts:
            self._staging.gather(parts)

    def copy_within(self, destination: int, source: int, nbytes: int) -> None:
        """On the device where all is whole words, by way of the host otherwise."""
        if not nbytes or destination == source:
            return
        if (destination | source | nbytes) % 4:
            words = (ctypes.c_char * nbytes)()
            self.copy_out(ctypes.addressof(words), source, nbytes)
            self.copy_in(destination, ctypes.addressof(words), nbytes)
            return
        gpu = self.gpu
        with gpu.lock:
            gpu.check()
            try:
                encoder = gpu.device.create_command_encoder()
                copies = list(self._copies(destination, source, nbytes))
                for target, to, origin, start, part in copies if destination < source else reversed(copies):
                    if target is origin:  # WebGPU refuses to copy within one buffer
                        between = self._staging.between()
                        encoder.copy_buffer_to_buffer(origin, start, between, 0, part)
                        encoder.copy_buffer_to_buffer(between, 0, target, to, part)
                    else:
                        encoder.copy_buffer_to_buffer(origin, start, target, to, part)
                gpu.device.queue.submit([encoder.finish()])
            except gpu.wgpu.GPUError as error:
                raise gpu.failed(error, "copying memory") from error

    def _copies(self, destination: int, source: int, nbytes: int) -> Iterator[tuple[Any, int, Any, int, int]]:
        """(target, its offset, origin, its offset, bytes) of copies between single wgpu buffers."""
        while nbytes:
            (target, to), (origin, start) = self.place(destination), self.place(source)
            part = min(nbytes, self._staging.piece, target.size - to, origin.size - start)
            yield target, to, origin, start, part
            destination, source, nbytes = destination + part, source + part, nbytes - part

    def fill(self, destination: int, pattern: bytes, count: int) -> None:
        """A pattern's size is a power of two, so pieces repeat it whole."""
        nbytes = len(pattern) * count
        data = pattern * (min(nbytes, self._staging.piece) // len(pattern))
        host = (ctypes.c_char * len(data)).from_buffer_copy(data)
        while nbytes:
            part = min(nbytes, len(data))
            self.copy_in(destination, ctypes.addressof(host), part)
            destination, nbytes = destination + part, nbytes - part

    def read_word(self, buffer: Any, offset: int) -> int:
        """The 32-bit word at a multiple of 4; waits for what was submitted before."""
        word = np.empty(1, np.uint32)
        self.read_words(buffer, offset, word)
        return int(word[0])

    def read_words(self, buffer: Any, offset: int, into: np.ndarray) -> None:
        """Fill a contiguous array from a wgpu buffer; waits for what was submitted before."""
        self._staging.read(buffer, offset, into.nbytes, into.ctypes.data)

    def synchronize(self) -> None:
        """See `rlx.driver.backend.AsynchronousMemory`."""
        self._staging.wait()

    @property
    def _staging(self) -> Staging:
        if self._made is None:
            self._made = Staging(self.gpu)
        return self._made

    def _write(self, buffer: Any, offset: int, data: Any, nbytes: int) -> None:
        """The queue writes whole words: those that the range only touches are read first."""
        gpu = self.gpu
        start, end = offset & ~3, (offset + nbytes + 3) & ~3
        if (start, end) == (offset, offset + nbytes):
            self._write_words(buffer, start, data)
            return
        with gpu.reading:  # two threads that write neighbours in one word take turns
            edge = (ctypes.c_char * (end - start))()
            at = ctypes.addressof(edge)
            self._staging.read(buffer, start, 4, at)
            self._staging.read(buffer, end - 4, 4, at + end - start - 4)
            ctypes.memmove(at + offset - start, data, nbytes)
            self._write_words(buffer, start, edge)

    def _write_words(self, buffer: Any, offset: int, data: Any) -> None:
        gpu = self.gpu
        with gpu.lock:
            gpu.check()
            try:
                gpu.device.queue.write_buffer(buffer, offset, data)
            except gpu.wgpu.GPUError as error:
                raise gpu.failed(error, "writing memory") from error
