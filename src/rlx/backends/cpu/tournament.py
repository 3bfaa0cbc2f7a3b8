"""Choosing the fastest of several ways to do the same work, by running them in turn.

Each round runs every contender once, beside each other, so that what else the machine does falls on all alike; what is
compared is the time beside the default's of the same round. A contender that keeps being slower than the best leaves
early. The last word is a fresh comparison of winner and default: the luck that made a contender the winner of many does
not count there.

Threads. One tournament at a time gives true times; the contenders bring their own threads. Deterministic but for the
clock, which is an argument.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

Clock = Callable[[], float]

#: Rounds that a contender takes part in at least, and at most.
LEAST_ROUNDS, MOST_ROUNDS = 3, 12
#: Rounds of the last comparison.
FINAL_ROUNDS = 11
#: A contender leaves when its best time is this much above the best of all.
HOPELESS = 1.12
#: What a winner must take off the default's time to replace it.
WORTH = 0.02


@dataclass(eq=False)
class Contender:
    """One way: a call that does the work once, and its seconds so far, a round each."""

    run: Callable[[], object]
    seconds: list[float] = field(default_factory=list)

    @property
    def typical(self) -> float:
        """Median seconds."""
        return median(self.seconds)


def play(contenders: Sequence[Contender], seconds: float, clock: Clock = time.perf_counter) -> Contender:
    """The fastest of the contenders, the first of which is the default, which never leaves; adds to their `seconds`.

    seconds: to spend, about; `LEAST_ROUNDS` are played whatever they take.
    """
    default, left = contenders[0], list(contenders)
    for contender in left:
        contender.run()  # pages, caches and threads
    end = clock() + seconds
    for played in range(1, MOST_ROUNDS + 1):
        _round(left, played, clock)
        if played < LEAST_ROUNDS:
            continue
        best = min(min(c.seconds) for c in left)
        left = [c for c in left if c is default or min(c.seconds) <= HOPELESS * best]
        if clock() >= end or left == [default]:
            break
    return min(left, key=lambda c: _beside(c, default))


def confirm(default: Contender, winner: Contender, seconds: float, clock: Clock = time.perf_counter) -> bool:
    """Whether the winner beats the default in fresh rounds, typically and at best; they keep those rounds' times."""
    default.seconds, winner.seconds = [], []
    end = clock() + seconds
    for played in range(1, FINAL_ROUNDS + 1):
        _round([default, winner], played, clock)
        if played >= LEAST_ROUNDS and clock() >= end:
            break
    typical, best = _beside(winner, default), min(winner.seconds) / min(default.seconds)
    return typical <= 1 - WORTH and best <= 1 - WORTH / 2


def _round(contenders: Sequence[Contender], number: int, clock: Clock) -> None:
    """Each once, every round beginning with another."""
    for i in range(len(contenders)):
        contender = contenders[(i + number) % len(contenders)]
        start = clock()
        contender.run()
        contender.seconds.append(clock() - start)


def _beside(contender: Contender, default: Contender) -> float:
    """The median of a contender's time over the default's, of the rounds that both played."""
    return median(mine / other for mine, other in zip(contender.seconds, default.seconds, strict=False))
