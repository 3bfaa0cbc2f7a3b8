"""Every primitive, lowered alone and run in the kernel interpreter, gives what its record says."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_interpreter import Program

from rlx.codegen.lower import lower
from rlx.ir import GraphBuilder, all_ops, type_of
from rlx.ir.graph import Graph
from rlx.ir.interpret import interpret
from rlx.ir.op import Op, Sample

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
    eps = float(ml_eps(got.dtype))
    got, expected = got.astype(wide), expected.astype(wide)
    scale = np.nanmax(np.abs(expected), initial=1e-30, where=np.isfinite(expected))
    np.testing.assert_allclose(got, expected, rtol=8 * eps, atol=32 * eps * scale)


def ml_eps(dtype: np.dtype) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps)


def _bits(x: np.ndarray) -> np.ndarray:
    """Bits, with every NaN alike."""
    if x.dtype.kind in "fc" or "float" in x.dtype.name:
        x = np.where(np.isnan(x), np.array(np.nan, x.dtype), x).astype(x.dtype)
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


def samples_of(op: Op) -> list[Sample]:
    assert op.samples is not None
    return list(op.samples(np.random.default_rng(7)))


@pytest.mark.parametrize("op", PRIMITIVES, ids=lambda op: op.name)
@pytest.mark.parametrize("fused", [False, True], ids=["alone", "fused"])
def test_a_primitive_lowered_alone_gives_what_its_record_says(op: Op, fused: bool) -> None:
    for sample in samples_of(op):
        graph = graph_of(op, sample)
        if op.name == "constant":
            expected = list(interpret(graph, {}).values())
        else:
            expected = list(interpret(graph, {f"x{i}": a for i, a in enumerate(sample.arrays)}).values())
        program = Program(lower(graph, fuse=fused))
        for got, want in zip(program.run(*sample.arrays), expected, strict=True):
            assert_close(op, got, want)
