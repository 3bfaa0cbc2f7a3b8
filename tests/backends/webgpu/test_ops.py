"""Every op record, whole pipeline, on WebGPU: samples compiled to WGSL against what the record's meaning gives.

Samples whose dtypes WGSL lacks are refused with a typed error; the rest must agree. All other samples of an op make one
program.
"""

from __future__ import annotations

import numpy as np
import pytest

from rlx.driver import Device
from rlx.ir import GraphBuilder, all_ops, type_of
from rlx.options import Options
from rlx.runtime import Session
from rlx.testing.op_samples import assert_close, iter_samples

#: Ops that WebGPU does not compile, and why.
NOT_COMPILED = {
    "custom_call": "its meaning is a Python function; compiling it is a typed error, tested with the lowering",
    "real": "WGSL has no complex numbers",
    "imag": "WGSL has no complex numbers",
    "conj": "WGSL has no complex numbers",
    "complex": "WGSL has no complex numbers",
}
#: Dtypes without code: f64 is no part of WGSL, and neither are complex numbers.
NO_CODE = frozenset(np.dtype(name) for name in ("f8", "c8", "c16"))
TINY = float(np.finfo(np.float32).tiny)


def _has_code(sample, expected) -> bool:
    return not any(x.dtype in NO_CODE for x in (*sample.arrays, *expected))


def _flushed(arrays):
    """WGSL lets a device take denormals for zeros, so both sides may."""
    flushed = []
    for x in arrays:
        if x.dtype == np.float32:
            x = np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x)
        flushed.append(x)
    return flushed


@pytest.mark.parametrize("optimize", [True, False], ids=["optimised", "unoptimised"])
@pytest.mark.parametrize("name", [n for n, op in all_ops().items() if op.samples and n not in NOT_COMPILED])
def test_compiled_op_matches_its_record(name, optimize, webgpu):
    samples = [(s, e) for _, s, e in iter_samples(name) if _has_code(s, e)]
    assert samples
    b = GraphBuilder(name)
    outputs, inputs = {}, {}
    for case, (sample, _) in enumerate(samples):
        values = [b.input(f"c{case}.x{i}", type_of(array)) for i, array in enumerate(sample.arrays)]
        inputs |= {v.name: array for v, array in zip(values, sample.arrays, strict=True)}
        results = b.emit_many(name, *values, regions=sample.regions, **sample.attrs)
        outputs |= {f"c{case}.y{i}": value for i, value in enumerate(results)}
    with Session(webgpu, Options(cache=False, optimize=optimize)).compile(b.build(outputs)) as program:
        got = program.run(inputs)
    for case, (sample, expected) in enumerate(samples):
        results = [got[f"c{case}.y{i}"] for i in range(len(expected))]
        assert_close(name, sample, _flushed(results), _flushed(expected))
