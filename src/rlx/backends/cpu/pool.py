"""The worker threads that share out one launch: one small pool a process.

Workers are Python threads that sit, with the GIL released, in the native loop `rlx_worker` (walker.ll). They start when
a program with more than one thread first runs, never at import; a forked child starts its own. One run owns the pool
at a time (an atomic flag that the walker takes); a run that finds it taken does its work alone, with the same result.
Workers run on until the process ends.

Layout of the shared block, in bytes, a cache line each: 0 workers (i64), 8 stop (i32); 64 owner (i32), and the
launcher's own: 72 chunks ever told of, 80 generation, 88 threads of the launch (i64); 128 done (i64). Then two lines a
thread, the launcher's first, at 256: ticket (i64: generation above, chunks left below) and job (seven i64), then
asleep (i32).
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading

from rlx.backends.cpu.image import Image
from rlx.driver.fork import renew_in_child

MAX_WORKERS = 255
STOP, TICKETS, TICKET_BYTES, GENERATION = 8, 256, 128, 4  # offsets, the last one in a ticket
BLOCK_BYTES = TICKETS + TICKET_BYTES * (MAX_WORKERS + 1)


class WorkerPool:
    """Up to `MAX_WORKERS` workers and the block that they share with the walker.

    `ensure` may be called from any thread. The pool keeps each image whose code a worker sits in.
    """

    def __init__(self) -> None:
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
        thread = threading.Thread(target=serve, args=(self.address, index), name=f"rlx-worker-{index}", daemon=True)
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

_pool = WorkerPool()


def pool() -> WorkerPool:
    """This process's pool."""
    return _pool


atexit.register(_pool.stop)
