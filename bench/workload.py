"""What is measured: one piece of work, and for each system how to do it.

A workload's module is imported by every process of a run, so it imports nothing heavy by itself; the functions that set
a system up do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

#: Does the work once and gives the answer to be compared.
Run = Callable[[], np.ndarray]
#: Makes a system ready to run with so many threads, in a process of its own. Raises Missing where it cannot be had.
SetUp = Callable[[int], Run]


class Missing(Exception):
    """This system cannot do this work here, with the reason."""


@dataclass(frozen=True)
class Workload:
    """One row of the report.

    name: short, for the command line. title: for people.
    systems: RLX first. judge: the system that the others' answers are compared with.
    tolerance: greatest difference of any element, relative to the largest of the judge's answer.
    flops, nbytes: arithmetic that must be done, and bytes that must be moved between memory and caches, at least.
    factors: dtype of the products' factors, whose ceiling counts. streams: half the bytes are written, and the ceiling
        is a copy's; otherwise nearly all are read.
    note: what a reader must know about how a system was set up.
    calls: runs that are timed together, for work so short that a clock would disturb it; times are of one.
    """

    name: str
    title: str
    systems: Mapping[str, SetUp]
    judge: str
    tolerance: float
    flops: float
    nbytes: float
    factors: str = "f32"
    streams: bool = False
    note: str = ""
    calls: int = 1
    threads: tuple[int, ...] = field(default=(1, 2))
