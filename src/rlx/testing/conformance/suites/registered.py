"""Which suites there are, numerics aside, whose cases follow from the op records."""

from __future__ import annotations

from rlx.testing.conformance.case import Suite
from rlx.testing.conformance.suites import (
    allocator,
    arena,
    buffers,
    command_buffers,
    device_loss,
    devices,
    dlpack,
    events,
    failures,
    handles,
    memory_limits,
    programs,
    queue_graphs,
    semaphores,
    streams,
    threads,
    transfers,
    views,
)

SUITES: tuple[Suite, ...] = tuple(
    module.SUITE
    for module in (
        devices, buffers, views, transfers, dlpack, allocator, arena, streams, events, semaphores, command_buffers,
        programs, handles, failures, memory_limits, threads, device_loss, queue_graphs,
    )
)  # fmt: skip
