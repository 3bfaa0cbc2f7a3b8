"""The text of kernels is canonical, and their identity follows it."""

from __future__ import annotations

from dataclasses import replace

from rlx.codegen.kernel import (
    Accumulate,
    Apply,
    Const,
    Cost,
    Declare,
    If,
    Load,
    Loop,
    LoopKernel,
    Memory,
    Store,
    TemplateKernel,
    Var,
)
from rlx.codegen.printer import kernel_identity, kernel_text
from rlx.ir.dtypes import bool_, f32, i64


def row_sum(prefix: str, *, columns: int = 8, op: str = "add", shared: bool = True) -> LoopKernel:
    """out[g] = sum over i of x[g, i]**2; names begin with prefix; shared: the load is one object, used twice."""
    row, column, total = Var(f"{prefix}_row"), Var(f"{prefix}_column"), Var(f"{prefix}_total", f32)
    x = Memory(f"{prefix}_x", f32, (columns, 1))
    out = Memory(f"{prefix}_out", f32, (1,), writable=True)
    load = Load(x, (row, column))
    other = load if shared else Load(x, (row, column))
    loop = Loop(column, Const(columns, i64), (Accumulate(total, op, Apply("mul", (load, other), f32)),), "vector", 2)
    body = (Declare(total, Const(0.0, f32)), loop, Store(out, (row,), total))
    return LoopKernel(f"{prefix} sum", (x, out), row, Const(4, i64), body, cost=Cost(len(prefix), 1))


def test_text_shows_arguments_grid_and_statements_with_names_given_anew() -> None:
    assert kernel_text(row_sum("mine")) == (
        "kernel()\n"
        "  arg a0: f32[8, 1]\n"
        "  arg a1: f32[1] writable\n"
        "  grid v0 in 4:i64\n"
        "    var v1: f32 = 0.0:f32\n"
        "    vector v2 in 8:i64 unroll 2\n"
        "      %0 = load a0[8, 1][v0:i64, v2:i64]\n"
        "      v1 = add(v1, mul.f32(%0, %0))\n"
        "    store a1[1][v0:i64] = v1:f32"
    )


def test_kernels_that_differ_in_names_labels_and_costs_alone_are_one() -> None:
    assert kernel_identity(row_sum("a")) == kernel_identity(row_sum("another"))


def test_a_kernel_put_together_again_has_the_same_identity() -> None:
    assert kernel_identity(row_sum("a")) == kernel_identity(row_sum("a"))


def test_kernels_that_differ_in_code_have_different_identities() -> None:
    base = row_sum("a")
    row = base.index
    others = [
        row_sum("a", columns=16),
        row_sum("a", op="max"),
        replace(base, grid=Const(5, i64)),
        replace(base, scratch_bytes=64),
        replace(base, body=(*base.body, base.body[-1])),
        replace(base, args=(base.args[0], replace(base.args[1], offset=1))),
        replace(base, body=(If(Apply("lt", (row, Const(2, i64)), bool_), base.body),)),
        replace(base, args=(base.args[0], replace(base.args[1], aliases=base.args[0].name))),
    ]
    identities = [kernel_identity(k) for k in (base, *others)]
    assert len(set(identities)) == len(identities)


def test_a_value_used_in_two_scopes_is_printed_in_each_that_cannot_see_the_other() -> None:
    g, x = Var("g"), Memory("x", f32, (1,))
    out = Memory("out", f32, (1,), writable=True)
    value = Apply("exp", (Load(x, (g,)),), f32)
    branch = If(Apply("lt", (g, Const(1, i64)), bool_), (Store(out, (g,), value),), (Store(out, (g,), value),))
    text = kernel_text(LoopKernel("k", (x, out), g, Const(4, i64), (branch,)))
    assert text.count("exp.f32") == 2
    assert "%0" in text
    assert "%1" in text


def test_a_template_is_told_apart_by_its_identity_and_its_arguments() -> None:
    memory = Memory("a", f32, (1,))
    template = TemplateKernel("matmul", (memory,), 4, "matmul 8x8", emit=print)
    assert kernel_text(template) == "template matmul 8x8\n  arg a0: f32[1]\n  grid 4"
    assert kernel_identity(template) == kernel_identity(replace(template, label="other", emit=repr))
    assert kernel_identity(template) != kernel_identity(replace(template, identity="matmul 8x4"))
