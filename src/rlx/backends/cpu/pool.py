"""The worker threads that share out one launch: one small pool a process, and one more for each `Options.affinity`.

Workers are Python threads that sit, with the GIL released, in the native loop `rlx_worker` (walker.ll). They start when
a program with more than one thread first runs, never at import; a forked child starts its own. One run owns the pool
at a time (an atomic flag that the walker takes); a run that finds it taken does its work alone, with the same result.
Workers run on until the process ends. Between launches they look for work for some 100 microseconds, then sleep.

Processors. Thread i of a run, the caller being thread 0, is bound to the i-th processor of the affinity; the caller is
never bound. Without one, workers may run where the thread that started them might; one that lay down where the caller
runs now is kept off that processor until it begins.

Layout of the shared block, in bytes, a cache line each: 0 workers (i64), 8 stop (i32); 64 owner (i32), and the
launcher's own: 72 chunks ever told of, 80 generation, 88 threads of the launch (i64); 128 done (i64). Then two lines a
thread, the launcher's first, at 256: ticket (i64: generation above, chunks left below) and job (seven i64), then
asleep, the system's number of a worker's thread (0: it is bound), the processor that it is kept off and the one that
it lay down on (four i32; processors counted from 1, 0: none).
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Callable, Sequence

from rlx.backends.cpu.image import Image
from rlx.driver.fork import renew_in_child

MAX_WORKERS = 255
STOP, TICKETS, TICKET_BYTES = 8, 256, 128
GENERATION, THREAD = 4, 68  # offsets in a thread's lines
BLOCK_BYTES = TICKETS + TICKET_BYTES * (MAX_WORKERS + 1)


class WorkerPool:
    """Up to `MAX_WORKERS` workers and the block that they share with the walker.

    `ensure` may be called from any thread. The pool keeps each image whose code a worker sits in.
    affinity: the processor of each thread of a run, the caller's first.
    """

    def __init__(self, affinity: Sequence[int] | None = None) -> None:
        self.affinity = affinity
        renew_in_child(self)

    def renew(self) -> None:
        """Start without workers, on a block of its own: a parent's threads do not exist in its child."""
        self._block = (ctypes.c_char * (BLOCK_BYTES + 64))()
        self.address = -(-ctypes.addressof(self._block) // 64) * 64
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._images: list[Image] = []

    @property
    def workers(self) -> int:
        """Workers that are running."""
        return len(self._threads)

    def ensure(self, workers: int, image: Image) -> None:
        """Have at least `workers` workers; new ones sit in `image`'s code."""
        if len(self._threads) >= workers:
            return
        with self._lock:
            while len(self._threads) < min(workers, MAX_WORKERS):
                self._start(image)

    def _start(self, image: Image) -> None:
        index = len(self._threads)
        serve = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(image.function("rlx_worker"))
        processor = None if self.affinity is None else self.affinity[index + 1]
        thread = threading.Thread(
            target=_serve, args=(serve, self.address, index, processor), name=f"rlx-worker-{index}", daemon=True
        )
        # Noted before it starts: an interrupt while it does must lose neither the thread nor the code it sits in.
        self._images.append(image)
        self._threads.append(thread)
        ctypes.c_int64.from_address(self.address).value = len(self._threads)
        thread.start()

    def stop(self) -> None:
        """End all workers; no run may be under way."""
        with self._lock:
            ctypes.c_int64.from_address(self.address).value = 0
            ctypes.c_int32.from_address(self.address + STOP).value = 1
            for worker in range(1, 1 + len(self._threads)):
                generation = ctypes.c_uint32.from_address(self.address + TICKETS + TICKET_BYTES * worker + GENERATION)
                generation.value += 1
                ctypes.CDLL(None).syscall(_FUTEX, ctypes.byref(generation), 129, 1)  # FUTEX_WAKE, private
            for thread in self._threads:
                if thread.ident is not None:  # None where an interrupt kept it from starting
                    thread.join()
            self._threads.clear()


#: Number of the futex system call.
_FUTEX = {"x86_64": 202}.get(os.uname().machine, 98)

_pools: dict[tuple[int, ...] | None, WorkerPool] = {}


def pool(affinity: tuple[int, ...] | None = None) -> WorkerPool:
    """This process's pool for an affinity: the same one at each call."""
    return _pools.get(affinity) or _pools.setdefault(affinity, WorkerPool(affinity))


def _serve(loop: Callable[[int, int], None], address: int, index: int, processor: int | None) -> None:
    """What a worker's thread does."""
    if processor is not None:
        os.sched_setaffinity(0, {processor})
    else:
        lines = address + TICKETS + TICKET_BYTES * (index + 1)
        ctypes.c_int32.from_address(lines + THREAD).value = threading.get_native_id()
    loop(address, index)


@atexit.register
def _stop() -> None:
    for each in _pools.values():
        each.stop()
