"""What templates rely on: loops, lanes, and expressions of kernel IR evaluated on values that exist already."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rlx.codegen.kernel import Apply, Const, Load, Memory, Store, TemplateKernel, Var
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64, constant
from rlx.codegen.target import Target
from rlx.ir.dtypes import bool_, f32, i64
from rlx.testing.kernel_runner import TARGETS, Loaded

Run = Callable[..., None]
LANES = 8


@pytest.fixture(params=TARGETS, ids=lambda t: t.name)
def run(request: pytest.FixtureRequest) -> Run:
    target: Target = request.param

    def call(
        args: tuple[Memory, ...], emit: Callable[[FunctionEmitter], None], *arrays: np.ndarray, grid: int = 1
    ) -> None:
        kernel = TemplateKernel("template", args, grid, "test", emit, scratch_bytes=256)
        Loaded({"k": kernel}, target)("k", *arrays, grid=grid)

    return call


def test_an_epilogue_reads_the_accumulator_and_walks_its_last_index(run: Run) -> None:
    """out[m, n] = relu(acc * scale[n] + residual[m, n]) where n < 13, in vectors along n."""
    rows, columns = 3, 13
    m, n, acc = Var("m"), Var("n"), Var("acc", f32)
    scale, residual = Memory("scale", f32, (1,)), Memory("residual", f32, (columns, 1))
    out = Memory("out", f32, (columns, 1), writable=True)
    scaled = Apply("mul", (acc, Load(scale, (n,))), f32)
    value = Apply("max", (Apply("add", (scaled, Load(residual, (m, n))), f32), Const(0.0, f32)), f32)
    store = Store(out, (m, n), value)

    def emit(e: FunctionEmitter) -> None:
        with e.loop(e.begin, e.end) as row, e.loop(I64(0), I64(columns), LANES) as column:
            mask = e.mask_for(e.builder.sub(I64(columns), column), LANES)
            sums = e.splat(constant(acc_type(e), 2.0), LANES)
            e.store(store, {acc: sums, m: row, n: column}, lanes=LANES, along=n, mask=mask)

    def acc_type(e: FunctionEmitter):
        return e.load_one(e.args["scale"], f32).type

    rng = np.random.default_rng(0)
    s, r = rng.normal(size=columns).astype(np.float32), rng.normal(size=(rows, columns)).astype(np.float32)
    got = np.full((rows + 1, columns), -1, np.float32)
    run((scale, residual, out), emit, s, r, got, grid=rows)
    np.testing.assert_array_equal(got[:rows], np.maximum(np.float32(2) * s + r, 0))
    np.testing.assert_array_equal(got[rows], -1)


def test_expr_gives_a_vector_even_where_no_operand_is_one(run: Run) -> None:
    out, x = Memory("out", f32, (1,), writable=True), Var("x", f32)

    def emit(e: FunctionEmitter) -> None:
        value = e.expr(
            Apply("add", (x, Const(1.0, f32)), f32), {x: constant(e.load_one(e.args["out"], f32).type, 2.0)}, lanes=4
        )
        e.store_lanes(e.args["out"], f32, value, 4)

    got = np.zeros(4, np.float32)
    run((out,), emit, got)
    np.testing.assert_array_equal(got, 3)


def test_the_index_along_the_lanes_counts_up_as_a_value(run: Run) -> None:
    out, n = Memory("out", i64, (1,), writable=True), Var("n")

    def emit(e: FunctionEmitter) -> None:
        even = Apply("eq", (Apply("rem", (n, Const(2, i64)), i64), Const(0, i64)), bool_)
        e.store(Store(out, (n,), n, even), {n: I64(3)}, lanes=LANES, along=n)

    got = np.zeros(12, np.int64)
    run((out,), emit, got)
    np.testing.assert_array_equal(got, [0, 0, 0, 0, 4, 0, 6, 0, 8, 0, 10, 0])


def test_horizontal_combines_all_lanes(run: Run) -> None:
    x, out = Memory("x", f32, (1,)), Memory("out", f32, (1,), writable=True)

    def emit(e: FunctionEmitter) -> None:
        vector = e.load_vector(x, [I64(0)], LANES)
        for i, name in enumerate(("add", "max", "min")):
            e.store_one(e.element_pointer(e.args["out"], f32, I64(i)), f32, e.horizontal(name, vector))

    given, got = np.arange(1, LANES + 1, dtype=np.float32), np.zeros(3, np.float32)
    run((x, out), emit, given, got)
    np.testing.assert_array_equal(got, [36, 8, 1])


def test_masks_count_lanes_that_remain(run: Run) -> None:
    out, n = Memory("out", i64, (1,), writable=True), Var("n")

    def emit(e: FunctionEmitter) -> None:
        with e.loop(I64(-1), I64(12)) as remaining:
            mask = e.mask_for(remaining, LANES)
            base = e.builder.mul(e.builder.add(remaining, I64(1)), I64(LANES))
            e.store(Store(out, (n,), Const(1, i64)), {n: base}, lanes=LANES, along=n, mask=mask)

    got = np.zeros((13, LANES), np.int64)
    run((out,), emit, got)
    np.testing.assert_array_equal(got.sum(axis=1), np.clip(np.arange(-1, 12), 0, LANES))


def test_loops_count_by_their_step_and_may_be_empty(run: Run) -> None:
    out = Memory("out", i64, (1,), writable=True)

    def emit(e: FunctionEmitter) -> None:
        for start, stop, step in ((0, 10, 3), (5, 5, 1), (7, 2, 1)):
            with e.loop(I64(start), I64(stop), step) as i:
                pointer = e.element_pointer(e.args["out"], i64, i)
                e.store_one(pointer, i64, e.builder.add(e.load_one(pointer, i64), I64(1)))
        with e.loop(e.begin, e.end, I64(2)) as i:
            pointer = e.element_pointer(e.scratch, i64, i)
            e.store_one(pointer, i64, i)
            e.store_one(e.element_pointer(e.args["out"], i64, e.integer_add(i, I64(10))), i64, e.load_one(pointer, i64))

    got = np.zeros(16, np.int64)
    run((out,), emit, got, grid=5)
    np.testing.assert_array_equal(got, [1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 2, 0, 4, 0])
