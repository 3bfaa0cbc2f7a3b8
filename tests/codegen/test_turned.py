"""Blocks turned in registers: transposes and what is fused with them, for every target and at odd sizes."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.codegen.kernel import Apply, LoopKernel
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import assembly
from rlx.codegen.lower.elementwise import elementwise
from rlx.codegen.lower.view import View, dense
from rlx.codegen.program import VirtualBuffer
from rlx.codegen.target import PRESETS, Target
from rlx.ir.dtypes import DType, f32, f64, i32, i64
from rlx.testing.kernel_runner import TARGETS, Loaded


def turned(rows: int, columns: int, dtype: DType) -> LoopKernel:
    """out[i, j] = (x[j, i] - y[i, j]) * z[j, i]."""
    nbytes = rows * columns * dtype.itemsize
    x, y, z, out = (VirtualBuffer(name, nbytes, "temporary") for name in ("x", "y", "z", "out"))
    columns_first = (View(b, dtype, (rows, columns), (1, rows), 0) for b in (x, z))
    x_view, z_view = columns_first
    y_view, out_view = dense(y, dtype, (rows, columns)), dense(out, dtype, (rows, columns))

    def stores(reader, index):
        a, b, c = (reader.builder.load(v, index) for v in (x_view, y_view, z_view))
        return [reader.builder.store(out_view, index, Apply("mul", (Apply("sub", (a, b), dtype), c), dtype))]

    return elementwise(None, (rows, columns), stores, label="turned").kernel


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", [f32, i32, f64, i64], ids=str)
def test_turned_blocks_and_what_is_left_of_them_hold_each_element_once(target: Target, dtype: DType) -> None:
    sizes = [(64, 64), (8, 9), (16, 16), (17, 33), (63, 15), (31, 50), (130, 16), (128, 40)]
    kernels = {f"k{rows}x{columns}": turned(rows, columns, dtype) for rows, columns in sizes}
    run = Loaded(kernels, target)
    rng = np.random.default_rng(3)
    for rows, columns in sizes:
        kernel = kernels[f"k{rows}x{columns}"]
        shapes = (columns, rows), (rows, columns), (columns, rows)
        x, y, z = (rng.integers(-1000, 1000, shape).astype(dtype.numpy) for shape in shapes)
        memory = np.full(rows * columns + 32, 77, dtype.numpy)
        out = memory[16:-16].reshape(rows, columns)
        run(f"k{rows}x{columns}", x, y, z, out, grid=kernel.grid.value)
        np.testing.assert_array_equal(out, (x.T - y) * z.T)
        assert (memory[:16] == 77).all() and (memory[-16:] == 77).all()


@pytest.mark.parametrize("target", ["avx512", "avx2", "neon"])
def test_nothing_is_gathered_where_blocks_are_whole(target: str) -> None:
    module = new_module(PRESETS[target])
    emit_kernel(module, "k", turned(64, 64, f32), PRESETS[target])
    assert "gather" not in assembly(module, PRESETS[target])
