"""Work that streams have yet to do with a block's bytes.

Whoever hands bytes to another library waits for it first (`rlx.driver.handover`). Streams say when an operation is
enqueued and when it has ended.

Threads. Any thread may call anything. A stream's worker never waits: what is before its operation there is done.
Fork. In a forked child nothing is pending: its streams are idle.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlx.driver.fork import renew_in_child
from rlx.errors import DeviceError

if TYPE_CHECKING:
    from rlx.driver.memory import Block


class _Uses:
    """Operations on one block that are enqueued and have not ended, and the failure of one."""

    __slots__ = ("count", "failure")

    def __init__(self) -> None:
        self.count = 0
        self.failure: DeviceError | None = None


class PendingWork:
    """See the module's contract; `PENDING_WORK` is the only one a process needs."""

    def __init__(self) -> None:
        renew_in_child(self)

    def renew(self) -> None:
        """Forget all; see `rlx.driver.fork`."""
        self._changed = threading.Condition(threading.Lock())
        self._uses: dict[Block, _Uses] = {}
        self._thread = threading.local()

    def begin(self, blocks: Iterable[Block]) -> None:
        """An operation on these blocks is enqueued. For streams."""
        with self._changed:
            for block in blocks:
                uses = self._uses.get(block)
                if uses is None:
                    uses = self._uses[block] = _Uses()
                uses.count += 1

    def end(self, blocks: Iterable[Block], failure: DeviceError | None) -> None:
        """It has ended, or never will be. For streams."""
        with self._changed:
            for block in blocks:
                uses = self._uses.get(block)
                if uses is None:  # from before a fork
                    continue
                uses.failure = uses.failure or failure
                uses.count -= 1
                if uses.count == 0:
                    del self._uses[block]
                    self._changed.notify_all()

    def exempt(self) -> None:
        """The calling thread is a stream's worker."""
        self._thread.is_worker = True

    def wait(self, block: Block) -> None:
        """Return when all that is enqueued on the block now has ended. Raises the DeviceError of what failed."""
        if getattr(self._thread, "is_worker", False):
            return
        with self._changed:
            uses = self._uses.get(block)
            if uses is None:
                return
            self._changed.wait_for(lambda: uses.count == 0)
        if uses.failure is not None:
            raise uses.failure.with_traceback(None)


#: What all streams tell.
PENDING_WORK = PendingWork()
