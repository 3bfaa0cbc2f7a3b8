"""Numerics: every op on every dtype gives what its record says, within the record's tolerance, and, on devices that say
so, within the freedom of `rlx.testing.float_freedom`.

A case is an op and a kind: the dtype of its first operand and, behind it, those of `_RARE` that its other operands and
results have, as in `numerics/convert[i32,f64]`: a device without f64 leaves out `numerics/*[*f64*]`, and nothing else.
All samples of a case make one program. In full, an op is held to all its kinds and samples. By default it is held to a
few samples, others for each seed, of f32 where it has that; one op in three is held to one more kind.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache

import numpy as np

from rlx.driver import HOST, Buffer
from rlx.ir import GraphBuilder, all_ops, type_of
from rlx.ir.op import Sample
from rlx.testing.conformance.case import Case, Subject
from rlx.testing.conformance.expect import expect
from rlx.testing.float_freedom import assert_close_on, sample_for
from rlx.testing.op_samples import Arrays, iter_samples, sample_node

#: Samples of one op and dtype that are run by default.
FEW = 3
#: Dtypes that many devices lack.
_RARE = ("c128", "c64", "f64")
Samples = list[tuple[str, Sample, Arrays]]


def numerics_cases(*, full: bool) -> list[Case]:
    """A case an op, or an op and kind in full."""
    cases: list[Case] = []
    for op, kinds in _kinds().items():
        for kind in kinds if full else _few(op, kinds):
            cases.append(Case("numerics", f"numerics/{op}[{kind}]", _body(op, kind, full)))
    return cases


def _few(op: str, kinds: list[str]) -> list[str]:
    """The first kind, and for one op in three another one."""
    draw = zlib.crc32(op.encode())
    return [kinds[0], kinds[1 + draw // 3 % (len(kinds) - 1)]] if draw % 3 == 0 and len(kinds) > 1 else kinds[:1]


@cache
def _kinds() -> dict[str, list[str]]:
    """Op -> kinds of its samples, f32 first."""
    found: dict[str, list[str]] = {}
    for name, op in all_ops().items():
        if op.samples is None:
            continue
        rng = np.random.default_rng([zlib.crc32(name.encode()), 0])
        kinds = sorted({_kind(name, s) for s in op.samples(rng)}, key=lambda k: (k != "f32", k))
        if kinds:
            found[name] = kinds
    return found


def _kind(op: str, sample: Sample) -> str:
    node = sample_node(op, sample)
    types = [value.type for value in (*node.inputs, *node.outputs)]
    rare = {str(type.dtype) for type in types} & set(_RARE)
    first = str(types[0].dtype) if node.inputs else "none"
    return ",".join([first, *sorted(rare - {first})])


def _body(op: str, kind: str, full: bool) -> Callable[[Subject], None]:
    def body(subject: Subject) -> None:
        samples = [s for s in iter_samples(op) if _kind(op, s[1]) == kind]
        expect(samples, f"{op} has no sample of {kind}")
        if not full and len(samples) > FEW:
            samples = [samples[i] for i in sorted(subject.rng.choice(len(samples), FEW, replace=False))]
        _check(subject, op, samples)

    return body


def _check(subject: Subject, op: str, samples: Samples) -> None:
    """All samples in one program, its outputs poisoned before."""
    samples = [(id, *sample_for(subject.device, op, sample, expected)) for id, sample, expected in samples]
    b = GraphBuilder(op)
    feeds: list[np.ndarray] = []
    outputs = {}
    for case, (_, sample, _) in enumerate(samples):
        values = [b.input(f"c{case}.x{i}", type_of(array)) for i, array in enumerate(sample.arrays)]
        feeds += sample.arrays
        results = b.emit_many(op, *values, regions=sample.regions, **sample.attrs)
        outputs |= {f"c{case}.y{i}": value for i, value in enumerate(results)}
    graph = b.build(outputs)
    program = subject.programs.load(graph)
    subject.ends.callback(program.close)
    inputs = [subject.buffer(array) for array in feeds]
    sinks = {name: Buffer.empty(type, subject.device) for name, type in program.outputs.items()}
    for sink in sinks.values():
        poison = np.frombuffer(b"\xfb" * sink.nbytes, sink.dtype.numpy).reshape(sink.shape)
        sink.copy_from(Buffer.from_numpy(poison))
    subject.stream().run_now(program, inputs, list(sinks.values()))
    for case, (id, sample, expected) in enumerate(samples):
        got = [sinks[f"c{case}.y{i}"].to(HOST).numpy() for i in range(len(expected))]
        try:
            assert_close_on(subject.device, op, sample, tuple(got), expected)
        except AssertionError as error:
            raise AssertionError(f"sample {id}: {error}") from None
