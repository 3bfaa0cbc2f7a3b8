"""Order between RLX and other libraries of this process that work on the same bytes.

Giving. Work that streams have yet to do with the bytes is waited for, and its failure raised. Then the other library's
queue is ordered behind the device's own, without waiting, where it names its queue and the memory can do so
(`QueuedMemory`); otherwise the device is waited for. Where the other library says -1, it has seen to the order itself.
Taking. The device's own queue is ordered behind the one that the other library names.
Queues are numbered as in DLPack. On CUDA: 1 is the legacy default stream, 2 the per-thread one, larger numbers are
handles, and 0 would be ambiguous. On ROCm: 0 is the default, above 2 are handles. On the host there are none.
"""

from __future__ import annotations

from rlx.driver.backend import AsynchronousMemory, QueuedMemory
from rlx.driver.memory import Block, DeviceMemory
from rlx.driver.pending_work import PENDING_WORK

CUDA, ROCM = 2, 10
#: "The reader sees to the order itself."
NO_ORDER = -1
#: Device type -> (the queue meant by none, numbers that mean none)
_QUEUES = {CUDA: (1, (0,)), ROCM: (0, (1, 2))}


def check_queue(memory: DeviceMemory, device_type: int, queue: object) -> str | None:
    """Why `queue` can be none of this memory's, or None where it can be."""
    if queue is None or queue == NO_ORDER:
        return None
    if memory.backend.host_visible or not isinstance(memory.backend, QueuedMemory):
        return f"{memory} has no queues to order with, asked for stream {queue!r}"
    if not isinstance(queue, int) or isinstance(queue, bool) or queue < 0:
        return f"a stream of {memory} is a whole number from 0, or None, or -1, not {queue!r}"
    if queue in _QUEUES.get(device_type, (0, ()))[1]:
        return f"stream {queue} of {memory} could mean several"
    return None


def give(block: Block, device_type: int, queue: int | None) -> None:
    """Let a reader's queue begin behind all that is to be done with the block's bytes. Raises DeviceError.

    queue: the reader's, which `check_queue` found right.
    """
    if queue == NO_ORDER:
        return
    PENDING_WORK.wait(block)
    backend = block.memory.backend
    if backend.host_visible:
        return
    if isinstance(backend, QueuedMemory):
        then = _QUEUES.get(device_type, (0, ()))[0] if queue is None else queue
        if then != backend.queue:
            backend.order(backend.queue, then)
    elif isinstance(backend, AsynchronousMemory):
        backend.synchronize()


def take(memory: DeviceMemory, queue: int) -> None:
    """Let the memory's own queue go on behind what is on the writer's `queue` now."""
    backend = memory.backend
    if isinstance(backend, QueuedMemory) and queue != backend.queue:
        backend.order(queue, backend.queue)


def own_queue(memory: DeviceMemory) -> int | None:
    """The memory's own queue, where it has one that can be named."""
    return memory.backend.queue if isinstance(memory.backend, QueuedMemory) else None
