"""Choosing the fastest of several ways to do the same work, by running them in turn.

Each round runs every contender once, beside each other, so that what else the machine does falls on all alike. A run
gives the times of many short pieces, of which the lower quartile counts: interruptions lengthen some, nothing shortens
one. A contender that keeps being slower than the best leaves early. The last word is a fresh comparison of winner and
default: the luck that made a contender the winner of many does not count there.

Threads. One tournament at a time gives true times; the contenders bring their own threads. Deterministic but for the
clock, which is an argument, and the times that contenders give.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Clock = Callable[[], float]

#: Rounds that a contender takes part in at least, and at most.
LEAST_ROUNDS, MOST_ROUNDS = 4, 60
#: A contender leaves when its time is this much above the best of all.
HOPELESS = 1.10
#: What a winner must take off the default's time to replace it.
WORTH = 0.02


@dataclass(eq=False)
class Contender:
    """One way: a call that does the work and gives the seconds of its equal pieces; and all of those so far."""

    run: Callable[[], Sequence[float]]
    seconds: list[float] = field(default_factory=list)

    @property
    def typical(self) -> float:
        """The lower quartile of seconds a piece."""
        return sorted(self.seconds)[(len(self.seconds) - 1) // 4]


def play(contenders: Sequence[Contender], seconds: float, clock: Clock = time.perf_counter) -> Contender:
    """The fastest of the contenders, the first of which is the default, which never leaves; adds to their `seconds`.

    seconds: to spend, about; `LEAST_ROUNDS` are played whatever they take.
    """
    default, left = contenders[0], list(contenders)
    for contender in left:
        contender.run()  # pages, caches and threads
    end = clock() + seconds
    for played in range(1, MOST_ROUNDS + 1):
        _round(left, played)
        if played < LEAST_ROUNDS:
            continue
        best = min(c.typical for c in left)
        left = [c for c in left if c is default or c.typical <= HOPELESS * best]
        if clock() >= end or left == [default]:
            break
    return min(left, key=lambda c: c.typical)


def confirm(default: Contender, winner: Contender, seconds: float, clock: Clock = time.perf_counter) -> bool:
    """Whether the winner beats the default in fresh rounds; both keep the times of those alone."""
    default.seconds, winner.seconds = [], []
    end = clock() + seconds
    for played in range(1, MOST_ROUNDS + 1):
        _round([default, winner], played)
        if played >= LEAST_ROUNDS and clock() >= end:
            break
    return winner.typical <= (1 - WORTH) * default.typical


def _round(contenders: Sequence[Contender], number: int) -> None:
    """Each once, every round beginning with another."""
    for i in range(len(contenders)):
        contender = contenders[(i + number) % len(contenders)]
        contender.seconds += contender.run()
