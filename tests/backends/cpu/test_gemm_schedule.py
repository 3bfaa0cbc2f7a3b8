"""Schedules of products: every one that is offered gives the default's bits; nothing else is allowed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlx.backends.cpu.gemm_joined import joined_kernels, joined_product
from rlx.backends.cpu.gemm_plan import Blocks, Tile
from rlx.backends.cpu.gemm_schedule import Product, Schedule
from rlx.backends.cpu.matmul import matmul_kernels, matmul_product
from rlx.codegen.kernel import Apply, Load, Memory, Store, Var
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.lower.templates import Epilogue, MatmulSpec
from rlx.codegen.target import PRESETS
from rlx.ir.dtypes import f32, i64


def spec_of(rows: int, columns: int, depth: int, batch: int = 1, **more: bool) -> MatmulSpec:
    lead, sizes = ((batch,), (batch,)) if batch > 1 else ((), ())
    a = Memory("a", f32, (*([rows * depth] if lead else []), depth, 1))
    b = Memory("b", f32, (*([columns * depth] if lead else []), columns, 1))
    return MatmulSpec(f32, f32, f32, sizes, (rows,), (columns,), (depth,), a, b, **more)


def epilogue_of(spec: MatmulSpec, name: str = "out") -> Epilogue:
    """out = 2 acc + bias."""
    sizes = (*spec.batch, *spec.m, *spec.n)
    index = tuple(Var(f"i{axis}", i64) for axis in range(len(sizes)))
    strides = tuple(int(np.prod(sizes[axis + 1 :], dtype=int)) for axis in range(len(sizes)))
    out = Memory(name, f32, strides, writable=True)
    bias = Memory(f"{name}_bias", f32, (*(0 for _ in strides[1:]), 1))
    acc = Var(f"{name}_acc", f32)
    value = Apply("add", (Apply("add", (acc, acc), f32), Load(bias, index)), f32)
    return Epilogue(acc, index, (Store(out, index, value),), (out, bias), flops=2)


def offered(product: Product) -> list[Schedule]:
    """The default, other tiles, and other cuts of the first two."""
    tiles = [product.default, *product.other_tiles()]
    cuts = [cut for schedule in tiles[:2] for cut in product.other_cuts(schedule)]
    return list(dict.fromkeys((*tiles, *cuts)))


CASES = {
    "packed": spec_of(37, 130, 19, b_constant=True),
    "many rows": spec_of(150, 40, 7, b_constant=True),
    "copied": spec_of(37, 130, 19),
    "in place": spec_of(20, 128, 19),
    "batch": spec_of(9, 48, 8, batch=3),
}


@pytest.mark.parametrize("name", CASES)
def test_every_schedule_that_is_offered_gives_the_bits_of_the_default(runner, name):
    spec, epilogue, rng = CASES[name], epilogue_of(CASES[name]), np.random.default_rng(5)
    product = matmul_product(runner.target, spec)
    assert product is not None
    batch, (rows,), (columns,), (depth,) = int(np.prod(spec.batch, dtype=int)), spec.m, spec.n, spec.k
    a, b = (rng.standard_normal(batch * n * depth).astype(np.float32) for n in (rows, columns))
    bias = rng.standard_normal(columns).astype(np.float32)
    for array in (a, b, bias):
        array.flags.writeable = False
    schedules = offered(product)
    assert len(schedules) > 3
    answers = []
    for schedule in schedules[:: max(1, len(schedules) // 3)]:
        assert product.allows(schedule)
        kernels = matmul_kernels(runner.target, spec, epilogue, schedule)
        assert kernels is not None
        second = b
        if kernels.pack is not None:
            second = np.full(kernels.packed_nbytes, 0xFB, np.uint8)
            runner.compile(kernels.pack)([b, second])
            second.flags.writeable = False
        out = np.full(batch * rows * columns, np.nan, np.float32)
        runner.compile(kernels.compute)([a, second, out, bias])
        answers.append(out.tobytes())
    assert len(set(answers)) == 1
    wanted = 2 * (a.reshape(batch, rows, depth).astype(float) @ b.reshape(batch, depth, columns)) + bias
    np.testing.assert_allclose(np.frombuffer(answers[0], np.float32).reshape(wanted.shape), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("paired", [False, True])
def test_joined_products_give_the_same_bits_under_every_schedule(runner, paired):
    rng = np.random.default_rng(6)
    specs = [spec_of(21, 48 if paired else 40 + 30 * i, 11, b_constant=True) for i in range(2)]
    ends = [epilogue_of(spec, f"out{i}") for i, spec in enumerate(specs)]
    if paired:
        second = Var("second", f32)
        (store,) = ends[0].stores
        value = Apply("add", (store.value, second), f32)
        ends = [replace(ends[0], stores=(replace(store, value=value),), second=second)]
    args = tuple(memory for end in ends for memory in end.args)
    ends = [replace(end, args=args) for end in ends]
    product = joined_product(runner.target, specs, ends)
    assert product is not None and product.paired is paired
    a = rng.standard_normal(21 * 11).astype(np.float32)
    weights = [rng.standard_normal(11 * spec.n[0]).astype(np.float32) for spec in specs]
    biases = [rng.standard_normal(spec.n[0]).astype(np.float32) for spec in specs]
    for array in (a, *weights, *biases):
        array.flags.writeable = False
    answers = []
    for schedule in [product.default, *offered(product)[1:4:2]]:
        kernels = joined_kernels(runner.target, specs, ends, schedule)
        assert kernels is not None
        packed = np.full(kernels.packed_nbytes, 0xFB, np.uint8)
        for pack, offset, weight in zip(kernels.packs, kernels.offsets, weights, strict=True):
            runner.compile(pack)([weight, packed[offset:]])
        packed.flags.writeable = False
        outs = [np.full(21 * spec.n[0], np.nan, np.float32) for spec in specs[: len(ends)]]
        given = [array for pair in zip(outs, biases, strict=False) for array in pair]
        runner.compile(kernels.compute)([a, packed, *given])
        answers.append(b"".join(out.tobytes() for out in outs))
    assert len(set(answers)) == 1
    assert not np.isnan(np.frombuffer(answers[0], np.float32)).any()


def test_a_schedule_survives_json_and_nothing_else_is_read_as_one():
    product = matmul_product(PRESETS["avx512"], CASES["copied"])
    document = product.default.document()
    assert Schedule.of(document) == product.default
    wrong = [
        {},
        {**document, "tile": 3},
        {**document, "more": 1},
        {**document, "copied": "yes"},
        {**document, "tile": {**document["tile"], "rows": 1.5}},
        {name: value for name, value in document.items() if name != "near"},
    ]
    for other in wrong:
        with pytest.raises(ValueError, match="not a schedule"):
            Schedule.of(other)


@pytest.mark.parametrize(
    "change",
    [
        {"tile": Tile(30, 2, 32)},  # more sums than registers
        {"tile": Tile(8, 2, 48)},  # columns that are not its vectors
        {"tile": Tile(0, 2, 32)},
        {"blocks": Blocks(10**6, False)},
        {"blocks": Blocks(0, False)},
        {"copied": True},  # what is packed at setup is not copied
    ],
)
def test_what_there_is_no_code_for_is_not_allowed(change):
    product = matmul_product(PRESETS["avx512"], CASES["packed"])
    assert product.allows(product.default)
    assert not product.allows(replace(product.default, **change))


def test_blocks_are_whole_tiles_and_panels_in_place_are_whole():
    product = matmul_product(PRESETS["avx512"], CASES["packed"])
    rows = product.default.tile.rows
    assert rows > 1
    assert not product.allows(replace(product.default, blocks=Blocks(rows + 1, False)))
    crooked = matmul_product(PRESETS["avx512"], CASES["copied"])
    assert not crooked.allows(replace(crooked.default, copied=False))


def test_products_whose_kernel_is_no_tile_offer_no_schedules():
    dots = replace(spec_of(1, 300, 200), b=Memory("b", f32, (1, 200)))
    assert matmul_product(PRESETS["avx512"], dots) is None
    assert matmul_product(PRESETS["avx512"], spec_of(4, 0, 3)) is None


def test_many_rows_of_one_cache_set_are_read_in_place_few_at_a_time():
    product = matmul_product(PRESETS["avx512"], spec_of(128, 768, 3072, b_constant=True))
    assert product is not None
    chosen = product.default
    assert not product.lies_well(Tile(12, 2, 32))
    assert product.lies_well(chosen.tile)
    assert chosen.tile.rows >= 6 and chosen.blocks.rows == 128
    few = matmul_product(PRESETS["avx512"], spec_of(16, 768, 3072, b_constant=True))
    assert few is not None and few.default.tile.vectors <= 2


@pytest.mark.parametrize("size", [2048, 4096])
def test_rows_too_many_for_the_second_level_cache_are_cut_for_the_third(size):
    product = matmul_product(PRESETS["avx512"], spec_of(size, size, size, b_constant=True))
    assert product is not None
    blocks = product.default.blocks
    assert PRESETS["avx512"].l2 < blocks.rows * size * 4 <= PRESETS["avx512"].l3 // 4
    assert not blocks.panels_first and product.allows(product.default)


def test_rows_are_cut_for_the_second_level_cache_where_a_block_of_them_fits():
    product = matmul_product(PRESETS["avx512"], spec_of(4096, 384, 384, b_constant=True))
    assert product is not None
    blocks = product.default.blocks
    assert blocks.rows > 64 and blocks.rows * 384 * 4 <= PRESETS["avx512"].l2 // 2


def test_rows_that_fit_are_not_cut_for_the_third_level_cache():
    product = matmul_product(PRESETS["avx512"], spec_of(128, 3072, 768, b_constant=True))
    assert product is not None and product.default.blocks.rows == 128


def code_of(spec: MatmulSpec) -> str:
    target = PRESETS["avx512"]
    kernels = matmul_kernels(target, spec, epilogue_of(spec))
    assert kernels is not None
    module = new_module(target)
    emit_kernel(module, "product", kernels.compute, target)
    return str(module)


def test_tiles_bring_the_rows_below_them_near_where_these_lie_without_gaps():
    dense = spec_of(128, 384, 384, b_constant=True)
    assert "_below_24" in code_of(dense)  # six rows of 384 floats, over 384 steps
    assert "_below" not in code_of(replace(dense, a=Memory("a", f32, (4096, 1))))
    assert "_below" not in code_of(spec_of(4, 384, 384, b_constant=True))  # no tile has another one below it
