"""Every primitive, lowered alone and run in the kernel interpreter, gives what its record says."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from kernel_interpreter import Program
from reference_templates import ReferenceTemplates

from rlx.codegen.lower import NoTemplates, lower
from rlx.ir import GraphBuilder, all_ops, type_of
from rlx.ir.graph import Graph
from rlx.ir.interpret import interpret
from rlx.ir.op import Op, Sample
from rlx.ir.verify import verify
from rlx.passes import optimize
from rlx.testing.random_graphs import exact_graph, exact_inputs

PRIMITIVES = [op for op in all_ops().values() if op.evaluate is not None and op.name != "custom_call"]


def graph_of(op: Op, sample: Sample) -> Graph:
    b = GraphBuilder()
    inputs = [b.input(f"x{i}", type_of(a)) for i, a in enumerate(sample.arrays)]
    return b.build(b.emit_many(op.name, *inputs, regions=sample.regions, **sample.attrs))


def assert_close(op: Op, got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    if not (op.tolerance.terms or op.name == "while_loop" or op.name == "scan"):
        np.testing.assert_array_equal(_bits(got), _bits(expected))
        return
    wide = np.complex128 if got.dtype.kind == "c" else np.float64
    if got.dtype.kind in "iub" or got.dtype.name in ("int4", "uint4"):
        np.testing.assert_array_equal(got, expected)
        return
    eps = float(ml_dtypes.finfo(got.dtype).eps)
    got, expected = got.astype(wide), expected.astype(wide)
    scale = np.nanmax(np.abs(expected), initial=1e-30, where=np.isfinite(expected))
    np.testing.assert_allclose(got, expected, rtol=8 * eps, atol=32 * eps * scale)


def _bits(x: np.ndarray) -> np.ndarray:
    """Bits, with every NaN alike."""
    if x.dtype.kind in "fc" or "float" in x.dtype.name:
        x = np.where(np.isnan(x), np.array(np.nan, x.dtype), x).astype(x.dtype)
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


#: Ops whose kernels are serial code: the interpreter takes milliseconds an element.
SERIAL = {"sort": 9, "top_k": 7, "conv_general": 2}


def samples_of(op: Op) -> list[Sample]:
    """Samples that the interpreter runs in a blink; of serial ops every few."""
    assert op.samples is not None
    samples = list(op.samples(np.random.default_rng(7)))
    if op.name == "conv_general":
        samples = [s for s in samples if s.arrays[0].size * s.arrays[1].size < 12_000]
    return samples[:: SERIAL.get(op.name, 1)]


@pytest.mark.parametrize("op", PRIMITIVES, ids=lambda op: op.name)
def test_a_primitive_lowered_alone_gives_what_its_record_says(op: Op) -> None:
    for sample in samples_of(op):
        graph = graph_of(op, sample)
        if op.name == "constant":
            expected = list(interpret(graph, {}).values())
        else:
            expected = list(interpret(graph, {f"x{i}": a for i, a in enumerate(sample.arrays)}).values())
        program = Program(lower(graph))
        for got, want in zip(program.run(*sample.arrays), expected, strict=True):
            assert_close(op, got, want)


GRAPHS = 120


def chooser(seed: int) -> Callable[[int], int]:
    rng = np.random.default_rng(seed)
    return lambda n: int(rng.integers(n))


@pytest.mark.parametrize("chunk", range(4))
def test_random_graphs_through_all_passes_keep_their_bits(chunk: int) -> None:
    """Optimised and fused, with templates and without, against the interpreter: the native tests' own graphs."""
    for seed in range(chunk * GRAPHS // 4, (chunk + 1) * GRAPHS // 4):
        graph = exact_graph(chooser(seed))
        inputs = exact_inputs(graph, np.random.default_rng(seed))
        expected = interpret(graph, inputs)
        optimized = optimize(graph, verify=verify)
        templates = ReferenceTemplates() if seed % 2 else NoTemplates()
        program = Program(lower(optimized, templates, fuse=seed % 5 != 0), [p.data for p in graph.parameters])
        for got, (name, want) in zip(program.run(*inputs.values()), expected.items(), strict=True):
            np.testing.assert_array_equal(got, want, err_msg=f"seed {seed}, {name}\n{graph}")
