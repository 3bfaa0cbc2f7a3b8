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
        ([(1,), (1,)], [64, 16], 9),
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
