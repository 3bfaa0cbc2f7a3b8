"""Softmax inside kernels: what is recognised, and that cheaper maxima and exponentials lose no NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rlx.codegen.kernel import (
    Accumulate,
    Apply,
    Const,
    Declare,
    Expr,
    Let,
    Load,
    Local,
    Loop,
    LoopKernel,
    Memory,
    Stmt,
    Store,
    Var,
)
from rlx.codegen.llvm.softmax import softmax_parts
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.options import Options
from rlx.runtime import Session
from rlx.testing.kernel_runner import TARGETS, index

Change = Callable[[Expr, Expr, Expr], Expr]


def _divided(e: Expr, top: Expr, total: Expr) -> Expr:
    return Apply("div", (e, total), f32)


def _kernel(
    stored: Change = _divided, *, row_store: bool = False, operand: Expr | None = None, summed: int = 64
) -> LoopKernel:
    """Softmax of rows of 64; what is stored, what exp is taken of and how many are summed may be something else."""
    row, i, top, total = Var("row"), Var("i"), Var("top", f32), Var("total", f32)
    x, y = Memory("x", f32, (64, 1)), Memory("y", f32, (64, 1), writable=True)
    kept = Memory("kept", f32, (1,), 0, True)
    element = Load(x, (row, i))
    known, sum_ = Var("known", f32), Var("sum", f32)
    e = Apply("exp", (Apply("sub", (operand or element, known), f32),), f32)
    body: list[Stmt] = [
        Declare(top, Const(-np.inf, f32)),
        Loop(i, index(64), (Accumulate(top, "max", element),), "vector"),
        Let(known, top),
        Local(kept, 64),
        Declare(total, Const(0.0, f32)),
        Loop(i, index(summed), (Accumulate(total, "add", e), Store(kept, (i,), e)), "vector"),
        Let(sum_, total),
        Loop(i, index(64), (Store(y, (row, i), stored(Load(kept, (i,)), known, sum_)),), "vector"),
    ]
    if row_store:
        body.append(Store(y, (row, index(0)), known))
    return LoopKernel("softmax", (x, y), row, index(3), tuple(body))


def test_softmax_is_recognised() -> None:
    parts = softmax_parts(_kernel())
    assert parts.maxima == {"top"}
    assert [e.op for e in parts.exps] == ["exp"]


@pytest.mark.parametrize(
    "kernel",
    [
        _kernel(lambda e, top, total: e),
        _kernel(lambda e, top, total: Apply("max", (_divided(e, top, total), Const(0.0, f32)), f32)),
        _kernel(lambda e, top, total: _divided(Apply("mul", (e, top), f32), top, total)),
        _kernel(row_store=True),
        _kernel(operand=Const(1.0, f32)),
        _kernel(summed=32),
    ],
    ids=["undivided", "NaN may be lost", "maximum multiplies", "maximum is stored", "other elements", "half a sum"],
)
def test_what_only_looks_like_softmax_is_not(kernel: LoopKernel) -> None:
    assert not softmax_parts(kernel).maxima


@pytest.mark.parametrize("target", [t.name for t in TARGETS])
@pytest.mark.parametrize("width", [1, 7, 16, 129, 1000])
def test_rows_with_nan_and_infinities_are_those_of_the_formula(target: str, width: int) -> None:
    x = np.random.default_rng(width).normal(0, 4, (7, width)).astype(np.float32)
    x[0, width // 2] = np.nan
    x[1] = -np.inf
    x[2, 1:] = -np.inf
    x[3, -1] = np.inf
    x[4] = np.where(np.arange(width) % 2, 0.0, -0.0)
    x[5] *= np.float32(1e-42)
    b = GraphBuilder("rows")
    graph = b.build({"y": b.emit("softmax", b.input("x", TensorType(x.shape, f32)), axis=1)})
    got = Session("cpu", Options(target=target, threads=1, cache=False)).compile(graph)(x=x)["y"]
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        expected = np.exp(wide - wide.max(axis=1, keepdims=True))
        expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got, expected, rtol=5e-6, atol=1e-44)
