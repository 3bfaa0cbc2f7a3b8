"""What a device can do at best: arithmetic and bytes a second, as measured.

Plain data, made by whoever can measure a device; nothing here measures or looks anything up. A kernel's least time
follows from its operations and its bytes: no program can be faster, and the share of it that a kernel reaches says how
much is left to win.

Source of the model: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MemoryLevel:
    """A place that data can lie in: what it holds, in bytes, and the bytes a second that can be read from it."""

    name: str
    capacity: int
    read_bytes: float


@dataclass(frozen=True)
class Ceilings:
    """Of `threads` threads together.

    flops: f32 floating-point operations a second (a fused multiply-add is two).
    read_bytes: bytes a second from the largest memory.
    levels: caches, the nearest first; empty where they were not measured.
    copy_bytes: bytes a second, read and written together, of a copy within the largest memory; None if not measured.
    products: operations a second of products whose factors are not f32, by their dtype's name ("f64", "bf16", "i8"); a
        dtype that is not there is taken to be multiplied as f32 is.
    """

    threads: int
    flops: float
    read_bytes: float
    levels: tuple[MemoryLevel, ...] = ()
    copy_bytes: float | None = None
    products: Mapping[str, float] = field(default_factory=dict)

    def rate(self, nbytes: float) -> float:
        """Bytes a second for data of this size: of the nearest level that holds it."""
        for level in self.levels:
            if nbytes <= level.capacity:
                return level.read_bytes
        return self.read_bytes

    def arithmetic(self, dtype: str) -> float:
        """Operations a second of products of factors of this dtype."""
        return self.products.get(dtype, self.flops)

    def least_seconds(self, flops: float, nbytes: float, dtype: str = "f32") -> float:
        """The least time that this work can take: its arithmetic or its bytes, whichever is longer."""
        return max(flops / self.arithmetic(dtype), nbytes / self.rate(nbytes))
