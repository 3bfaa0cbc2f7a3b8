"""Staging buffers: the way back from a device whose memory the host cannot see.

A read copies into a staging buffer, on the queue, maps that buffer and takes the bytes. Buffers come in sizes that
double, two of each, so that one can be filled while the other is emptied; they are made when first needed and kept, so
a program in steady state makes none. Each read waits for its own map, not for a clock.

The other way needs no ring: `queue.write_buffer` stages by itself, rides with the next submission, and was measured no
slower than mapped buffers of our own at any size from 256 bytes to 16 MiB.

Threads. Reads take turns; `Gpu.lock` is held while commands are submitted, not while a map is awaited.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from rlx.backends.webgpu.gpu import Gpu

_LEAST = 1 << 12
#: Longer transfers go in pieces of this size, or smaller where the device's buffers are.
_MOST = 16 << 20


class Staging:
    """The staging buffers of one device.

    piece: bytes that go through one at once, a power of two. made: how many buffers it has made, ever.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._rings: dict[int, list[Any]] = {}
        self._between: Any = None
        self._mark: Any = None
        self.piece = min(_MOST, 1 << (gpu.largest_buffer.bit_length() - 2))
        self.made = 0

    def read(self, buffer: Any, offset: int, nbytes: int, host: int) -> None:
        """Bytes of a wgpu buffer to a host address, after all that was submitted before. Raises DeviceLost."""
        gpu = self._gpu
        with gpu.reading:
            try:
                self._read(buffer, offset, nbytes, host)
            except BaseException:
                self._rings.clear()  # what is mapped, or about to be, serves nobody any more
                raise

    def gather(self, parts: Sequence[tuple[Any, int, int, int]]) -> None:
        """Read many ranges, (wgpu buffer, offset, bytes, host address) each; all at once where one piece holds them."""
        rows, at = [], 0
        for buffer, offset, nbytes, _ in parts:
            start, end = offset & ~3, (offset + nbytes + 3) & ~3
            rows.append((buffer, start, at, end - start))
            at += end - start
        gpu = self._gpu
        with gpu.reading:
            if at > self.piece:
                for part in parts:
                    self.read(*part)
                return
            try:
                staging = self._of_size(at, 0)
                awaited = self._submit(rows, staging, at)
                places = [(row[2] + (part[1] & 3), *part[2:]) for row, part in zip(rows, parts, strict=True)]
                self._take(staging, awaited, places)
            except BaseException:
                self._rings.clear()
                raise

    def _read(self, buffer: Any, offset: int, nbytes: int, host: int) -> None:
        pending: tuple[Any, Any, list[tuple[int, int, int]]] | None = None
        done = turn = 0
        while done < nbytes:
            part = min(self.piece, nbytes - done)
            start, end = (offset + done) & ~3, (offset + done + part + 3) & ~3
            staging = self._of_size(end - start, turn)
            awaited = self._submit([(buffer, start, 0, end - start)], staging, end - start)
            if pending is not None:
                self._take(*pending)
            pending = (staging, awaited, [(offset + done - start, part, host + done)])
            done, turn = done + part, 1 - turn
        if pending is not None:
            self._take(*pending)

    def wait(self) -> None:
        """Return when all that was submitted is done. Raises DeviceLost."""
        gpu = self._gpu
        with gpu.reading:
            staging = self._of_size(4, 0)
            if self._mark is None:
                usage = gpu.wgpu.BufferUsage
                self._mark = self._make(4, usage.COPY_SRC | usage.COPY_DST)
            awaited = self._submit([(self._mark, 0, 0, 4)], staging, 4)
            self._take(staging, awaited, [])

    def between(self) -> Any:
        """A buffer of one piece that copies within one buffer go through."""
        usage = self._gpu.wgpu.BufferUsage
        if self._between is None:
            self._between = self._make(self.piece, usage.COPY_SRC | usage.COPY_DST)
        return self._between

    def _submit(self, copies: Sequence[tuple[Any, int, int, int]], staging: Any, nbytes: int) -> Any:
        """Copy ranges, (wgpu buffer, offset, offset in the staging buffer, bytes) each; the promise of a map."""
        gpu = self._gpu
        with gpu.lock:
            gpu.check()
            try:
                encoder = gpu.device.create_command_encoder()
                for buffer, start, at, size in copies:
                    encoder.copy_buffer_to_buffer(buffer, start, staging, at, size)
                gpu.device.queue.submit([encoder.finish()])
                return staging.map_async(gpu.wgpu.MapMode.READ, 0, nbytes)
            except gpu.wgpu.GPUError as error:
                raise gpu.failed(error, "reading memory") from error

    def _take(self, staging: Any, awaited: Any, places: Sequence[tuple[int, int, int]]) -> None:
        """Once the map is there, take bytes from it: (offset, bytes, host address) each."""
        gpu = self._gpu
        try:
            awaited.sync_wait()
        except (gpu.wgpu.GPUError, RuntimeError) as error:  # a map that fails is a RuntimeError
            raise gpu.failed(error, "reading memory") from error
        end = max((at + nbytes for at, nbytes, _ in places), default=0)
        mapped = staging.read_mapped(0, (end + 3) & ~3, copy=False) if end else b""
        for at, nbytes, host in places:
            view = (ctypes.c_char * nbytes).from_address(host)
            memoryview(view).cast("B")[:] = mapped[at : at + nbytes]
        staging.unmap()

    def _of_size(self, nbytes: int, turn: int) -> Any:
        size = max(_LEAST, 1 << (nbytes - 1).bit_length())
        ring = self._rings.setdefault(size, [])
        while turn >= len(ring):
            usage = self._gpu.wgpu.BufferUsage
            ring.append(self._make(size, usage.MAP_READ | usage.COPY_DST))
        return ring[turn]

    def _make(self, nbytes: int, usage: int) -> Any:
        gpu = self._gpu
        with gpu.lock:
            gpu.check()
            try:
                buffer = gpu.device.create_buffer(size=nbytes, usage=usage)
            except gpu.wgpu.GPUError as error:
                raise gpu.failed(error, "making a staging buffer") from error
            self.made += 1
            return buffer
