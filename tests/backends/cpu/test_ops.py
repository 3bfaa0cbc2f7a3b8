"""Every op record, whole pipeline: samples compiled for the CPU against what the record's meaning gives.

All samples of an op make one program, so an op is compiled once. Outputs start as poison (the runtime's debug mode).
"""

from __future__ import annotations

import numpy as np
import pytest

from rlx.ir import GraphBuilder, all_ops, type_of
from rlx.options import Options
from rlx.runtime import Session
from rlx.testing.op_samples import assert_close, iter_samples

#: Ops that the CPU does not compile, and why.
NOT_COMPILED = {
    "custom_call": "its meaning is a Python function; compiling it is a typed error, tested with the lowering",
}


@pytest.mark.parametrize("optimize", [True, False], ids=["optimised", "unoptimised"])
@pytest.mark.parametrize("name", [n for n, op in all_ops().items() if op.samples and n not in NOT_COMPILED])
def test_compiled_op_matches_its_record(name, optimize):
    samples = list(iter_samples(name))
    assert samples
    b = GraphBuilder(name)
    outputs, inputs = {}, {}
    for case, (_, sample, _) in enumerate(samples):
        values = [b.input(f"c{case}.x{i}", type_of(array)) for i, array in enumerate(sample.arrays)]
        inputs |= {v.name: array for v, array in zip(values, sample.arrays, strict=True)}
        results = b.emit_many(name, *values, regions=sample.regions, **sample.attrs)
        outputs |= {f"c{case}.y{i}": value for i, value in enumerate(results)}
    options = Options(cache=False, optimize=optimize, debug_memory=True)
    with Session("cpu", options).compile(b.build(outputs)) as program:
        poisoned = {
            n: np.frombuffer(b"\xfb" * t.nbytes, t.dtype.numpy).reshape(t.sizes).copy()
            for n, t in program.outputs.items()
        }
        got = program.run(inputs, out=poisoned)
    for case, (_, sample, expected) in enumerate(samples):
        assert_close(name, sample, [got[f"c{case}.y{i}"] for i in range(len(expected))], expected)
