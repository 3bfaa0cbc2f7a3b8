"""What other work took of the processors while something was timed: a timing beside it is worth less, and says so.

Linux alone tells (`/proc/stat`, steal by other guests of the machine included); elsewhere the answer is always 0. Other
guests' use of the memory's bandwidth is seen by nobody.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

_STAT = Path("/proc/stat")
_IDLE_FIELDS = {3, 4}  # of user, nice, system, idle, iowait, irq, softirq, steal
_FIELDS = 8


class Watch:
    """A context; `others` after it: processors' worth of work that was not this process's, e.g. 0.1 of one."""

    others: float = 0.0

    def __enter__(self) -> Watch:
        self._start = time.perf_counter(), _busy(), time.process_time()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        wall, busy, own = (
            now - then
            for now, then in zip((time.perf_counter(), _busy(), time.process_time()), self._start, strict=True)
        )
        self.others = max(0.0, (busy - own) / wall)


def _busy() -> float:
    """Seconds that all processors were at work since the machine started, for us or for others."""
    if not _STAT.exists():
        return 0.0
    ticks = _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1 : 1 + _FIELDS]
    return sum(int(count) for field, count in enumerate(ticks) if field not in _IDLE_FIELDS) / os.sysconf("SC_CLK_TCK")
