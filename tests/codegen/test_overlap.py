"""Rows that are written while the next are computed: the bits of plain loops, at every place, and nothing outside."""

from __future__ import annotations

import numpy as np
import pytest
from reference_templates import ReferenceTemplates

from rlx.codegen.kernel import Kernel, LoopKernel
from rlx.codegen.llvm.overlap import find_overlap
from rlx.codegen.lower import kernel_builder, lower
from rlx.codegen.target import PRESETS, Target
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import DType, f32, f64
from rlx.passes.pipeline import optimize
from rlx.testing.kernel_runner import TARGETS, Loaded

ROWS = 6
THREE = ("avx512", "avx2", "portable")


def softmax(width: int, dtype: DType, threshold: int, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """The kernel of softmax over rows of `width`; results of `threshold` bytes and more go past the caches."""
    monkeypatch.setattr(kernel_builder, "STREAMED_BYTES", threshold)
    builder = GraphBuilder("softmax")
    x = builder.input("x", TensorType((ROWS, width), dtype))
    (step,) = lower(
        optimize(builder.build({"y": builder.emit("softmax", x, axis=1)})), ReferenceTemplates(), fuse=True
    ).steps
    return step.kernel


def placed(memory: np.ndarray, byte: int, shape: tuple[int, int], dtype: DType) -> np.ndarray:
    """An array that begins `byte` bytes behind a page's beginning."""
    start = -memory.ctypes.data % 4096 + byte
    return memory[start : start + shape[0] * shape[1] * dtype.itemsize].view(dtype.numpy).reshape(shape)


@pytest.mark.parametrize(
    "target", [t for t in TARGETS if t.name in ("avx512", "avx2", "portable")], ids=lambda t: t.name
)
@pytest.mark.parametrize(("width", "dtype"), [(128, f32), (203, f32), (1024, f32), (1025, f32), (129, f64)], ids=str)
def test_rows_have_the_bits_of_plain_loops_wherever_they_lie(
    target: Target, width: int, dtype: DType, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = {
        "plain": softmax(width, dtype, 1 << 40, monkeypatch),
        "overlapped": softmax(width, dtype, 0, monkeypatch),
    }
    run = Loaded(kernels, target)
    rng = np.random.default_rng(width)
    values = (rng.standard_normal((ROWS, width)) * 20).astype(dtype.numpy)
    values[1, rng.integers(width)] = np.nan
    values[2, rng.integers(width, size=3)] = -np.inf
    values[3, rng.integers(width)] = np.inf
    expected = np.empty_like(values)
    run("plain", values, expected, grid=ROWS)
    np.testing.assert_allclose(expected[[0, 2, 4, 5]].sum(1), 1, rtol=1e-5)
    item, size = dtype.itemsize, values.nbytes
    places = [
        (0, 0),
        (0, 2048),
        (item, item),
        (16, 0),
        (0, 4096 - 64),
        (3 * item, 2048 + item),
        (64, 320),
        (0, 704),
        (0, 2560),
    ]
    given = np.empty(size + 3 * 4096, np.uint8)
    for source, result in [*places, (0, 2)]:
        x = placed(given, source, values.shape, dtype)
        x[:] = values
        for begin, end in [(0, ROWS), (0, 1), (2, 2), (1, 4), (5, 6)]:
            memory = np.full(size + 3 * 4096, 0xA5, np.uint8)
            got = placed(memory, result, values.shape, dtype)
            run("overlapped", x, got, grid=(begin, end))
            np.testing.assert_array_equal(got[begin:end].view(np.uint8), expected[begin:end].view(np.uint8))
            got[begin:end].view(np.uint8)[:] = 0xA5
            assert (memory == 0xA5).all(), f"rows {begin} to {end} at byte {result} wrote outside"


def test_rows_overlap_where_the_last_loop_writes_what_the_one_before_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = softmax(1024, f32, 0, monkeypatch)
    assert isinstance(kernel, LoopKernel)
    found = find_overlap(kernel, PRESETS["avx512"])
    assert found is not None
    assert (found.lanes, found.extent, len(found.filled), len(found.kept)) == (16, 1024, 1, 1)
