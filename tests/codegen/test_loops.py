"""Loop kernels on every instruction set: tails, reductions, views, masks, variables, branches, private memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rlx.codegen.kernel import (
    Accumulate,
    Apply,
    Assign,
    Const,
    Declare,
    Expr,
    If,
    Let,
    Load,
    Local,
    Loop,
    LoopKernel,
    Memory,
    Stmt,
    Store,
    Var,
    While,
)
from rlx.codegen.target import Target
from rlx.errors import UnsupportedKernel
from rlx.ir.dtypes import DType, bf16, bool_, c64, f16, f32, f64, i8, i32, i64, u8
from rlx.testing.kernel_runner import SIZES, TARGETS, Loaded, index

Run = Callable[..., None]

I, J, G, N = Var("i"), Var("j"), Var("g"), Var("n")  # noqa: E741


@pytest.fixture(params=TARGETS, ids=lambda t: t.name)
def run(request: pytest.FixtureRequest) -> Run:
    """run(kernel, *arrays, grid=, sizes=) compiles a kernel for the target and calls it."""
    target: Target = request.param

    def call(kernel: LoopKernel, *arrays: np.ndarray, **options: object) -> None:
        Loaded({"k": kernel}, target)("k", *arrays, **options)

    return call


def vector(name: str, dtype: DType = f32, *, stride: int | Expr = 1, **options: object) -> Memory:
    return Memory(name, dtype, (stride,), **options)


def op(name: str, *args: Expr, dtype: DType | None = None) -> Apply:
    return Apply(name, args, dtype or args[0].dtype)


def kernel(args: tuple[Memory, ...], *body: Stmt, grid: int = 1, sizes: tuple[Var, ...] = ()) -> LoopKernel:
    return LoopKernel("test", args, G, index(grid), body, sizes=sizes)


def uniform(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("unroll", [1, 4])
@pytest.mark.parametrize("known", [True, False])
def test_a_vector_loop_writes_each_element_once_and_nothing_behind_the_last(run: Run, unroll: int, known: bool) -> None:
    x, out = vector("x"), vector("out", writable=True)
    rng = np.random.default_rng(0)
    for size in SIZES:
        extent: Expr = index(size) if known else N
        loop = Loop(I, extent, (Store(out, (I,), op("add", Load(x, (I,)), Const(1.0, f32))),), "vector", unroll)
        given, got = uniform(rng, size + 64), np.full(size + 64, 7, np.float32)
        run(kernel((x, out), loop, sizes=(N,)), given, got, sizes=(size,))
        np.testing.assert_array_equal(got[:size], given[:size] + 1)
        np.testing.assert_array_equal(got[size:], 7)


@pytest.mark.parametrize("size", [3, 17, 18, 33, 65])
def test_a_tail_of_narrowed_elements_writes_nothing_behind_the_last(run: Run, size: int) -> None:
    """One lane left over, known at compile time, after a conversion to fewer bits: LLVM 22 stored too many."""
    for source, to in ((f32, bf16), (f32, f16), (i32, i8), (i32, u8), (i64, i32), (i64, i8), (f64, f32), (f32, i8)):
        x, out = vector("x", source), vector("out", to, writable=True)
        loop = Loop(I, index(size), (Store(out, (I,), op("convert", Load(x, (I,)), dtype=to)),), "vector")
        given, got = np.arange(size).astype(source.numpy), np.full(size + 16, 7, to.numpy)
        run(kernel((x, out), loop), given, got)
        np.testing.assert_array_equal(got[:size], given.astype(to.numpy), err_msg=f"{source} to {to}")
        np.testing.assert_array_equal(got[size:], np.full(16, 7, to.numpy), err_msg=f"{source} to {to}")


def test_a_masked_tail_touches_no_memory_behind_the_last_element(run: Run) -> None:
    """The arrays end where a page ends; the page behind may not be read or written."""
    import ctypes
    import mmap

    page = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    arrays, maps = [], []
    for _ in range(2):
        memory = mmap.mmap(-1, 2 * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert libc.mprotect(ctypes.c_void_p(base + page), page, 0) == 0
        maps.append((memory, base))
        arrays.append(np.frombuffer((ctypes.c_char * page).from_address(base), np.uint8))
    for dtype in (f32, i8, f64, f16):
        count = 37
        x, out = vector("x", dtype), vector("out", dtype, writable=True)
        loop = Loop(I, N, (Store(out, (I,), op("neg", Load(x, (I,)))),), "vector")
        given, got = (a.view(dtype.numpy)[-count:] for a in arrays)
        given[...] = np.arange(count)
        run(kernel((x, out), loop, sizes=(N,)), given, got, sizes=(count,))
        np.testing.assert_array_equal(got, -given)
    for _, base in maps:
        libc.mprotect(ctypes.c_void_p(base + page), page, mmap.PROT_READ | mmap.PROT_WRITE)


def test_a_worker_runs_its_range_of_the_grid_and_no_other_index(run: Run) -> None:
    out = Memory("out", i32, (4, 1), writable=True)
    loop = Loop(I, index(4), (Store(out, (G, I), Const(1, i32)),), "vector")
    got = np.zeros((10, 4), np.int32)
    run(kernel((out,), loop, grid=10), got, grid=(3, 7))
    np.testing.assert_array_equal(got.any(axis=1), [False] * 3 + [True] * 4 + [False] * 3)


@pytest.mark.parametrize("unroll", [1, 3, 4])
@pytest.mark.parametrize("name", ["add", "max", "min", "mul"])
def test_a_reduction_over_a_vector_loop_combines_every_element(run: Run, name: str, unroll: int) -> None:
    x, out, total = vector("x"), vector("out", writable=True), Var("total", f32)
    numpy_op = {"add": np.sum, "max": np.max, "min": np.min, "mul": np.prod}[name]
    first = {"add": 0.0, "max": -np.inf, "min": np.inf, "mul": 1.0}[name]
    rng = np.random.default_rng(1)
    for size in SIZES:
        given = uniform(rng, size) + np.float32(1.5 if name == "mul" else 0)
        given = np.sign(given) if name == "mul" else given
        got = np.zeros(1, np.float32)
        loop = Loop(I, N, (Accumulate(total, name, Load(x, (I,))),), "vector", unroll)
        body = (Declare(total, Const(first, f32)), loop, Store(out, (index(0),), total))
        run(kernel((x, out), *body, sizes=(N,)), given, got, sizes=(size,))
        expected = numpy_op(given.astype(np.float64)) if size else first
        np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [i8, u8, i32, i64, f16, f64, c64, bool_], ids=str)
def test_every_dtype_reduces_in_lanes(run: Run, dtype: DType) -> None:
    name = "or" if dtype is bool_ else "add"
    rng = np.random.default_rng(2)
    x, out, total = vector("x", dtype), vector("out", dtype, writable=True), Var("total", dtype)
    for size in (0, 5, 67):
        given = rng.integers(0, 3 if dtype is not bool_ else 2, size).astype(dtype.numpy)
        got = np.ones(1, dtype.numpy)
        loop = Loop(I, N, (Accumulate(total, name, Load(x, (I,))),), "vector", 2)
        body = (Declare(total, Const(0, dtype)), loop, Store(out, (index(0),), total))
        run(kernel((x, out), *body, sizes=(N,)), given, got, sizes=(size,))
        assert got[0] == (given.any() if dtype is bool_ else given.sum(dtype=dtype.numpy))


def test_a_sum_of_products_and_its_maximum_may_share_one_loop(run: Run) -> None:
    x, y, out = vector("x"), vector("y"), vector("out", writable=True)
    dot, peak = Var("dot", f32), Var("peak", f32)
    product = op("mul", Load(x, (I,)), Load(y, (I,)))
    loop = Loop(I, N, (Accumulate(dot, "add", product), Accumulate(peak, "max", product)), "vector", 2)
    body = (
        Declare(dot, Const(0.0, f32)),
        Declare(peak, Const(-np.inf, f32)),
        loop,
        Store(out, (index(0),), dot),
        Store(out, (index(1),), peak),
    )
    a, b = uniform(np.random.default_rng(3), 2, 1000)
    got = np.zeros(2, np.float32)
    run(kernel((x, y, out), *body, sizes=(N,)), a, b, got, sizes=(1000,))
    np.testing.assert_allclose(got, [a.astype(np.float64) @ b, np.max(a * b)], rtol=1e-5)


def test_softmax_of_rows_from_three_loops(run: Run) -> None:
    rows, columns = 5, 37
    x, out = Memory("x", f32, (columns, 1)), Memory("out", f32, (columns, 1), writable=True)
    peak, total = Var("peak", f32), Var("total", f32)
    shifted = op("exp", op("sub", Load(x, (G, I)), peak))
    body = (
        Declare(peak, Const(-np.inf, f32)),
        Loop(I, index(columns), (Accumulate(peak, "max", Load(x, (G, I))),), "vector", 2),
        Declare(total, Const(0.0, f32)),
        Loop(I, index(columns), (Store(out, (G, I), shifted), Accumulate(total, "add", shifted)), "vector", 2),
        Loop(I, index(columns), (Store(out, (G, I), op("div", Load(out, (G, I)), total)),), "vector"),
    )
    given = uniform(np.random.default_rng(4), rows, columns) * 10
    got = np.zeros_like(given)
    run(kernel((x, out), *body, grid=rows), given, got, grid=rows)
    e = np.exp(given.astype(np.float64) - given.max(axis=1, keepdims=True))
    np.testing.assert_allclose(got, e / e.sum(axis=1, keepdims=True), rtol=2e-6)


@pytest.mark.parametrize("dtype", [f32, i8, f64, c64, f16, bool_], ids=str)
def test_views_may_be_strided_reversed_broadcast_or_computed(run: Run, dtype: DType) -> None:
    rng = np.random.default_rng(5)
    size = 45
    source = rng.integers(0, 2 if dtype is bool_ else 100, 4 * size).astype(dtype.numpy)
    table = rng.permutation(4 * size)[:size].astype(np.int32)
    picks = vector("t", i32)
    views = {
        "strided": (Memory("x", dtype, (3,), 2), (I,), source[2 : 2 + 3 * size : 3]),
        "reversed": (Memory("x", dtype, (-1,), size - 1), (I,), source[:size][::-1]),
        "broadcast": (Memory("x", dtype, (0,), 9), (I,), np.repeat(source[9], size)),
        "one place": (Memory("x", dtype, (1,)), (index(4),), np.repeat(source[4], size)),
        "looked up": (Memory("x", dtype, (1,)), (op("convert", Load(picks, (I,)), dtype=i64),), source[table]),
        "sum of two": (Memory("x", dtype, (1, 2)), (I, op("mul", I, index(1))), source[: 3 * size : 3]),
    }
    out = vector("out", dtype, writable=True)
    for name, (memory, place, expected) in views.items():
        got = np.zeros(size, dtype.numpy)
        loop = Loop(I, N, (Store(out, (I,), Load(memory, place)),), "vector")
        run(kernel((memory, picks, out), loop, sizes=(N,)), source, table, got, sizes=(size,))
        np.testing.assert_array_equal(got, expected, err_msg=name)


@pytest.mark.parametrize("dtype", [f32, i8, c64], ids=str)
def test_stores_may_be_strided_or_scattered(run: Run, dtype: DType) -> None:
    size, rng = 21, np.random.default_rng(6)
    x, places = vector("x", dtype), vector("p", i64)
    given, where = rng.integers(0, 100, size).astype(dtype.numpy), rng.permutation(3 * size)[:size]
    for memory, place, at in (
        (Memory("out", dtype, (2,), 1, writable=True), I, 1 + 2 * np.arange(size)),
        (Memory("out", dtype, (1,), writable=True), Load(places, (I,)), where),
    ):
        got = np.zeros(3 * size, dtype.numpy)
        loop = Loop(I, N, (Store(memory, (place,), Load(x, (I,))),), "vector")
        run(kernel((x, places, memory), loop, sizes=(N,)), given, where, got, sizes=(size,))
        expected = np.zeros_like(got)
        expected[at] = given
        np.testing.assert_array_equal(got, expected)


def test_strides_and_offsets_may_be_known_at_run_time_only(run: Run) -> None:
    step, start, count = Var("step"), Var("start"), 19
    x, out = Memory("x", f32, (step,), start), vector("out", writable=True)
    loop = Loop(I, N, (Store(out, (I,), Load(x, (I,))),), "vector")
    given = np.arange(100, dtype=np.float32)
    got = np.zeros(count, np.float32)
    run(kernel((x, out), loop, sizes=(N, step, start)), given, got, sizes=(count, 4, 7))
    np.testing.assert_array_equal(got, given[7 : 7 + 4 * count : 4])


@pytest.mark.parametrize("dtype", [f32, i8, f64, c64, bool_], ids=str)
def test_masked_loads_give_other_and_masked_stores_leave_memory_alone(run: Run, dtype: DType) -> None:
    size = 41
    x, out = vector("x", dtype), vector("out", dtype, writable=True)
    inside = op("lt", I, index(30), dtype=bool_)
    loaded = Load(x, (op("sub", I, index(3)),), op("ge", I, index(3), dtype=bool_), Const(1, dtype))
    loop = Loop(I, N, (Store(out, (I,), loaded, inside),), "vector")
    given = np.random.default_rng(7).integers(0, 2, size).astype(dtype.numpy)
    got = np.zeros(size, dtype.numpy)
    run(kernel((x, out), loop, sizes=(N,)), given, got, sizes=(size,))
    expected = np.concatenate([np.ones(3), given[:27], np.zeros(size - 30)]).astype(dtype.numpy)
    np.testing.assert_array_equal(got, expected)


def test_a_masked_load_may_run_backwards(run: Run) -> None:
    size = 41
    x, out, fill = vector("x"), vector("out", writable=True), op("convert", I, dtype=f32)
    place = op("sub", index(size - 1), I)
    loaded = Load(x, (place,), op("lt", place, index(30), dtype=bool_), fill)
    given = uniform(np.random.default_rng(11), 30)
    got = np.zeros(size, np.float32)
    run(kernel((x, out), Loop(I, N, (Store(out, (I,), loaded),), "vector"), sizes=(N,)), given, got, sizes=(size,))
    np.testing.assert_array_equal(got, np.concatenate([np.arange(11), given[::-1]]))


def test_a_uniform_load_behind_a_false_mask_is_not_made(run: Run) -> None:
    x, out = vector("x"), vector("out", writable=True)
    far = Load(x, (index(1 << 40),), op("lt", G, index(0), dtype=bool_), Const(5.0, f32))
    got = np.zeros(20, np.float32)
    run(kernel((x, out), Loop(I, index(20), (Store(out, (I,), far),), "vector")), np.zeros(1, np.float32), got)
    np.testing.assert_array_equal(got, 5)


def test_a_loop_index_is_a_value_too(run: Run) -> None:
    out = vector("out", i64, writable=True)
    twice = op("add", op("mul", I, I), G)
    got = np.zeros(21, np.int64)
    run(kernel((out,), Loop(I, index(21), (Store(out, (I,), twice),), "vector")), got)
    np.testing.assert_array_equal(got, np.arange(21) ** 2)


def test_inner_loops_and_variables_of_a_vector_loop_work_lane_by_lane(run: Run) -> None:
    """Column sums: rows are walked inside the vector loop over columns."""
    rows, columns = 7, 37
    x, out = Memory("x", f32, (columns, 1)), vector("out", writable=True)
    total, peak = Var("total", f32), Var("peak", f32)
    inner = Loop(J, index(rows), (Accumulate(total, "add", Load(x, (J, I))),))
    body = (
        Declare(total, Const(0.0, f32)),
        inner,
        Store(out, (I,), total),
        Accumulate(peak, "max", total),
    )
    given = uniform(np.random.default_rng(8), rows, columns)
    got = np.zeros(columns + 1, np.float32)
    whole = (
        Declare(peak, Const(-np.inf, f32)),
        Loop(I, index(columns), body, "vector"),
        Store(out, (index(columns),), peak),
    )
    run(kernel((x, out), *whole), given, got)
    np.testing.assert_allclose(got[:-1], given.sum(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)
    assert got[-1] == got[:-1].max()


def test_unrolled_loops_variables_and_branches(run: Run) -> None:
    out, state = vector("out", i64, writable=True), Var("state", i64)
    odd = op("eq", op("and", I, index(1)), index(1), dtype=bool_)
    step = If(odd, (Assign(state, op("add", state, I)),), (Assign(state, op("mul", state, index(2))),))
    got = np.zeros(1, np.int64)
    run(
        kernel(
            (out,), Declare(state, index(1)), Loop(I, index(6), (step,), "unrolled"), Store(out, (index(0),), state)
        ),
        got,
    )
    expected = 1
    for i in range(6):
        expected = expected + i if i % 2 else expected * 2
    assert got[0] == expected


def test_while_reads_its_variables_anew_before_each_turn(run: Run) -> None:
    x, out, state, turns = vector("x", i64), vector("out", i64, writable=True), Var("state", i64), Var("turns", i64)
    even = op("eq", op("rem", state, index(2)), index(0), dtype=bool_)
    collatz = If(
        even,
        (Assign(state, op("div", state, index(2))),),
        (Assign(state, op("add", op("mul", state, index(3)), index(1))),),
    )
    body = (
        Declare(state, Load(x, (G,))),
        Declare(turns, index(0)),
        While(op("gt", state, index(1), dtype=bool_), (collatz, Assign(turns, op("add", turns, index(1))))),
        Store(out, (G,), turns),
    )
    got = np.zeros(4, np.int64)
    run(kernel((x, out), *body, grid=4), np.array([1, 6, 7, 27], np.int64), got, grid=4)
    np.testing.assert_array_equal(got, [0, 8, 16, 111])


def test_private_memory_carries_values_from_loop_to_loop(run: Run) -> None:
    size = 37
    x, out = vector("x"), vector("out", writable=True)
    local = vector("local", writable=True)
    body = (
        Local(local, size),
        Loop(I, index(size), (Store(local, (I,), op("mul", Load(x, (I,)), Const(2.0, f32))),), "vector"),
        Loop(I, index(size), (Store(out, (I,), Load(local, (op("sub", index(size - 1), I),))),), "vector"),
    )
    given = uniform(np.random.default_rng(9), size)
    got = np.zeros(size, np.float32)
    run(kernel((x, out), *body), given, got)
    np.testing.assert_array_equal(got, 2 * given[::-1])


def test_a_store_in_place_is_seen_by_the_loads_that_follow_it(run: Run) -> None:
    """out updates x: the second loop reads what the first has written."""
    x, out = vector("x"), vector("out", writable=True, aliases="x")
    add = Loop(I, N, (Store(out, (I,), op("add", Load(x, (I,)), Const(1.0, f32))),), "vector")
    double = Loop(J, N, (Store(out, (J,), op("mul", Load(x, (J,)), Const(2.0, f32))),), "vector")
    data = np.arange(33, dtype=np.float32)
    run(kernel((x, out), add, double, sizes=(N,)), data, data, sizes=(33,))
    np.testing.assert_array_equal(data, (np.arange(33) + 1) * 2)


def test_a_value_bound_by_let_keeps_what_memory_held_then(run: Run) -> None:
    x, out, before = vector("x", writable=True), vector("out", writable=True), Var("before", f32)
    now = Load(x, (I,))
    body = (
        Let(before, now),
        Store(x, (I,), Const(0.0, f32)),
        Store(out, (I,), op("add", before, now)),
    )
    given, got = np.arange(1, 22, dtype=np.float32), np.zeros(21, np.float32)
    run(kernel((x, out), Loop(I, index(21), body, "vector")), given, got)
    np.testing.assert_array_equal(got, np.arange(1, 22))
    np.testing.assert_array_equal(given, 0)


def test_let_bound_indices_keep_loads_contiguous_and_right(run: Run) -> None:
    x, out, at = Memory("x", f32, (1,)), vector("out", writable=True), Var("at")
    body = (Let(at, op("add", op("mul", G, index(10)), I)), Store(out, (at,), Load(x, (op("add", at, index(5)),))))
    given, got = np.arange(60, dtype=np.float32), np.zeros(50, np.float32)
    run(kernel((x, out), Loop(I, index(10), body, "vector"), grid=5), given, got, grid=5)
    np.testing.assert_array_equal(got, given[5:55])


def test_equal_runs_give_equal_bits_for_any_cut_of_the_grid(run: Run) -> None:
    rows, columns = 6, 1003
    x, out, total = Memory("x", f32, (columns, 1)), vector("out", writable=True), Var("total", f32)
    body = (
        Declare(total, Const(0.0, f32)),
        Loop(I, index(columns), (Accumulate(total, "add", op("mul", Load(x, (G, I)), Load(x, (G, I)))),), "vector", 4),
        Store(out, (G,), total),
    )
    given = uniform(np.random.default_rng(10), rows, columns)
    whole, parts = np.zeros(rows, np.float32), np.zeros(rows, np.float32)
    one = kernel((x, out), *body, grid=rows)
    run(one, given, whole, grid=rows)
    for begin, end in ((0, 1), (1, 4), (4, 6)):
        run(one, given, parts, grid=(begin, end))
    np.testing.assert_array_equal(whole.view(np.int32), parts.view(np.int32))


def test_what_has_no_code_is_refused_by_name() -> None:
    out = vector("out", writable=True)
    bad = kernel((out,), Store(out, (index(0),), op("frobnicate", Const(1.0, f32))))
    with pytest.raises(UnsupportedKernel, match="'frobnicate' on f32"):
        Loaded({"k": bad}, TARGETS[0])
    unset = kernel((out,), Assign(Var("v", f32), Const(1.0, f32)))
    with pytest.raises(UnsupportedKernel, match="'v' is set but was not declared"):
        Loaded({"k": unset}, TARGETS[0])
