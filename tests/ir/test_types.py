"""Tensor types: what a shape may be."""

from __future__ import annotations

import pytest

from rlx.errors import IRError
from rlx.ir import Dim, TensorType
from rlx.ir.dtypes import f32, u8


@pytest.mark.parametrize("shape", [(-1,), (1 << 63,), (1 << 40, 1 << 23), (0, 1 << 63), (Dim("n"), 1 << 62, 2)])
def test_a_shape_that_no_memory_has_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(IRError, match="negative|64 bits"):
        TensorType(shape, u8)


def test_bytes_are_elements_times_their_size() -> None:
    assert TensorType((3, 0, 5), f32).nbytes == 0
    assert TensorType((1 << 30, (1 << 31) - 1), f32).nbytes == ((1 << 31) - 1) << 32
