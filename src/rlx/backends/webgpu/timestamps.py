"""How long each launch took, by the device's own clock."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.backends.webgpu.gpu import Gpu
from rlx.backends.webgpu.memory import WebGpuMemory
from rlx.errors import RunError

#: Timestamps of one query set, of the 4096 that WebGPU allows: two a launch.
_COUNT = 1024


class Timestamps:
    """Times of launches, in the order in which `next` was asked for them. times: (label, nanoseconds).

    Raises RunError where the adapter has no timestamps.
    """

    def __init__(self, gpu: Gpu) -> None:
        if not gpu.has_timestamps:
            raise RunError(f"the adapter {gpu.adapter.info['device']} cannot time kernels: it has no timestamps")
        usage = gpu.wgpu.BufferUsage
        self._period = _period(gpu)
        self._queries = gpu.device.create_query_set(type="timestamp", count=_COUNT)
        self._results = gpu.device.create_buffer(size=8 * _COUNT, usage=usage.QUERY_RESOLVE | usage.COPY_SRC)
        self._labels: list[str] = []
        self.times: list[tuple[str, int]] = []

    def next(self, label: str) -> dict[str, Any]:
        """Where the pass of the next launch writes its two timestamps."""
        at = 2 * len(self._labels)
        self._labels.append(label)
        return {
            "query_set": self._queries,
            "beginning_of_pass_write_index": at,
            "end_of_pass_write_index": at + 1,
        }

    @property
    def is_full(self) -> bool:
        """Whether what there is must be submitted and taken before the next."""
        return 2 * len(self._labels) == _COUNT

    def resolve(self, encoder: Any) -> None:
        """Encode what makes the timestamps so far readable."""
        if self._labels:
            encoder.resolve_query_set(self._queries, 0, 2 * len(self._labels), self._results, 0)

    def take(self, memory: WebGpuMemory) -> None:
        """Read what was resolved, once it is submitted."""
        if self._labels:
            stamps = np.empty(2 * len(self._labels), np.uint64)
            memory.read_words(self._results, 0, stamps)
            for label, begin, end in zip(self._labels, stamps[::2], stamps[1::2], strict=True):
                self.times.append((label, max(1, round((int(end) - int(begin)) * self._period))))
            self._labels = []


def _period(gpu: Gpu) -> float:
    """Nanoseconds a tick; wgpu's native library counts in the device's ticks and tells their length."""
    ask = getattr(getattr(gpu.native, "lib", None), "wgpuQueueGetTimestampPeriod", None)
    return float(ask(gpu.device.queue._internal)) if ask is not None else 1.0
