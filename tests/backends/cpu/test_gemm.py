"""Matrix product kernels against NumPy in float64, on every instruction set that this machine has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from rlx.backends.cpu.gemm_epilogue import row_streams
from rlx.backends.cpu.gemm_operand import rows_in_place
from rlx.backends.cpu.gemm_view import matrix_view
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.kernel import Apply, Load, Memory, Store, Var
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import assembly
from rlx.codegen.lower.templates import Epilogue, MatmulSpec
from rlx.codegen.target import PRESETS
from rlx.ir import dtypes
from rlx.ir.dtypes import DType, bf16, f32, i8, i32

SIZES = [1, 2, 3, 5, 13, 14, 15, 17, 31, 33, 48, 100]


def contiguous(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(sizes[i + 1 :]) for i in range(len(sizes)))


@dataclass
class Case:
    """One product and how its operands lie; None: in C order over (*batch, *m, *k) and (*batch, *k, *n)."""

    m: tuple[int, ...]
    n: tuple[int, ...]
    k: tuple[int, ...]
    batch: tuple[int, ...] = ()
    a_strides: tuple[int, ...] | None = None
    b_strides: tuple[int, ...] | None = None
    out_strides: tuple[int, ...] | None = None
    dtype: DType = dtypes.f32
    acc: DType = dtypes.f32
    a_constant: bool = False
    b_constant: bool = False

    def spec(self) -> MatmulSpec:
        a_sizes, b_sizes = (*self.batch, *self.m, *self.k), (*self.batch, *self.k, *self.n)
        return MatmulSpec(
            self.dtype,
            self.dtype,
            self.acc,
            self.batch,
            self.m,
            self.n,
            self.k,
            Memory("a", self.dtype, self.a_strides or contiguous(a_sizes)),
            Memory("b", self.dtype, self.b_strides or contiguous(b_sizes)),
            self.a_constant,
            self.b_constant,
        )


def strided(raw: np.ndarray, sizes: tuple[int, ...], strides: tuple[int | object, ...]) -> np.ndarray:
    return as_strided(raw, sizes, [s * raw.itemsize for s in strides])  # type: ignore[operator]


def span(sizes: tuple[int, ...], strides: tuple[int | object, ...]) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))  # type: ignore[operator]


def store_all(case: Case, extra: bool) -> Epilogue:
    """out = acc, or out = max(acc * 0.5 + bias[n], residual[like out])."""
    sizes = (*case.batch, *case.m, *case.n)
    index = tuple(Var(f"i{axis}") for axis in range(len(sizes)))
    acc = Var("acc", case.acc)
    out = Memory("out", case.acc, case.out_strides or contiguous(sizes), writable=True)
    if not extra:
        return Epilogue(acc, index, (Store(out, index, acc),), (out,))
    lead = len(sizes) - len(case.n)
    bias = Memory("bias", case.acc, (0,) * lead + contiguous(case.n))
    residual = Memory("residual", case.acc, contiguous(sizes))
    shifted = Apply("add", (Apply("add", (acc, acc), case.acc), Load(bias, index)), case.acc)
    value = Apply("max", (shifted, Load(residual, index)), case.acc)
    return Epilogue(acc, index, (Store(out, index, value),), (out, bias, residual), flops=3)


def check(runner, case: Case, *, extra: bool = False, seed: int = 0, split: int = 1) -> None:
    rng = np.random.default_rng([seed, *case.m, *case.n, *case.k])
    spec, epilogue = case.spec(), store_all(case, extra)
    kernels = CpuTemplates(runner.target).matmul(spec, epilogue)
    assert kernels is not None
    sizes = (*case.batch, *case.m, *case.n)
    a_sizes, b_sizes = (*case.batch, *case.m, *case.k), (*case.batch, *case.k, *case.n)

    def fresh(sizes: tuple[int, ...], strides: tuple[int | object, ...]) -> np.ndarray:
        count = span(sizes, strides)
        if case.dtype.is_integer:
            info = np.iinfo(case.dtype.numpy)
            return rng.integers(max(info.min, -1000), min(info.max, 1000), count, endpoint=True).astype(info.dtype)
        return rng.standard_normal(count).astype(case.dtype.numpy)

    a_raw, b_raw = fresh(a_sizes, spec.a.strides), fresh(b_sizes, spec.b.strides)
    operands = [a_raw, b_raw]
    for array in operands:
        array.flags.writeable = False
    if kernels.pack is not None:
        packed = np.full(kernels.packed_nbytes, 0xFB, np.uint8)
        which = 1 if case.b_constant else 0
        runner.compile(kernels.pack)([operands[which], packed])
        packed.flags.writeable = False
        operands[which] = packed
    out_strides = case.out_strides or contiguous(sizes)
    out_raw = np.full(span(sizes, out_strides), 77, case.acc.numpy)
    arrays = [*operands, out_raw]
    bias = residual = None
    if extra:
        bias = rng.standard_normal(case.n).astype(case.acc.numpy)
        residual = rng.standard_normal(sizes).astype(case.acc.numpy)
        arrays += [bias, residual]
    grid = kernels.compute.grid
    edges = [grid * i // split for i in range(split + 1)]
    runner.compile(kernels.compute)(arrays, list(pairwise(edges)))

    wide = np.int64 if case.acc.is_integer else np.float64
    groups = [prod(case.batch), prod(case.m), prod(case.k), prod(case.n)]
    a = strided(a_raw, a_sizes, spec.a.strides).astype(wide).reshape(groups[0], groups[1], groups[2])
    b = strided(b_raw, b_sizes, spec.b.strides).astype(wide).reshape(groups[0], groups[2], groups[3])
    exact = (a @ b).reshape(sizes)
    got = strided(out_raw, sizes, out_strides)
    if extra:
        exact = np.maximum(2 * exact + bias, residual)
    if case.acc.is_integer:
        np.testing.assert_array_equal(got, exact)
        return
    eps = np.finfo(case.acc.numpy).eps
    bound = (np.abs(a) @ np.abs(b)).reshape(sizes) * 2 + (np.abs(bias) + np.abs(residual) if extra else 0)
    assert np.all(np.abs(got - exact) <= eps * (2 + np.sqrt(groups[2])) * bound + 1e-30), np.abs(got - exact).max()


@pytest.mark.parametrize("constant", ["", "a", "b"])
def test_products_of_odd_sizes_agree_with_float64(runner, constant: str) -> None:
    rng = np.random.default_rng(len(constant) + 7)
    cases = [tuple(int(x) for x in rng.choice(SIZES, 3)) for _ in range(6)]
    for m, n, k in [*cases, (1, 100, 33), (100, 1, 17), (15, 33, 1), (1, 1, 1), (33, 17, 100)]:
        case = Case((m,), (n,), (k,), a_constant=constant == "a", b_constant=constant == "b")
        check(runner, case, extra=bool((m + n) % 2))


@pytest.mark.parametrize("side", ["a", "b", "both"])
def test_transposed_operands_are_read_as_they_lie(runner, side: str) -> None:
    for m, n, k in [(33, 100, 17), (5, 31, 48), (70, 64, 64)]:
        case = Case((m,), (n,), (k,))
        if side in ("a", "both"):
            case.a_strides = (1, m)
        if side in ("b", "both"):
            case.b_strides = (1, k)
        check(runner, case)


def test_batched_heads_inside_wider_rows(runner) -> None:
    heads, rows, width = 3, 17, 20
    row = heads * width
    scores = Case((rows,), (rows,), (width,), (2, heads), (rows * row, width, row, 1), (rows * row, width, 1, row))
    check(runner, scores, split=3)
    values = Case(
        (rows,), (width,), (rows,), (2, heads), None, (rows * row, width, row, 1), (rows * row, width, row, 1)
    )
    check(runner, values)


def test_broadcast_operands(runner) -> None:
    check(runner, Case((13,), (33,), (15,), (3, 2), (13 * 15, 0, 15, 1), None))
    check(runner, Case((13,), (33,), (15,), (3, 2), None, (0, 15 * 33, 33, 1), b_constant=True))
    check(runner, Case((13,), (33,), (15,), (3, 2), (0, 13 * 15, 15, 1), None, a_constant=True))


def test_groups_of_several_dimensions(runner) -> None:
    check(runner, Case((2, 7), (3, 16), (33,), out_strides=(3 * 7 * 16, 16, 7 * 16, 1), b_constant=True), extra=True)
    check(runner, Case((2, 7), (3, 10), (4, 9), out_strides=(3 * 7 * 10, 10, 7 * 10, 1)), extra=True)
    check(runner, Case((2, 7), (3, 10), (4, 9), a_strides=(36, 72, 1, 4), b_strides=(7, 30 * 9, 90, 9)))
    check(runner, Case((), (33,), (17,)))
    check(runner, Case((33,), (), (17,)), extra=True)
    check(runner, Case((), (), (17,), (5,)))


def test_rows_that_share_cache_sets_are_copied_apart(runner) -> None:
    def lies_well(stride: int, reads: int) -> bool:
        view = matrix_view(Memory("a", dtypes.f32, (stride, 1)), (), (40,), (1024,))
        assert view is not None
        return rows_in_place(view, dtypes.f32, 12, reads)

    assert not lies_well(1024, 9)
    assert lies_well(1024, 1)
    assert lies_well(1040, 9)
    check(runner, Case((40,), (130,), (1024,)))
    check(runner, Case((40,), (130,), (1024,), a_constant=True))


def test_few_rows_or_columns_along_contiguous_k_are_dot_products(runner) -> None:
    check(runner, Case((1,), (77,), (100,), (3,), b_strides=(7700, 1, 100)), extra=True, split=2)
    check(runner, Case((4,), (33,), (64,), b_strides=(1, 64)), extra=True)
    check(runner, Case((100,), (1,), (67,)), extra=True)
    check(runner, Case((50,), (3,), (65,), b_strides=(1, 65), a_constant=True), extra=True)
    check(runner, Case((50,), (), (65,), (2,)), extra=True)
    check(runner, Case((2, 5), (), (65,), dtype=dtypes.f16))


@pytest.mark.parametrize(
    ("dtype", "acc"),
    [
        (dtypes.f64, dtypes.f64),
        (dtypes.f16, dtypes.f32),
        (dtypes.bf16, dtypes.f32),
        (dtypes.i8, dtypes.i32),
        (dtypes.u8, dtypes.i32),
        (dtypes.i32, dtypes.i32),
    ],
    ids=str,
)
def test_other_dtypes_convert_to_the_dtype_of_the_sums(runner, dtype: DType, acc: DType) -> None:
    for constant in (False, True):
        check(runner, Case((17,), (35,), (37,), dtype=dtype, acc=acc, b_constant=constant))
        check(runner, Case((1,), (35,), (40,), b_strides=(1, 40), dtype=dtype, acc=acc, b_constant=constant))


def test_any_split_of_the_grid_gives_the_same_bits(runner) -> None:
    case = Case((150,), (100,), (70,), (2,))
    kernels = CpuTemplates(runner.target).matmul(case.spec(), store_all(case, False))
    assert kernels is not None
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 150, 70), np.float32), rng.standard_normal((2, 70, 100), np.float32)
    run = runner.compile(kernels.compute)
    grid = kernels.compute.grid
    assert grid >= 4
    results = []
    for ranges in ([(0, grid)], [(i, i + 1) for i in reversed(range(grid))], [(1, grid), (0, 1)]):
        out = np.zeros((2, 150, 100), np.float32)
        run([a, b, out], ranges)
        results.append(out)
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


def test_nan_and_infinity_reach_exactly_the_sums_that_read_them(runner) -> None:
    case = Case((15,), (33,), (20,))
    kernels = CpuTemplates(runner.target).matmul(case.spec(), store_all(case, False))
    assert kernels is not None
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((15, 20), np.float32), rng.standard_normal((20, 33), np.float32)
    a[14, 19], b[19, 32], b[0, 0] = np.nan, np.inf, -np.inf
    out = np.zeros((15, 33), np.float32)
    runner.compile(kernels.compute)([a, b, out])
    with np.errstate(invalid="ignore"):
        expected = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(out), np.isinf(expected))


def test_empty_products_and_run_time_strides_are_left_to_loops(runner) -> None:
    templates = CpuTemplates(runner.target)
    empty = Case((3,), (4,), (0,))
    assert templates.matmul(empty.spec(), store_all(empty, False)) is None
    case = Case((3,), (4,), (5,))
    spec = replace(case.spec(), a=Memory("a", dtypes.f32, (Var("stride"), 1)))
    assert templates.matmul(spec, store_all(case, False)) is None


def test_equal_specs_have_equal_identities_and_others_have_not() -> None:
    from rlx.codegen.target import PRESETS

    def identity(case: Case, extra: bool, target: str = "avx2") -> str:
        kernels = CpuTemplates(PRESETS[target]).matmul(case.spec(), store_all(case, extra))
        assert kernels is not None
        return kernels.compute.identity

    case = Case((33,), (34,), (35,))
    assert identity(case, True) == identity(case, True)
    others = [
        identity(case, False),
        identity(case, True, "avx512"),
        identity(replace(case, k=(36,)), True),
        identity(replace(case, b_strides=(1, 35)), True),
        identity(replace(case, b_constant=True), True),
        identity(replace(case, out_strides=(1, 33)), True),
    ]
    assert len({identity(case, True), *others}) == 1 + len(others)


def test_several_rows_that_fill_the_first_level_cache_take_packed_weights() -> None:
    templates = CpuTemplates(PRESETS["avx512"])

    def is_packed(m: int, k: int) -> bool:
        case = Case((m,), (64,), (k,), b_strides=(1, k), b_constant=True)
        kernels = templates.matmul(case.spec(), store_all(case, False))
        return kernels is not None and kernels.pack is not None

    assert not is_packed(1, 4096)
    assert not is_packed(4, 256)
    assert is_packed(4, 2048)


# -- what is brought near ------------------------------------------------------------------------------------------


def prefetches(m: int, n: int, k: int) -> list[str]:
    """The prefetching instructions of a product by packed weights."""
    target = PRESETS["avx512"]
    case = Case((m,), (n,), (k,), b_constant=True)
    kernels = CpuTemplates(target).matmul(case.spec(), store_all(case, True))
    assert kernels is not None
    module = new_module(target)
    emit_kernel(module, "product", kernels.compute, target)
    return [line.split()[0] for line in assembly(module, target).splitlines() if "prefetch" in line]


def test_the_next_panel_is_brought_near_where_tiles_read_each_panel_again() -> None:
    assert set(prefetches(16, 384, 384)) == {"prefetcht1"}
    assert prefetches(1, 384, 384) == []


def test_results_too_many_for_the_cache_are_brought_near_before_they_are_written() -> None:
    near = [name for name in prefetches(4096, 384, 384) if name != "prefetcht1"]
    assert len(near) >= 2  # the output's row and the residual's, a tile further down


def test_rows_found_through_loaded_addresses_are_not_brought_near() -> None:
    i, j, acc = Var("i"), Var("j"), Var("acc", f32)
    rows = Memory("rows", dtypes.i64, (1,))
    out, bias = Memory("out", f32, (48, 1), writable=True), Memory("bias", f32, (1,))
    value = Apply("add", (acc, Load(bias, (j,))), f32)
    scattered = Store(out, (Load(rows, (i,)), j), value)
    assert row_streams(Epilogue(acc, (i, j), (scattered,), (out, rows, bias)), 1) == []
    assert row_streams(Epilogue(acc, (i, j), (Store(out, (i, j), value),), (out, bias)), 1) == [(out, (i, j))]


# -- pairs of bf16 -------------------------------------------------------------------------------------------------


def bf16_case(m: int, n: int, k: int, **options) -> Case:
    return Case((m,), (n,), (k,), dtype=bf16, acc=f32, **options)


@pytest.mark.parametrize("constant", ["", "a", "b"])
def test_products_of_bf16_of_odd_sizes_agree_with_float64(bf16_runner, constant: str) -> None:
    for m, n, k in [(14, 48, 32), (5, 31, 17), (33, 100, 1), (1, 64, 66), (2, 7, 33), (29, 70, 130)]:
        case = bf16_case(m, n, k, a_constant=constant == "a", b_constant=constant == "b")
        check(bf16_runner, case, extra=bool(m % 2), split=1 + m % 3)


@pytest.mark.parametrize("constant", ["", "b"])
def test_transposed_operands_are_packed_by_pairs(bf16_runner, constant: str) -> None:
    for m, n, k in [(33, 100, 34), (5, 31, 47), (40, 64, 64)]:
        packed = {"b_constant": constant == "b"}
        check(bf16_runner, bf16_case(m, n, k, b_strides=(1, k), **packed))
        check(bf16_runner, bf16_case(m, n, k, a_strides=(1, m), **packed))
        check(bf16_runner, bf16_case(m, n, k, b_strides=(3 * n, 3), **packed))


def test_rows_an_odd_number_of_elements_apart_are_copied(bf16_runner) -> None:
    check(bf16_runner, bf16_case(20, 48, 32, a_strides=(35, 1), b_constant=True))


def test_batches_are_packed_matrix_by_matrix(bf16_runner) -> None:
    check(bf16_runner, Case((9,), (20,), (15,), batch=(3,), dtype=bf16, acc=f32, b_constant=True))
    check(bf16_runner, Case((9,), (20,), (16,), batch=(2, 3), dtype=bf16, acc=f32))


def test_pairs_are_multiplied_by_one_instruction_that_broadcasts_from_memory() -> None:
    target = PRESETS["avx512_bf16"]
    case = bf16_case(28, 64, 64, b_constant=True)
    kernels = CpuTemplates(target).matmul(case.spec(), store_all(case, False))
    assert kernels is not None
    module = new_module(target)
    emit_kernel(module, "product", kernels.compute, target)
    text = assembly(module, target)
    assert text.count("vdpbf16ps") >= 28
    assert "vfmadd" not in text


def test_targets_without_the_instruction_convert_to_f32(runner) -> None:
    check(runner, bf16_case(9, 33, 17, b_constant=True))


# -- fours of 8-bit integers ---------------------------------------------------------------------------------------


def i8_case(m: int, n: int, k: int, **options) -> Case:
    return Case((m,), (n,), (k,), dtype=i8, acc=i32, **options)


@pytest.mark.parametrize("constant", ["", "a", "b"])
def test_products_of_integers_by_fours_are_exact(vnni_runner, constant: str) -> None:
    given = {"a_constant": constant == "a", "b_constant": constant == "b"}
    for m, n, k in [(14, 48, 32), (5, 31, 17), (33, 100, 1), (29, 70, 131)]:
        check(vnni_runner, i8_case(m, n, k, **given), split=1 + m % 3)
    check(vnni_runner, i8_case(9, 37, 71, b_strides=(1, 71), **given))
    check(vnni_runner, i8_case(9, 37, 70, a_strides=(1, 9), **given))


def test_batches_of_integers_are_packed_matrix_by_matrix(vnni_runner) -> None:
    check(vnni_runner, Case((9,), (20,), (15,), batch=(3,), dtype=i8, acc=i32, b_constant=True))
    check(vnni_runner, Case((9,), (20,), (16,), batch=(2, 3), dtype=i8, acc=i32))


def test_integers_are_multiplied_by_fours_in_one_instruction() -> None:
    target = PRESETS["avx512_vnni"]
    case = i8_case(28, 64, 64, b_constant=True)
    kernels = CpuTemplates(target).matmul(case.spec(), store_all(case, False))
    assert kernels is not None
    module = new_module(target)
    emit_kernel(module, "product", kernels.compute, target)
    text = assembly(module, target)
    assert text.count("vpdpbusd") >= 24
    assert "vpmulld" not in text
