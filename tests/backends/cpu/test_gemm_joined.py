"""Joined products against the same products one by one, bit for bit, on every instruction set that this machine has."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.kernel import Apply, Load, Memory, Store, Var
from rlx.codegen.lower.templates import Epilogue, MatmulSpec
from rlx.ir.dtypes import f32


def part(m: tuple[int, ...], n: int, k: int, number: int, *, transposed: bool) -> tuple[MatmulSpec, Epilogue]:
    """A product whose epilogue is a bias and a store; the first of two row dimensions goes outermost."""
    b = Memory("spec_b", f32, (1, k) if transposed else (n, 1))
    a = Memory("spec_a", f32, (m[1] * k, k, 1) if len(m) == 2 else (k, 1))
    spec = MatmulSpec(f32, f32, f32, (), m, (n,), (k,), a, b, b_constant=True)
    acc, index = Var("acc", f32), tuple(Var(f"i{number}{axis}") for axis in range(len(m) + 1))
    out = Memory(f"out{number}", f32, (n, m[0] * n, 1) if len(m) == 2 else (n, 1), writable=True)
    bias = Memory(f"bias{number}", f32, (1,))
    value = Apply("add", (acc, Load(bias, index[-1:])), f32)
    return spec, Epilogue(acc, index, (Store(out, index, value),), (out, bias))


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize(
    ("rows", "widths", "k"),
    [
        ([(16,), (16,), (16,)], [48, 48, 48], 33),
        ([(5,), (5,)], [7, 100], 40),
        ([(40,), (2, 20), (8, 5), (40,)], [33, 64, 5, 31], 17),
        ([(6,), (6,)], [64, 16], 9),
    ],
)
def test_parts_get_the_bits_they_would_get_alone(runner, rows, widths, k: int, split: int) -> None:
    rng = np.random.default_rng(k)
    parts = [part(m, n, k, i, transposed=i % 2 == 1) for i, (m, n) in enumerate(zip(rows, widths, strict=True))]
    args = tuple(memory for _, epilogue in parts for memory in epilogue.args)
    templates = CpuTemplates(runner.target)
    together = templates.joined([s for s, _ in parts], [replace(e, args=args) for _, e in parts])
    assert together is not None
    count = int(np.prod(rows[0]))
    a = rng.standard_normal((count, k)).astype(np.float32)
    weights = [rng.standard_normal((k, n)).astype(np.float32) for n in widths]
    biases = [rng.standard_normal(n).astype(np.float32) for n in widths]
    for array in (a, *weights, *biases):
        array.flags.writeable = False

    expected = []
    packed = np.full(together.packed_nbytes, 0xFB, np.uint8)
    ends = (*together.offsets[1:], together.packed_nbytes)
    for i, (spec, epilogue) in enumerate(parts):
        lying = np.ascontiguousarray(weights[i].T) if i % 2 else weights[i]
        lying.flags.writeable = False
        place = packed[together.offsets[i] : ends[i]].copy()
        runner.compile(together.packs[i])([lying, place])
        packed[together.offsets[i] : ends[i]] = place
        alone = templates.matmul(spec, epilogue)
        assert alone is not None
        operand = lying
        if alone.pack is not None:
            operand = np.full(alone.packed_nbytes, 0xFB, np.uint8)
            runner.compile(alone.pack)([lying, operand])
            operand.flags.writeable = False
        out = np.full(count * widths[i], 77, np.float32)
        runner.compile(alone.compute)([a, operand, out, biases[i]])
        expected.append(out)
    packed.flags.writeable = False
    outs = [np.full(count * n, 77, np.float32) for n in widths]
    grid = together.compute.grid
    ranges = list(pairwise(grid * i // split for i in range(split + 1)))
    operands = [array for pair in zip(outs, biases, strict=True) for array in pair]
    runner.compile(together.compute)([a, packed, *operands], ranges)

    for i, (out, alone_out) in enumerate(zip(outs, expected, strict=True)):
        np.testing.assert_array_equal(out, alone_out)
        exact = (a.astype(np.float64) @ weights[i] + biases[i]).reshape(*rows[i], -1)
        if len(rows[i]) == 2:
            exact = exact.transpose(1, 0, 2)
        bound = 1e-6 * (k + 2) * (np.abs(a) @ np.abs(weights[i]) + np.abs(biases[i])).max()
        np.testing.assert_allclose(out, exact.reshape(-1), rtol=0, atol=bound)


def test_products_that_are_streams_of_dots_are_left_to_themselves(runner) -> None:
    parts = [part((64,), n, 64, i, transposed=True) for i, n in enumerate((2, 48))]
    args = tuple(memory for _, epilogue in parts for memory in epilogue.args)
    specs, epilogues = [s for s, _ in parts], [replace(e, args=args) for _, e in parts]
    assert CpuTemplates(runner.target).joined(specs, epilogues) is None


@pytest.mark.parametrize(("rows", "n", "k"), [(16, 96, 40), (5, 33, 17), (50, 100, 9), (600, 320, 24)])
def test_a_pair_is_two_products_and_one_epilogue_bit_for_bit(runner, rows: int, n: int, k: int) -> None:
    rng = np.random.default_rng([rows, n])
    (gate, epilogue), (up, _) = (part((rows,), n, k, i, transposed=i == 1) for i in range(2))
    second = Var("second", f32)
    out, bias = epilogue.args
    plain = Load(bias, epilogue.index[-1:])
    value = Apply("mul", (Apply("add", (epilogue.acc, plain), f32), second), f32)
    ended = Epilogue(epilogue.acc, epilogue.index, (Store(out, epilogue.index, value),), epilogue.args, 2.0, second)
    templates = CpuTemplates(runner.target)
    pair = templates.joined([gate, up], [ended])
    assert pair is not None
    a, b, c = (rng.standard_normal(s).astype(np.float32) for s in ((rows, k), (k, n), (k, n)))
    lying, shift = np.ascontiguousarray(c.T), rng.standard_normal(n).astype(np.float32)
    for array in (a, b, lying, shift):
        array.flags.writeable = False
    packed = np.full(pair.packed_nbytes, 0xFB, np.uint8)
    for pack, source, offset in zip(pair.packs, (b, lying), pair.offsets, strict=True):
        place = packed[offset:].copy()
        runner.compile(pack)([source, place])
        packed[offset:] = place
    packed.flags.writeable = False
    got = np.full(rows * n, 77, np.float32)
    grid = pair.compute.grid
    runner.compile(pair.compute)([a, packed, got, shift], [(0, grid // 2), (grid // 2, grid)])

    sums = []
    for spec, source in ((gate, b), (up, lying)):
        plain_end = Epilogue(epilogue.acc, epilogue.index, (Store(out, epilogue.index, epilogue.acc),), (out,))
        alone = templates.matmul(spec, plain_end)
        assert alone is not None and alone.pack is not None
        operand, result = np.full(alone.packed_nbytes, 0xFB, np.uint8), np.full(rows * n, 77, np.float32)
        runner.compile(alone.pack)([source, operand])
        operand.flags.writeable = False
        runner.compile(alone.compute)([a, operand, result])
        sums.append(result.reshape(rows, n))
    np.testing.assert_array_equal(got.reshape(rows, n), (sums[0] + shift) * sums[1])
