"""Threefry-2x32 on Python integers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from op_references.numbers import Arrays, Attrs, from_scalars, scalars


def threefry(key: Sequence[int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32-20 on Python integers, as Random123's documentation describes it."""
    mask = 0xFFFFFFFF
    keys = [int(key[0]), int(key[1]), int(key[0]) ^ int(key[1]) ^ 0x1BD11BDA]
    a, b = (counter[0] + keys[0]) & mask, (counter[1] + keys[1]) & mask
    for i in range(20):
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[i % 8]
        a = (a + b) & mask
        b = ((b << turn | b >> (32 - turn)) & mask) ^ a
        if i % 4 == 3:
            step = i // 4 + 1
            a, b = (a + keys[step % 3]) & mask, (b + keys[(step + 1) % 3] + step) & mask
    return a, b


def rng_bits(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    wide = attrs["dtype"].name == "u64"
    count = math.prod(attrs["shape"])
    words = 2 * count if wide else count
    counter = [*range(words), *([0] if words % 2 else [])]
    half = len(counter) // 2
    blocks = [threefry(scalars(arrays[0]), pair) for pair in zip(counter[:half], counter[half:], strict=True)]
    found = [a for a, _ in blocks] + [b for _, b in blocks]
    values = [found[i] << 32 | found[i + count] for i in range(count)] if wide else found[:count]
    return from_scalars(values, attrs["shape"], attrs["dtype"])
