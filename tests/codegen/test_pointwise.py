"""Every pointwise primitive, compiled for each instruction set of this machine, against its record's meaning."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.codegen.target import Target
from rlx.ir import op as ops
from rlx.ir.dtypes import from_numpy
from rlx.ir.op import Sample
from rlx.testing.kernel_runner import TARGETS, Loaded, guarded, pointwise_kernel
from rlx.testing.op_samples import Arrays, assert_close, iter_samples

POINTWISE = [record.name for record in ops.all_ops().values() if record.pointwise and not record.is_composite]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("name", POINTWISE)
def test_a_kernel_of_one_primitive_gives_what_its_record_says(name: str, target: Target) -> None:
    samples = list(iter_samples(name))
    if name == "convert":
        # 361 pairs of dtypes: each on one of the targets here, on all of them in the slow test.
        samples = samples[TARGETS.index(target) :: len(TARGETS)]
    _check(name, target, samples)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_every_pair_of_dtypes_converts_on_every_target(target: Target) -> None:
    _check("convert", target, list(iter_samples("convert")))


def _check(name: str, target: Target, samples: list[tuple[str, Sample, Arrays]]) -> None:
    kernels = {}
    symbols = []
    for _, sample, expected in samples:
        sources = [from_numpy(x.dtype) for x in sample.arrays]
        to = from_numpy(expected[0].dtype)
        symbol = "_".join([name, *(d.name for d in sources), to.name])
        kernels.setdefault(symbol, pointwise_kernel(name, sources, to))
        symbols.append(symbol)
    loaded = Loaded(kernels, target)
    for symbol, (_, sample, expected) in zip(symbols, samples, strict=True):
        arrays = [guarded(x) for x in sample.arrays]
        out = guarded(np.zeros(expected[0].size, expected[0].dtype))
        loaded(symbol, *arrays, out, sizes=(expected[0].size,))
        assert_close(name, sample, (out.reshape(expected[0].shape),), expected)
