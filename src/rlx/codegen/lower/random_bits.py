"""Counter-based random bits as expressions: threefry2x32, each output word from its own position.

Counters run from 0 and are split in halves, as jax.random does: words l and l + half come from one block, an odd count
is padded with a 0; a 64-bit value takes its high word from the first half and its low word from the second.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

from rlx.codegen.kernel import Apply, Const, Expr
from rlx.codegen.lower.affine import as_dtype
from rlx.ir.dtypes import DType, bool_, i64, u32, u64

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry_bits(key: tuple[Expr, ...], position: Expr, count: int, dtype: DType) -> Expr:
    """The random word of `dtype` (u32 or u64) at linear `position` (i64) among `count`, for the u32 words of `key`."""
    if dtype is u64:
        x0 = as_dtype(position, u32)
        high, low = threefry2x32(key, x0, _add(x0, Const(count & 0xFFFFFFFF, u32)))
        shifted = Apply("shift_left", (as_dtype(high, u64), Const(32, u64)), u64)
        return Apply("or", (shifted, as_dtype(low, u64)), u64)
    half = (count + 1) // 2
    first = Apply("lt", (position, Const(half, i64)), bool_)
    pair = Apply("select", (first, position, Apply("sub", (position, Const(half, i64)), i64)), i64)
    second: Expr = Apply("add", (pair, Const(half, i64)), i64)
    if count % 2:
        padded = Apply("eq", (second, Const(count, i64)), bool_)
        second = Apply("select", (padded, Const(0, i64), second), i64)
    y0, y1 = threefry2x32(key, as_dtype(pair, u32), as_dtype(second, u32))
    return Apply("select", (first, y0, y1), u32)


def threefry2x32(key: tuple[Expr, ...], x0: Expr, x1: Expr) -> tuple[Expr, Expr]:
    """One block of twenty rounds; everything is u32."""
    k0, k1 = key
    keys = (k0, k1, _xor(_xor(k0, k1), Const(_PARITY, u32)))
    x0, x1 = _add(x0, keys[0]), _add(x1, keys[1])
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x0 = _add(x0, x1)
            left = Apply("shift_left", (x1, Const(rotation, u32)), u32)
            right = Apply("shift_right_logical", (x1, Const(32 - rotation, u32)), u32)
            x1 = _xor(x0, Apply("or", (left, right), u32))
        x0 = _add(x0, keys[(block + 1) % 3])
        x1 = _add(x1, _add(keys[(block + 2) % 3], Const(block + 1, u32)))
    return x0, x1


def _add(a: Expr, b: Expr) -> Expr:
    return Apply("add", (a, b), u32)


def _xor(a: Expr, b: Expr) -> Expr:
    return Apply("xor", (a, b), u32)
