"""Lines between rows that are written past the caches: the bits of plain loops, at every place, and nothing outside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference_templates import ReferenceTemplates

from rlx.codegen.kernel import Kernel, Loop, LoopKernel, Store
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.lower import kernel_builder, lower
from rlx.codegen.target import PRESETS, Target
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import DType, f32, f64
from rlx.passes.pipeline import optimize
from rlx.testing.kernel_runner import TARGETS, Loaded

ROWS = 7


def rows_kernel(op: str, width: int, dtype: DType, threshold: int, monkeypatch: pytest.MonkeyPatch) -> LoopKernel:
    """The kernel of `op` over rows of `width`; results of `threshold` bytes and more go past the caches."""
    monkeypatch.setattr(kernel_builder, "STREAMED_BYTES", threshold)
    builder = GraphBuilder(op)
    x = builder.input("x", TensorType((ROWS, width), dtype))
    scale = [builder.input("scale", TensorType((width,), dtype))] if op == "layer_norm" else []
    graph = builder.build({"y": builder.emit(op, x, *scale, axis=1)})
    (step,) = lower(optimize(graph), ReferenceTemplates(), fuse=True).steps
    assert isinstance(step.kernel, LoopKernel)
    return step.kernel


def behind_a_line(memory: np.ndarray, byte: int, shape: tuple[int, int], dtype: DType) -> np.ndarray:
    """An array in `memory` that begins `byte` bytes, and three lines, behind a line's beginning."""
    start = -memory.ctypes.data % 64 + 3 * 64 + byte
    return memory[start : start + shape[0] * shape[1] * dtype.itemsize].view(dtype.numpy).reshape(shape)


@pytest.mark.parametrize(
    "target", [t for t in TARGETS if t.name in ("avx512", "avx2", "portable")], ids=lambda t: t.name
)
@pytest.mark.parametrize("op", ["layer_norm", "softmax"])
@pytest.mark.parametrize(("width", "dtype"), [(128, f32), (131, f32), (1024, f32), (1039, f32), (77, f64)], ids=str)
def test_shares_of_rows_have_the_bits_of_plain_loops_wherever_they_lie(
    target: Target, op: str, width: int, dtype: DType, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels: dict[str, Kernel] = {
        name: rows_kernel(op, width, dtype, threshold, monkeypatch)
        for name, threshold in (("plain", 1 << 40), ("streamed", 0))
    }
    run = Loaded(kernels, target)
    rng = np.random.default_rng(width)
    x = rng.standard_normal((ROWS, width)).astype(dtype.numpy)
    x[1, rng.integers(width)], x[3, -1], x[4, 0] = np.nan, np.inf, -0.0
    given = (x, rng.standard_normal(width).astype(dtype.numpy))[: 2 if op == "layer_norm" else 1]
    expected = np.empty_like(x)
    run("plain", *given, expected, grid=ROWS)
    item = dtype.itemsize
    for byte in (*range(0, 64, item), item // 2):
        for begin, end in [(0, ROWS), (0, 1), (3, 3), (2, 4), (ROWS - 1, ROWS)]:
            memory = np.full(x.nbytes + 7 * 64, 0xA5, np.uint8)
            got = behind_a_line(memory, byte, x.shape, dtype)
            run("streamed", *given, got, grid=(begin, end))
            np.testing.assert_array_equal(got[begin:end].view(np.uint8), expected[begin:end].view(np.uint8))
            got[begin:end].view(np.uint8)[:] = 0xA5
            assert (memory == 0xA5).all(), f"rows {begin} to {end} at byte {byte} wrote outside"


@pytest.mark.parametrize("op", ["layer_norm", "softmax"])
def test_rows_of_one_result_may_be_shared_out_row_by_row_and_in_any_order(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Loaded({"k": rows_kernel(op, 203, f32, 0, monkeypatch)}, TARGETS[0])
    rng = np.random.default_rng(1)
    x = rng.standard_normal((ROWS, 203)).astype(np.float32)
    given = (x, np.ones(203, np.float32))[: 2 if op == "layer_norm" else 1]
    whole = behind_a_line(np.zeros(x.nbytes + 7 * 64, np.uint8), 16, x.shape, f32)
    run("k", *given, whole, grid=ROWS)
    shared = behind_a_line(np.zeros(x.nbytes + 7 * 64, np.uint8), 16, x.shape, f32)
    for share in [(5, 7), (0, 1), (1, 2), (3, 5), (2, 3)]:
        run("k", *given, shared, grid=share)
    np.testing.assert_array_equal(shared.view(np.int32), whole.view(np.int32))


def emitted(kernel: LoopKernel, target: str) -> str:
    module = new_module(PRESETS[target])
    emit_kernel(module, "k", kernel, PRESETS[target])
    return str(module)


def test_the_line_between_rows_is_kept_where_a_vector_is_a_line_and_rows_follow_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that are apart fetch the line in which the next one ends for writing, as they store pieces to it."""
    fetched_for_writing = ", i32 1, i32 3, i32 1)"
    kernel = rows_kernel("layer_norm", 1024, f32, 0, monkeypatch)
    assert fetched_for_writing not in emitted(kernel, "avx512")
    assert fetched_for_writing in emitted(kernel, "avx2")

    *before, last = kernel.body
    assert isinstance(last, Loop)
    (store,) = (s for s in last.body if isinstance(s, Store))
    apart = replace(store.memory, strides=(1040, 1))
    loop = replace(last, body=tuple(replace(s, memory=apart) if s is store else s for s in last.body))
    args = tuple(apart if m is store.memory else m for m in kernel.args)
    assert fetched_for_writing in emitted(replace(kernel, args=args, body=(*before, loop)), "avx512")
