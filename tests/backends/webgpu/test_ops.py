"""Every op record, whole pipeline, on WebGPU: samples compiled to WGSL against what the record's meaning gives.

The quick run takes the dtypes that WebGPU always has, and i64; the slow one all that have code, fused and unfused. All
samples of an op make one program.
"""

from __future__ import annotations

import numpy as np
import pytest

from rlx.ir import GraphBuilder, all_ops, dtypes, type_of
from rlx.ir.dtypes import from_numpy
from rlx.ir.interpret import interpret
from rlx.options import Options
from rlx.runtime import Session
from rlx.testing.float_freedom import assert_close_on, sample_for
from rlx.testing.op_samples import iter_samples

#: Ops that WebGPU does not compile, and why.
NOT_COMPILED = {
    "custom_call": "its meaning is a Python function; compiling it is a typed error, tested with the lowering",
    "real": "WGSL has no complex numbers",
    "imag": "WGSL has no complex numbers",
    "conj": "WGSL has no complex numbers",
    "complex": "WGSL has no complex numbers",
}
#: Dtypes without code: WGSL has neither f64 nor complex numbers.
NO_CODE = frozenset(("f64", "c64", "c128"))
QUICK = frozenset(("f32", "i32", "u32", "bool", "i64"))
QUICK_SAMPLES = 12
NAMES = [n for n, op in all_ops().items() if op.samples and n not in NOT_COMPILED]


def _dtypes(sample, expected) -> set[str]:
    return {from_numpy(x.dtype).name for x in (*sample.arrays, *expected)}


def _samples(name, device):
    for _, sample, expected in iter_samples(name):
        yield sample_for(device, name, sample, expected)


def _check(name, samples, options, device):
    b = GraphBuilder(name)
    outputs, inputs = {}, {}
    for case, (sample, _) in enumerate(samples):
        values = [b.input(f"c{case}.x{i}", type_of(array)) for i, array in enumerate(sample.arrays)]
        inputs |= {v.name: array for v, array in zip(values, sample.arrays, strict=True)}
        results = b.emit_many(name, *values, regions=sample.regions, **sample.attrs)
        outputs |= {f"c{case}.y{i}": value for i, value in enumerate(results)}
    with Session(device, options).compile(b.build(outputs)) as program:
        got = program.run(inputs)
    for case, (sample, expected) in enumerate(samples):
        results = [got[f"c{case}.y{i}"] for i in range(len(expected))]
        assert_close_on(device, name, sample, tuple(results), expected)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_op_matches_its_record(name, webgpu):
    samples = [(s, e) for s, e in _samples(name, webgpu) if _dtypes(s, e) <= QUICK]
    step = -(-len(samples) // QUICK_SAMPLES)
    assert samples
    _check(name, samples[::step], Options(cache=False), webgpu)


@pytest.mark.slow
@pytest.mark.parametrize("optimize", [True, False], ids=["optimised", "unoptimised"])
@pytest.mark.parametrize("name", NAMES)
def test_compiled_op_matches_its_record_in_every_dtype(name, optimize, webgpu):
    samples = [(s, e) for s, e in _samples(name, webgpu) if not _dtypes(s, e) & NO_CODE]
    _check(name, samples, Options(cache=False, optimize=optimize), webgpu)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ops_of_64_bit_integers_match_their_records_without_the_adapters(name, narrow):
    samples = [
        (s, e) for s, e in _samples(name, narrow) if _dtypes(s, e) & {"i64", "u64"} and not _dtypes(s, e) & NO_CODE
    ]
    if samples:
        _check(name, samples, Options(cache=False), narrow)


BINARY = "add sub mul div rem pow min max and or xor shift_left shift_right_logical shift_right_arithmetic lt le eq ne"


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_64_bit_integers_are_exact_without_the_adapters(kind, narrow):
    rng = np.random.default_rng(8)
    info = np.iinfo(kind)
    edges = np.array([info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 63, 64, 2**31, 2**32, 2**32 + 1], kind)
    x, y = (
        np.concatenate(
            [np.repeat(edges, 12), rng.integers(info.min, info.max, 200, kind) >> rng.integers(0, 64, 200, kind)]
        )
        for _ in range(2)
    )
    y[:144] = np.tile(edges, 12)
    b = GraphBuilder("wide")
    v, w = (b.input(name, type_of(array)) for name, array in (("x", x), ("y", y)))
    outputs = {op: b.emit(op, v, w) for op in BINARY.split()}
    outputs |= {
        op: b.emit(op, v) for op in ("neg", "abs", "sign", "not", "popcnt", "clz") if kind is np.int64 or op != "neg"
    }
    for to in (dtypes.f32, dtypes.f16, dtypes.i32, dtypes.u8, dtypes.bool_, dtypes.u64, dtypes.i64):
        outputs[f"to {to}"] = b.emit("convert", v, dtype=to)
    graph = b.build(outputs)
    got = Session(narrow, Options(cache=False)).compile(graph).run({"x": x, "y": y})
    for name, expected in interpret(graph, {"x": x, "y": y}).items():
        np.testing.assert_array_equal(got[name], expected, err_msg=name)
