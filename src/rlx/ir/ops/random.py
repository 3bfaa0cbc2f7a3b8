"""Random bits from a counter: equal keys give equal bits, on every device and for ever.

The algorithm is Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
The counter 0, 1, 2, ..., one word of 32 bits each, is split in halves (padded with one zero where its length is odd);
word i of both halves makes a block, and the results are joined the same way. 64-bit results join word i of the first
half, high, with word i of the second half, low. jax.random's threefry bits with
jax_threefry_partitionable=False are these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlx.ir.dtypes import u32, u64
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, define
from rlx.ir.ops import sampling
from rlx.ir.ops.signature import choice, dtype, operands, require, require_dtype, sizes
from rlx.ir.types import TensorType

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
#: Words that one call may draw: the counter has 32 bits.
_MOST_WORDS = 2**32 - 1


def threefry2x32(key: np.ndarray, x0: np.ndarray, x1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encrypt counter blocks (x0[i], x1[i]) with `key`: u32[2]; all u32, 20 rounds."""
    k0, k1 = np.uint32(key[0]), np.uint32(key[1])
    schedule = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    with np.errstate(over="ignore"):
        x0, x1 = x0 + schedule[0], x1 + schedule[1]
        for group in range(5):
            for rotation in _ROTATIONS[group % 2]:
                x0 = x0 + x1
                x1 = (x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))
                x1 = x1 ^ x0
            x0 = x0 + schedule[(group + 1) % 3]
            x1 = x1 + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def _words(key: np.ndarray, count: int) -> np.ndarray:
    """`count` random words of 32 bits."""
    counter = np.arange(count + count % 2, dtype=np.uint32)
    counter[count:] = 0
    return np.concatenate(threefry2x32(key, *np.split(counter, 2)))[:count]


def _infer(call: Call) -> tuple[TensorType, ...]:
    (key,) = operands("rng_bits", call, 1)
    require_dtype("rng_bits", 0, key, (u32,))
    require(key.shape == (2,), f"rng_bits: operand 0 is {key}, the key must be u32[2]")
    choice("rng_bits", call.attrs, "algorithm", ("threefry2x32",))
    result = TensorType(sizes("rng_bits", call.attrs, "shape"), dtype("rng_bits", call.attrs, (u32, u64)))
    if result.is_static:
        words = result.elements * (result.dtype.bits // 32)
        require(
            words <= _MOST_WORDS, f"rng_bits: {result} needs {words} words of 32 bits, one call draws {_MOST_WORDS}"
        )
    return (result,)


def _evaluate(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    (key,) = arrays
    shape = attrs["shape"]
    count = int(np.prod(shape, dtype=np.int64))
    if attrs["dtype"] is u32:
        return (_words(key, count).reshape(shape),)
    high, low = np.split(_words(key, 2 * count).astype(np.uint64), 2)
    return ((high << np.uint64(32) | low).reshape(shape),)


def _samples(rng: np.random.Generator) -> Iterator[Sample]:
    for d in (u32, u64):
        for shape in ((), (1,), (7,), (3, 37), (0, 3), (64,)):
            key = sampling.whole_range(rng, (2,), u32)
            yield Sample((key,), {"shape": shape, "dtype": d, "algorithm": "threefry2x32"})
    for key in ((0, 0), (2**32 - 1, 2**32 - 1)):
        yield Sample((np.array(key, np.uint32),), {"shape": (5,), "dtype": u32, "algorithm": "threefry2x32"})


define(
    Op(
        "rng_bits",
        "Random bits of `shape` and dtype u32 or u64, from a key u32[2] alone.",
        _infer,
        attrs={"shape": REQUIRED, "dtype": u32, "algorithm": "threefry2x32"},
        evaluate=_evaluate,
        samples=_samples,
    )
)
