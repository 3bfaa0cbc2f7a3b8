"""Programs bound to their inputs and outputs: what `CompiledGraph.bind` gives.

A runner is called without arguments; each call reads what its inputs hold then and overwrites its outputs. Where a
backend runs on bare host addresses, it makes the runner itself, which is one foreign call; elsewhere, and on buffers, a
`BoundCall` stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from rlx.driver import Buffer
from rlx.errors import ProgramClosed


class Runner(Protocol):
    """A bound program. threads: at most so many of this process's work on a call."""

    threads: int

    def __call__(self) -> None:
        """Run once. Raises ProgramClosed after `close`, or where the program or a buffer is gone."""
        ...

    def close(self) -> None:
        """Let go of what is bound, once no call is under way; calls after it raise ProgramClosed."""
        ...


class BoundCall:
    """Calls `call` as long as no buffer was freed. end: called once, by `close`."""

    def __init__(
        self,
        call: Callable[[], object],
        buffers: Sequence[Buffer] = (),
        threads: int = 1,
        end: Callable[[], None] | None = None,
    ) -> None:
        self.threads = threads
        self._call: Callable[[], object] | None = call
        self._buffers = tuple(buffers)
        self._end = end

    def __call__(self) -> None:
        call = self._call
        if call is None:
            raise ProgramClosed("the runner was closed")
        for buffer in self._buffers:
            if buffer.is_freed:
                raise ProgramClosed(f"a buffer that the runner is bound to was freed: {buffer.type}")
        call()

    def close(self) -> None:
        end, self._call, self._buffers, self._end = self._end, None, (), None
        if end is not None:
            end()
