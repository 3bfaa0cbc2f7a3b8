"""What a case says about a device: plain checks whose failure reads as a sentence, with or without pytest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

Error = TypeVar("Error", bound=BaseException)


def expect(true: object, sentence: str) -> None:
    """Fail with `sentence`, which says what does not hold."""
    if not true:
        raise AssertionError(sentence)


def expect_equal(got: object, expected: object, what: str) -> None:
    """Fail where two plain values differ."""
    expect(got == expected, f"{what}: got {got!r}, expected {expected!r}")


def expect_bits(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Fail where two arrays differ in shape, dtype or any bit; names the first place."""
    expect_equal((got.shape, got.dtype), (expected.shape, expected.dtype), f"shape and dtype of {what}")
    one, two = (np.frombuffer(np.ascontiguousarray(x).tobytes(), np.uint8) for x in (got, expected))
    wrong = np.flatnonzero(one != two)
    if len(wrong):
        at = np.unravel_index(int(wrong[0]) // got.itemsize, got.shape)
        raise AssertionError(
            f"{what}: {len(wrong)} of {len(one)} bytes are wrong, first at {[int(i) for i in at]}: "
            f"got {got[at]!s}, expected {expected[at]!s}"
        )


def expect_raises(error: type[Error], call: Callable[[], object], *words: str) -> Error:
    """Fail unless `call` raises `error` with all `words` in its text; gives the error."""
    try:
        call()
    except error as raised:
        for word in words:
            expect(word in str(raised), f"the {error.__name__} does not say {word!r}: {raised}")
        return raised
    raise AssertionError(f"no {error.__name__} was raised")
