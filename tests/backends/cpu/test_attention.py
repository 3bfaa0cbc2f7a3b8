"""The attention kernel against NumPy in float64, on every instruction set that this machine has."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.kernel import Apply, Const, Expr, Load, Memory, Store, Var
from rlx.codegen.lower.templates import AttentionSpec, Epilogue, Scores
from rlx.ir.dtypes import bool_, f32, i64

EPS = float(np.finfo(np.float32).eps)


def contiguous(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(sizes[i + 1 :]) for i in range(len(sizes)))


@dataclass
class Case:
    """One attention and how its operands lie; strides None: in C order over the operand's own groups.

    mask: "add" or "bool": one a query and key, in C order. bias: with `Epilogue` that adds one and doubles.
    """

    m: tuple[int, ...]
    n: int
    d: int
    e: int
    batch: tuple[int, ...] = ()
    q_strides: tuple[int, ...] | None = None
    k_strides: tuple[int, ...] | None = None
    v_strides: tuple[int, ...] | None = None
    mask: str = ""
    causal: int | None = None
    blind: bool = True
    cleared: bool = False
    softcap: float = 0.0
    bias: bool = False
    scale: float = field(init=False)

    def __post_init__(self) -> None:
        self.scale = 1 / math.sqrt(self.d)

    def operand(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sizes and strides of an operand."""
        sizes = {
            "q": (*self.batch, *self.m, self.d),
            "k": (*self.batch, self.n, self.d),
            "v": (*self.batch, self.n, self.e),
        }[name]
        given = {"q": self.q_strides, "k": self.k_strides, "v": self.v_strides}[name]
        return sizes, given or contiguous(sizes)

    def spec(self) -> AttentionSpec:
        groups = [*self.batch, *self.m, self.n]
        index = tuple(Var(f"s{axis}") for axis in range(len(groups)))
        product = Var("product", f32)
        value: Expr = Apply("mul", (product, Const(self.scale, f32)), f32)
        if self.softcap:
            cap = Const(self.softcap, f32)
            value = Apply("mul", (Apply("tanh", (Apply("div", (value, cap), f32),), f32), cap), f32)
        args: tuple[Memory, ...] = ()
        lowest = Const(-math.inf, f32)
        if self.mask:
            strides = (*(0,) * len(self.batch), *contiguous((*self.m, self.n)))
            mask = Memory("mask", bool_ if self.mask == "bool" else f32, strides)
            args = (mask,)
            seen = Load(mask, index)
            if self.mask == "bool":
                value = Apply("select", (seen, value, lowest), f32)
            else:
                value = Apply("add", (value, seen), f32)
        if self.causal is not None:
            limit = Apply("add", (index[-2], Const(self.causal, i64)), i64)
            value = Apply("select", (Apply("le", (index[-1], limit), bool_), value, lowest), f32)
        q, k, v = (Memory(name, f32, self.operand(name)[1]) for name in "qkv")
        scores = Scores(product, index, value, args)
        return AttentionSpec(
            f32,
            self.batch,
            self.m,
            (self.n,),
            (self.d,),
            (self.e,),
            q,
            k,
            v,
            scores,
            self.blind,
            self.causal,
            self.cleared,
        )

    def outputs(self) -> Epilogue:
        sizes = (*self.batch, *self.m, self.e)
        index = tuple(Var(f"o{axis}") for axis in range(len(sizes)))
        acc: Expr = Var("acc", f32)
        out = Memory("out", f32, contiguous(sizes), writable=True)
        if not self.bias:
            return Epilogue(acc, index, (Store(out, index, acc),), (out,))
        bias = Memory("bias", f32, (*(0,) * (len(sizes) - 1), 1))
        value = Apply("add", (Apply("add", (acc, acc), f32), Load(bias, index)), f32)
        return Epilogue(acc, index, (Store(out, index, value),), (out, bias))


def raw(rng: np.random.Generator, case: Case, name: str) -> np.ndarray:
    sizes, strides = case.operand(name)
    count = 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    return rng.standard_normal(count).astype(np.float32)


def seen_as(case: Case, name: str, memory: np.ndarray) -> np.ndarray:
    sizes, strides = case.operand(name)
    return as_strided(memory, sizes, [4 * s for s in strides])


def expected(case: Case, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    batch, queries = prod(case.batch), prod(case.m)
    q, k, v = (seen_as(case, n, x).astype(np.float64) for n, x in zip("qkv", (q, k, v), strict=True))
    q = q.reshape(batch, queries, case.d)
    k, v = k.reshape(batch, case.n, case.d), v.reshape(batch, case.n, case.e)
    with np.errstate(all="ignore"):
        scores = q @ k.swapaxes(1, 2) * np.float32(case.scale)
        if case.softcap:
            scores = np.tanh(scores / case.softcap) * case.softcap
        if mask is not None:
            mask = mask.reshape(queries, case.n)
            scores = np.where(mask, scores, -np.inf) if case.mask == "bool" else scores + mask
        if case.causal is not None:
            query = np.arange(queries) % case.m[-1]
            scores = np.where(np.arange(case.n) <= query[:, None] + case.causal, scores, -np.inf)
        largest = scores.max(-1, keepdims=True)
        blind = (largest == -np.inf) & case.blind
        weights = np.exp(scores - np.where(blind, 0, largest))
        total = np.where(blind, 1, weights.sum(-1, keepdims=True))
        if case.cleared:
            weights, total = np.where(np.isnan(weights / total), 0, weights), np.where(total > 0, total, 1)
        return weights @ v / total


def check(runner, case: Case, *, seed: int = 0, split: int = 1, poke=None) -> np.ndarray:
    """Run the kernel, compare with NumPy, and give what it wrote. poke: changes the operands before."""
    rng = np.random.default_rng([seed, *case.m, case.n, case.d, case.e])
    operands = {name: raw(rng, case, name) for name in "qkv"}
    mask = None
    if case.mask == "bool":
        mask = rng.random((*case.m, case.n)) < 0.6
    elif case.mask:
        mask = np.where(rng.random((*case.m, case.n)) < 0.3, -np.inf, rng.normal(size=(*case.m, case.n)))
        mask = mask.astype(np.float32)
    if poke is not None:
        poke(operands, mask)
    spec, epilogue = case.spec(), case.outputs()
    kernel = CpuTemplates(runner.target).attention(spec, epilogue)
    assert kernel is not None
    out = np.full((*case.batch, *case.m, case.e), 77, np.float32)
    bias = rng.standard_normal(case.e).astype(np.float32)
    given = [*operands.values(), *([] if mask is None else [mask])]
    for array in (*given, bias):
        array.flags.writeable = False
    edges = [kernel.grid * i // split for i in range(split + 1)]
    runner.compile(kernel)([*given, out, *([bias] if case.bias else [])], list(pairwise(edges)))
    want = expected(case, *operands.values(), mask)
    finite = np.abs(operands["v"][np.isfinite(operands["v"])]).max(initial=1)
    if case.bias:
        want = 2 * want + bias
    # Each of d products and n weights rounds, and an error in a score is one of its weight.
    tolerance = EPS * finite * (8 + 2 * math.sqrt(case.d) * 4 + math.sqrt(case.n))
    np.testing.assert_allclose(out.reshape(want.shape), want, rtol=0, atol=tolerance)
    return out


@pytest.mark.parametrize("n", [2, 7, 16, 33, 128, 257, 600])
@pytest.mark.parametrize("m", [5, 17, 64])
def test_any_number_of_queries_and_keys(runner, m: int, n: int) -> None:
    check(runner, Case((m,), n, 16, 16, batch=(3,)))


@pytest.mark.parametrize(("d", "e"), [(1, 1), (5, 3), (8, 40), (64, 64), (33, 80), (128, 128)])
@pytest.mark.parametrize("n", [20, 300])
def test_any_width(runner, d: int, e: int, n: int) -> None:
    check(runner, Case((19,), n, d, e, batch=(2,)))


@pytest.mark.parametrize("mask", ["add", "bool"])
@pytest.mark.parametrize("n", [21, 384, 300])
def test_masks_and_queries_that_see_nothing(runner, mask: str, n: int) -> None:
    def poke(operands, mask: np.ndarray) -> None:
        mask[3] = False if mask.dtype == bool else -np.inf

    out = check(runner, Case((9,), n, 16, 24, batch=(2,), mask=mask), poke=poke)
    assert not out[:, 3].any()
    out = check(runner, Case((9,), n, 16, 24, batch=(2,), mask=mask, blind=False), poke=poke)
    assert np.isnan(out[:, 3]).all()


@pytest.mark.parametrize(("m", "n", "causal"), [(40, 40, 0), (40, 100, 60), (300, 300, 0), (70, 600, 100), (9, 5, -2)])
def test_causal_masks(runner, m: int, n: int, causal: int) -> None:
    check(runner, Case((m,), n, 16, 24, batch=(2,), causal=causal))


@pytest.mark.parametrize("n", [100, 300])
def test_values_that_are_not_finite_reach_even_queries_that_do_not_see_them(runner, n: int) -> None:
    def poke(operands, mask) -> None:
        operands["v"][-1] = np.inf

    out = check(runner, Case((n,), n, 16, 24, causal=0), poke=poke)
    assert np.isnan(out[:-1, -1]).all()


@pytest.mark.parametrize("n", [1, 7, 33, 257])
@pytest.mark.parametrize(("d", "e"), [(1, 1), (40, 80), (64, 64)])
@pytest.mark.parametrize("m", [1, 4])
def test_a_few_queries(runner, m: int, d: int, e: int, n: int) -> None:
    check(runner, Case((m,), n, d, e, batch=(5,), bias=n == 33, softcap=1.5 if n == 7 else 0.0))


@pytest.mark.parametrize("mask", ["add", "bool"])
@pytest.mark.parametrize("n", [21, 384])
def test_a_few_queries_with_masks_and_one_that_sees_nothing(runner, mask: str, n: int) -> None:
    def poke(operands, mask: np.ndarray) -> None:
        mask[1] = False if mask.dtype == bool else -np.inf

    out = check(runner, Case((3,), n, 16, 24, batch=(2,), mask=mask), poke=poke)
    assert not out[:, 1].any()
    out = check(runner, Case((3,), n, 16, 24, batch=(2,), mask=mask, blind=False), poke=poke)
    assert np.isnan(out[:, 1]).all()


def test_the_last_query_of_a_causal_mask_sees_all_but_finite_values_of_hidden_keys(runner) -> None:
    def poke(operands, mask) -> None:
        operands["v"][-1] = np.inf

    check(runner, Case((3,), 33, 16, 24, batch=(2,), causal=30))
    out = check(runner, Case((3,), 33, 16, 24, causal=30), poke=poke)
    assert np.isnan(out[:-1, -1]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_few_queries_with_scores_that_are_not_finite(runner, value: float) -> None:
    def poke(operands, mask: np.ndarray) -> None:
        mask[1, 20] = value

    check(runner, Case((2,), 40, 16, 24, mask="add"), poke=poke)


@pytest.mark.parametrize(("batch", "m", "sharing"), [((4, 3), 1, 4), ((4, 3), 2, 4), ((2, 3), 1, 6), ((4, 9), 1, 36)])
def test_heads_that_share_keys_are_taken_together_where_matrices_are_left(
    runner, batch: tuple[int, ...], m: int, sharing: int
) -> None:
    strides = (33 * 24, 0, 24, 1)
    case = Case((m,), 33, 24, 24, batch=batch, k_strides=strides, v_strides=strides, bias=True, mask="add")
    kernel = CpuTemplates(runner.target).attention(case.spec(), case.outputs())
    assert kernel is not None
    assert kernel.grid == sharing
    check(runner, case)


def test_a_few_queries_read_the_rows_of_a_cache_with_gaps(runner) -> None:
    """Heads side by side in each row of the cache, and queries whose elements lie apart."""
    gaps = (32, 4 * 32, 1)
    case = Case((2,), 45, 32, 32, batch=(4,), q_strides=(2 * 32, 1, 2), k_strides=gaps, v_strides=gaps)
    check(runner, case)


@pytest.mark.parametrize(
    "case",
    [
        Case((2,), 20, 16, 16, batch=(5,), k_strides=(320, 1, 20)),
        Case((2,), 20, 16, 16, batch=(5,), v_strides=(320, 1, 20)),
        Case((1,), 5000, 64, 64),
    ],
    ids=["keys transposed", "values transposed", "one long matrix"],
)
def test_some_attentions_of_a_few_queries_are_left_to_products(runner, case: Case) -> None:
    assert CpuTemplates(runner.target).attention(case.spec(), case.outputs()) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [40, 600])
def test_scores_that_are_not_finite_do_what_the_formula_says(runner, value: float, n: int) -> None:
    def poke(operands, mask: np.ndarray) -> None:
        mask[2, n // 2] = value

    check(runner, Case((5,), n, 16, 24, mask="add"), poke=poke)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("m", "n"), [(3, 70), (24, 40), (24, 600)])
def test_weights_that_are_cleared_are_zero_instead_of_nan(runner, value: float, m: int, n: int) -> None:
    def poke(operands, mask: np.ndarray) -> None:
        mask[2, n // 3] = value
        mask[1] = -np.inf

    case = Case((m,), n, 16, 24, batch=(5,), mask="add", blind=False, cleared=True)
    out = check(runner, case, poke=poke)
    assert not out[:, 1].any()
    assert out[:, 2].any() == (value == -np.inf)

    def reach(operands, mask: np.ndarray) -> None:
        poke(operands, mask)
        operands["v"][-1] = np.inf

    assert np.isnan(check(runner, case, poke=reach)[-1, 1, -1])


def test_grouped_queries_strides_and_what_follows(runner) -> None:
    case = Case(
        (3, 20),
        70,
        32,
        32,
        batch=(2, 2),
        q_strides=(20 * 384, 96, 32, 384, 1),
        k_strides=(70 * 128, 32, 128, 1),
        v_strides=(70 * 128, 32, 128, 1),
        bias=True,
        softcap=1.5,
    )
    check(runner, case)


def test_keys_that_lie_transposed(runner) -> None:
    check(runner, Case((20,), 70, 32, 24, batch=(2,), k_strides=(70 * 32, 1, 70), v_strides=(70 * 24, 1, 70)))


@pytest.mark.parametrize(
    "case",
    [
        Case((100,), 90, 16, 16, batch=(2,)),
        Case((100,), 400, 16, 16, batch=(2,), causal=0),
        Case((2,), 90, 16, 16, batch=(7,)),
    ],
)
def test_any_split_of_the_grid_gives_the_same_bits(runner, case: Case) -> None:
    assert np.array_equal(check(runner, case), check(runner, case, split=3))
