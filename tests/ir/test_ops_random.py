"""rng_bits: the published known answers of Threefry-2x32, and how a counter becomes a tensor of bits."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.ir import GraphBuilder, interpret
from rlx.ir.dtypes import DType, u32, u64
from rlx.ir.ops.random import threefry2x32

#: Random123 (Salmon et al.), kat_vectors, threefry2x32 with 20 rounds: counter, key, answer.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def bits(seed: int, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    b = GraphBuilder()
    key = b.constant(np.array([0, seed], np.uint32))
    return interpret(b.build({"bits": b.emit("rng_bits", key, shape=shape, dtype=dtype)}), {})["bits"]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_threefry_gives_the_published_answers(counter: tuple, key: tuple, answer: tuple) -> None:
    words = [np.array([word], np.uint32) for word in counter]
    found = threefry2x32(np.array(key, np.uint32), *words)
    assert tuple(int(word[0]) for word in found) == answer


def test_bits_are_those_of_jax_random() -> None:
    # jax/tests/random_test.py, testRngRandomBits, key 1701, without jax_threefry_partitionable.
    assert bits(1701, (3,), u32).tolist() == [56197195, 4200222568, 961309823]
    assert bits(1701, (3,), u64).tolist() == [3982329540505020460, 16822122385914693683, 7882654074788531506]


def test_shape_does_not_change_the_bits() -> None:
    np.testing.assert_array_equal(bits(5, (3, 7), u32).reshape(-1), bits(5, (21,), u32))


def test_keys_give_different_bits_that_look_fair() -> None:
    first, second = bits(1, (4096,), u32), bits(2, (4096,), u32)
    assert not np.array_equal(first, second)
    for drawn in (first, second):
        ones = np.unpackbits(drawn.view(np.uint8)).mean()
        assert abs(ones - 0.5) < 0.006  # 131072 fair bits: 4 standard deviations
