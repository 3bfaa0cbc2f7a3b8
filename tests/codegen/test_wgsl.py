"""WGSL from kernel IR: what is computed in 32 bits, kept and forgotten; how grids and packed bytes are laid out."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from rlx.codegen.kernel import (
    Accumulate,
    Apply,
    Assign,
    Const,
    Declare,
    Expr,
    Load,
    Local,
    Loop,
    LoopKernel,
    Memory,
    Stmt,
    Store,
    Var,
)
from rlx.codegen.wgsl import Shader, WgslTarget, emit_kernel
from rlx.codegen.wgsl.interval import interval_of
from rlx.errors import UnsupportedKernel
from rlx.ir.dtypes import DType, bool_, f32, f64, i32, i64

STEP, G = Var("i"), Var("g")
WIDE = WgslTarget(int64=True, max_bindings=8)


def number(value: int) -> Const:
    return Const(value, i64)


def kernel(*body: Stmt, args: tuple[Memory, ...], grid: int = 5) -> LoopKernel:
    return LoopKernel("test", args, G, number(grid), body)


def memory(name: str, dtype: DType = f32, *, written: bool = False) -> Memory:
    return Memory(name, dtype, (1,), writable=written)


X, Y = memory("x"), memory("y", written=True)


@pytest.mark.parametrize(
    ("op", "left", "right", "expected"),
    [
        ("add", (0, 9), (5, 6), (5, 15)),
        ("sub", (0, 9), (5, 6), (-6, 4)),
        ("mul", (-2, 9), (-5, 6), (-45, 54)),
        ("mul", (0, 1 << 20), (0, 1 << 20), None),
        ("div", (-7, 9), (2, 3), (-7, 9)),
        ("div", (7, 9), (2, 3), (2, 4)),
        ("rem", (-7, 9), (4, 4), (-3, 3)),
        ("rem", (9, 11), (4, 4), (1, 3)),
        ("rem", (9, 12), (4, 4), (0, 3)),
        ("min", (0, 9), (5, 6), (0, 6)),
        ("max", (0, 9), (5, 6), (5, 9)),
    ],
)
def test_intervals_hold_every_value_or_are_unknown(op, left, right, expected):
    e = Apply(op, (Var("a"), Var("b")), i64)
    assert interval_of(e, {"a": left, "b": right}, {}) == expected


def test_loaded_integers_and_mutable_variables_are_not_taken_for_narrow():
    loaded = Load(memory("ids", i64), (STEP,))
    assert interval_of(Apply("add", (loaded, number(1)), i64), {}, {}) is None
    assert interval_of(Apply("add", (Var("m"), number(1)), i64), {}, {}) is None


def test_index_arithmetic_needs_no_64_bit_integers():
    at = Apply("rem", (Apply("add", (G, number(3)), i64), number(5)), i64)
    shader = emit_kernel(kernel(Store(Y, (at,), Load(X, (G,))), args=(X, Y)), WgslTarget(int64=False))
    assert "i64" not in shader.source


def test_64_bit_data_is_pairs_of_words_where_the_device_lacks_it():
    ids = memory("ids", i64)
    store = Store(Y, (G,), Apply("convert", (Load(ids, (G,)),), f32))
    source = emit_kernel(kernel(store, args=(ids, Y)), WgslTarget(int64=False)).source
    assert "array<vec2<u32>>" in source and "i64>" not in source
    assert "array<i64>" in emit_kernel(kernel(store, args=(ids, Y)), WIDE).source


def test_f64_is_refused_by_name():
    x, y = memory("x", f64), memory("y", f64, written=True)
    with pytest.raises(UnsupportedKernel, match="f64"):
        emit_kernel(kernel(Store(y, (G,), Load(x, (G,))), args=(x, y)), WIDE)


def test_more_arguments_than_the_device_binds_are_refused():
    args = (*(memory(f"x{i}") for i in range(8)), Y)
    with pytest.raises(UnsupportedKernel, match="9 arguments"):
        emit_kernel(kernel(Store(Y, (G,), Load(args[0], (G,))), args=args), WIDE)


def _loads(shader: Shader) -> int:
    return len(re.findall(r"= a0\[", shader.source))


def test_a_shared_load_is_made_once_until_its_memory_is_stored_to():
    state = Memory("s", f32, (1,), writable=True)
    shared = Load(state, (G,))
    twice = (Store(Y, (G,), shared), Store(Y, (number(0),), shared))
    assert _loads(emit_kernel(kernel(*twice, args=(state, Y)), WIDE)) == 1
    between = (twice[0], Store(state, (G,), Const(1.0, f32)), twice[1])
    assert _loads(emit_kernel(kernel(*between, args=(state, Y)), WIDE)) == 2


def test_a_shared_expression_is_made_again_once_its_variable_is_assigned():
    total = Var("t", f32)
    doubled = Apply("add", (total, total), f32)
    body = (
        Declare(total, Const(1.0, f32)),
        Store(Y, (number(0),), doubled),
        Assign(total, Const(2.0, f32)),
        Store(Y, (number(1),), doubled),
    )
    source = emit_kernel(kernel(*body, args=(Y,)), WIDE).source
    name = re.search(r"var (\w+): f32", source)
    assert name is not None
    assert source.count(f"({name[1]} + {name[1]})") == 2


def test_what_a_loop_changes_is_not_carried_into_its_body():
    total = Var("t", f32)
    doubled = Apply("add", (total, total), f32)
    loop = Loop(STEP, number(3), (Store(Y, (STEP,), doubled), Accumulate(total, "add", Const(1.0, f32))))
    body = (Declare(total, Const(1.0, f32)), Store(Y, (number(0),), doubled), loop)
    source = emit_kernel(kernel(*body, args=(Y,)), WIDE).source
    assert len(re.findall(r"\((m\d+) \+ \1\)", source)) == 2


def test_iterations_of_a_lone_vector_loop_are_invocations():
    at: Expr = Apply("add", (Apply("mul", (G, number(40)), i64), STEP), i64)
    loop = Loop(STEP, number(40), (Store(Y, (at,), Load(X, (at,))),), "vector")
    shader = emit_kernel(kernel(loop, args=(X, Y)), WIDE)
    assert "for (" not in shader.source
    assert shader.workgroups == (-(-5 * 40 // 64), 1)


def test_a_loop_that_sums_stays_a_loop():
    total = Var("t", f32)
    loop = Loop(STEP, number(40), (Accumulate(total, "add", Load(X, (STEP,))),), "vector")
    body = (Declare(total, Const(0.0, f32)), loop, Store(Y, (G,), total))
    assert "for (" in emit_kernel(kernel(*body, args=(X, Y)), WIDE).source


def test_a_grid_of_more_workgroups_than_a_dimension_counts_is_laid_out_in_rows():
    shader = emit_kernel(kernel(Store(Y, (G,), Load(X, (G,))), args=(X, Y), grid=64 * 70000), WIDE)
    columns, rows = shader.workgroups
    assert columns <= 65535 and rows > 1 and columns * rows >= 70000


def test_bytes_are_stored_without_touching_their_neighbours_in_the_word():
    flags = memory("f", bool_, written=True)
    source = emit_kernel(kernel(Store(flags, (G,), Const(True, bool_)), args=(flags,)), WIDE).source
    assert "array<atomic<u32>>" in source and "atomicAnd" in source and "atomicOr" in source


def test_equal_kernels_give_equal_text_whatever_their_names():
    def made(name: str) -> str:
        x, y, g = memory(name + "x", i32), memory(name + "y", i32, written=True), Var(name + "g")
        return emit_kernel(LoopKernel(name, (x, y), g, number(5), (Store(y, (g,), Load(x, (g,))),)), WIDE).source

    assert made("one") == made("two")


def test_a_kernel_of_more_turns_than_the_device_takes_is_unrolled_or_refused():
    total = Var("t", f32)
    step = (Accumulate(total, "add", Load(X, (STEP,))), Store(Y, (STEP,), total))
    loop = Loop(STEP, number(100_000), step, "serial")
    endless = kernel(Declare(total, Const(0.0, f32)), loop, args=(X, Y))
    source = emit_kernel(endless, replace(WIDE, max_turns=1 << 16)).source
    assert "+ 4i)" in source and source.count("a0[") == 4
    assert emit_kernel(endless, WIDE).source.count("a0[") == 1
    with pytest.raises(UnsupportedKernel, match="about 100000 turns"):
        emit_kernel(endless, replace(WIDE, max_turns=1000))


Z = Memory("z", f32, (1000, 1), writable=True)


def _sum(*extra: Stmt, start: float = 0.0) -> LoopKernel:
    """A row of 1000 places to a sum."""
    total = Var("t", f32)
    loop = Loop(STEP, number(1000), (Accumulate(total, "add", Load(X, (STEP,))), *extra), "vector")
    return kernel(Declare(total, Const(start, f32)), loop, Store(Y, (G,), total), args=(X, Y, Z))


def test_a_long_row_is_shared_by_a_workgroup():
    source = emit_kernel(_sum(), WIDE).source
    assert "workgroupBarrier" in source and "if (sharer == 0)" in source


def test_neighbouring_invocations_take_rows_that_lie_side_by_side():
    total, columns = Var("t", f32), Memory("x", f32, (1, 5))
    loop = Loop(STEP, number(1000), (Accumulate(total, "add", Load(columns, (G, STEP))),), "vector")
    body = (Declare(total, Const(0.0, f32)), loop, Store(Y, (G,), total))
    assert "let sharer = i32(local) / 8;" in emit_kernel(kernel(*body, args=(columns, Y)), WIDE).source


def test_a_sum_that_starts_elsewhere_than_at_nothing_is_not_shared():
    assert "workgroupBarrier" not in emit_kernel(_sum(start=1.0), WIDE).source


def test_a_loop_that_reads_what_it_adds_up_is_not_shared():
    running = Store(Z, (G, STEP), Var("t", f32))
    assert "workgroupBarrier" not in emit_kernel(_sum(running), WIDE).source
    assert "workgroupBarrier" in emit_kernel(_sum(Store(Z, (G, STEP), Load(X, (STEP,)))), WIDE).source


def test_lanes_of_several_loops_are_invocations_of_their_own():
    lane, held = Var("v"), Memory("l", f32, (1,), writable=True)
    total = Apply("add", (Load(held, (lane,)), Load(Memory("x", f32, (40, 1)), (STEP, lane))), f32)
    lanes = [
        Local(held, 40),
        Loop(lane, number(40), (Store(held, (lane,), Const(0.0, f32)),), "vector"),
        Loop(STEP, number(10), (Loop(lane, number(40), (Store(held, (lane,), total),), "vector"),)),
        Loop(lane, number(40), (Store(Y, (lane,), Load(held, (lane,))),), "vector"),
    ]
    shader = emit_kernel(kernel(*lanes, args=(Memory("x", f32, (40, 1)), Y), grid=20), WIDE)
    assert "array<f32, 1>" in shader.source and shader.workgroups == (-(-20 * 40 // 64), 1)


def test_turns_that_may_store_to_one_place_are_run_in_order():
    lane, at = Var("v"), Memory("ids", i64, (1,))
    into = Memory("z", f32, (1000, 40, 1), writable=True)
    store = Store(into, (Load(at, (STEP,)), STEP, lane), Load(X, (lane,)))
    loop = Loop(STEP, number(10), (Loop(lane, number(40), (store,), "vector"),))
    assert emit_kernel(kernel(loop, args=(at, X, into), grid=10), WIDE).workgroups == (1, 1)
