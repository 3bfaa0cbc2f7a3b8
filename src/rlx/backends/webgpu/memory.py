"""The memory of a WebGPU device, as addresses.

WebGPU has buffers, not addresses, so each allocation is a wgpu buffer, given a range of a 64-bit space of this module's
own: an address is the range's start plus an offset, and no address is ever given twice to different buffers. Freed
buffers are kept, up to a bound, and serve the next allocation of their size at their old address, so programs that
allocate at each call find the bind groups they made before.

Ordering. Calls are ordered with the device's queue: a copy out waits for all that was submitted before it.
Threads. Any thread may call; a lock orders calls on one device.
"""

from __future__ import annotations

import bisect
import ctypes
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from rlx.backends.webgpu.gpu import ALIGNMENT, Gpu
from rlx.errors import DriverError

#: Bytes of freed buffers kept for reuse.
_KEPT_BYTES = 256 << 20
#: Copies out go through staging buffers of at least this size.
_LEAST_STAGING = 1 << 16


class WebGpuMemory:
    """See the module, and `rlx.driver.MemoryBackend`. open: opens the device, when memory is first asked for."""

    host_visible = False

    def __init__(self, open: Callable[[], Gpu]) -> None:
        self._open = open
        self._next = 1 << 40
        self._starts: list[int] = []
        self._buffers: dict[int, Any] = {}
        self._free: dict[int, list[int]] = defaultdict(list)
        self._free_bytes = 0
        self._staging: Any = None

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
        limit = gpu.limits["max-buffer-size"]
        if size > limit:
            raise MemoryError(f"the device's largest buffer has {limit} bytes")
        with gpu.lock:
            if self._free[size]:
                self._free_bytes -= size
                return self._free[size].pop()
            usage = gpu.wgpu.BufferUsage
            try:
                buffer = gpu.device.create_buffer(size=size, usage=usage.STORAGE | usage.COPY_SRC | usage.COPY_DST)
            except gpu.wgpu.GPUError as error:
                if isinstance(error, gpu.wgpu.GPUOutOfMemoryError):
                    raise MemoryError(str(error)) from error
                raise gpu.failed(error, "allocating memory") from error
            step = max(alignment, 1 << 20)
            address = -(-self._next // step) * step
            self._next = address + size + step  # a gap, so that ranges never touch
            self._starts.append(address)
            self._buffers[address] = buffer
            return address

    def free(self, address: int) -> None:
        with self.gpu.lock:
            buffer = self._buffers[address]
            if self._free_bytes + buffer.size <= _KEPT_BYTES:
                self._free[buffer.size].append(address)
                self._free_bytes += buffer.size
            else:
                del self._buffers[address]
                self._starts.remove(address)
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

    # -- transfers ---------------------------------------------------------------------------------------------------

    def copy_in(self, destination: int, host_source: int, nbytes: int) -> None:
        if nbytes:
            self._write(destination, (ctypes.c_char * nbytes).from_address(host_source), nbytes)

    def copy_out(self, host_destination: int, source: int, nbytes: int) -> None:
        if nbytes:
            buffer, offset = self.place(source)
            start, end = offset & ~3, (offset + nbytes + 3) & ~3
            words = self._read(buffer, start, end - start)
            ctypes.memmove(host_destination, words[offset - start : offset - start + nbytes], nbytes)

    def copy_within(self, destination: int, source: int, nbytes: int) -> None:
        if not nbytes:
            return
        gpu = self.gpu
        (target, to), (origin, start) = self.place(destination), self.place(source)
        with gpu.lock:
            gpu.check()
            if to % 4 or start % 4 or nbytes % 4:
                begin, end = start & ~3, (start + nbytes + 3) & ~3
                words = self._read(origin, begin, end - begin)[start - begin : start - begin + nbytes]
                self._write(destination, (ctypes.c_char * nbytes).from_buffer_copy(words), nbytes)
                return
            encoder = gpu.device.create_command_encoder()
            if target is origin:
                usage = gpu.wgpu.BufferUsage
                between = gpu.device.create_buffer(size=nbytes, usage=usage.COPY_SRC | usage.COPY_DST)
                encoder.copy_buffer_to_buffer(origin, start, between, 0, nbytes)
                origin, start = between, 0
            encoder.copy_buffer_to_buffer(origin, start, target, to, nbytes)
            gpu.device.queue.submit([encoder.finish()])

    def fill(self, destination: int, pattern: bytes, count: int) -> None:
        if count:
            data = pattern * count
            self._write(destination, (ctypes.c_char * len(data)).from_buffer_copy(data), len(data))

    def read_word(self, buffer: Any, offset: int) -> int:
        """The 32-bit word at a multiple of 4; waits for what was submitted before."""
        return int.from_bytes(self._read(buffer, offset, 4), "little")

    def _write(self, destination: int, data: Any, nbytes: int) -> None:
        """The queue writes whole words: those that the range only touches are read first."""
        gpu = self.gpu
        buffer, offset = self.place(destination)
        with gpu.lock:
            gpu.check()
            start, end = offset & ~3, (offset + nbytes + 3) & ~3
            try:
                if (start, end) != (offset, offset + nbytes):
                    edge = bytearray(end - start)
                    edge[:4] = self._read(buffer, start, 4)
                    edge[-4:] = self._read(buffer, end - 4, 4)
                    edge[offset - start : offset - start + nbytes] = bytes(data)
                    data = edge
                gpu.device.queue.write_buffer(buffer, start, data)
            except gpu.wgpu.GPUError as error:
                raise gpu.failed(error, "writing memory") from error

    def _read(self, buffer: Any, offset: int, nbytes: int) -> bytes:
        gpu = self.gpu
        with gpu.lock:
            gpu.check()
            try:
                staging = self._staging_of(nbytes)
                encoder = gpu.device.create_command_encoder()
                encoder.copy_buffer_to_buffer(buffer, offset, staging, 0, nbytes)
                gpu.device.queue.submit([encoder.finish()])
                staging.map_sync(gpu.wgpu.MapMode.READ, 0, nbytes)
                try:
                    return bytes(staging.read_mapped(0, nbytes, copy=False))
                finally:
                    staging.unmap()
            except gpu.wgpu.GPUError as error:
                raise gpu.failed(error, "reading memory") from error

    def _staging_of(self, nbytes: int) -> Any:
        if self._staging is None or self._staging.size < nbytes:
            usage = self.gpu.wgpu.BufferUsage
            size = max(_LEAST_STAGING, 1 << (nbytes - 1).bit_length())
            self._staging = self.gpu.device.create_buffer(size=size, usage=usage.MAP_READ | usage.COPY_DST)
        return self._staging
