"""Composites, inlined, fused and lowered, give what the reference interpreter says."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from kernel_interpreter import Program
from reference_templates import ReferenceTemplates

from rlx.codegen.lower import NoTemplates, lower
from rlx.ir import GraphBuilder, all_ops, type_of
from rlx.ir.interpret import interpret
from rlx.ir.op import Op
from rlx.ir.verify import verify
from rlx.passes import optimize

COMPOSITES = [op for op in all_ops().values() if op.is_composite]


@pytest.mark.parametrize("op", COMPOSITES, ids=lambda op: op.name)
def test_a_composite_lowered_after_all_passes_gives_what_the_interpreter_says(op: Op) -> None:
    assert op.samples is not None
    samples = [s for s in op.samples(np.random.default_rng(3)) if sum(a.size for a in s.arrays) < 1500]
    f32 = [s for s in samples if any(a.dtype == np.float32 for a in s.arrays)]
    for count, sample in enumerate((f32 or samples)[:6] + samples[-2:]):
        b = GraphBuilder()
        inputs = [b.input(f"x{i}", type_of(a)) for i, a in enumerate(sample.arrays)]
        graph = b.build(b.emit_many(op.name, *inputs, **sample.attrs))
        expected = list(interpret(graph, {f"x{i}": a for i, a in enumerate(sample.arrays)}).values())
        optimized = optimize(graph, verify=verify)
        templates = ReferenceTemplates() if count % 2 else NoTemplates()
        program = Program(lower(optimized, templates))
        for got, want in zip(program.run(*sample.arrays), expected, strict=True):
            assert got.shape == want.shape
            assert got.dtype == want.dtype
            if got.dtype.kind in "iub":
                np.testing.assert_array_equal(got, want)
                continue
            eps = float(ml_dtypes.finfo(got.dtype).eps)
            wide = np.complex128 if got.dtype.kind == "c" else np.float64
            got, want = got.astype(wide), want.astype(wide)
            scale = np.nanmax(np.abs(want), initial=1e-6, where=np.isfinite(want))
            # Statistics of data far from zero are no more exact than the data.
            scale += max(_largest(a) for a in sample.arrays)
            np.testing.assert_allclose(got, want, rtol=64 * eps, atol=64 * eps * scale)


def _largest(x: np.ndarray) -> float:
    if x.dtype.kind in "biuc":
        return 0.0
    x = x.astype(np.float64)
    return float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x) & (np.abs(x) < 1e30)))
