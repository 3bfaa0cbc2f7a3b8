"""A device that computes floats as GPUs do is compared as WGSL allows, and no more loosely; others exactly."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rlx.ir import dtypes
from rlx.ir.op import Sample
from rlx.testing.float_freedom import assert_close_on, is_exact, sample_for
from rlx.testing.op_samples import evaluate_sample

EXACT = SimpleNamespace(properties=SimpleNamespace(features={}))
GPU = SimpleNamespace(properties=SimpleNamespace(features={"exact-floats": False}))
TINY = np.finfo(np.float32).tiny


def _sample(op, *arrays):
    sample = Sample(arrays, {})
    return sample, evaluate_sample(op, sample)


def test_devices_are_exact_unless_they_say_otherwise():
    assert is_exact(EXACT)
    assert not is_exact(GPU)


@pytest.mark.parametrize("dtype", [dtypes.f32.numpy, dtypes.bf16.numpy])
def test_a_gpu_is_not_asked_for_denormals(dtype):
    x = np.array([TINY / 2, -TINY / 4, TINY, 1.0, np.nan], np.float32).astype(dtype)
    sample, expected = _sample("neg", x)
    assert sample_for(EXACT, "neg", sample, expected)[0] is sample
    asked, wanted = sample_for(GPU, "neg", sample, expected)
    np.testing.assert_array_equal(asked.arrays[0].astype(np.float32), np.array([0, 0, TINY, 1, np.nan], np.float32))
    assert np.signbit(asked.arrays[0].astype(np.float32)).tolist() == [False, True, False, False, False]
    np.testing.assert_array_equal(wanted[0].astype(np.float32), -asked.arrays[0].astype(np.float32))


def test_a_result_lost_near_a_denormal_is_no_fault_of_a_gpu():
    sample, expected = _sample("mul", np.array([1e-20, 1.0], np.float32), np.array([1e-18, 2.0], np.float32))
    lost = (np.array([0.0, 2.0], np.float32),)
    assert_close_on(GPU, "mul", sample, lost, expected)
    with pytest.raises(AssertionError):
        assert_close_on(EXACT, "mul", sample, lost, expected)
    with pytest.raises(AssertionError):
        assert_close_on(GPU, "mul", sample, (np.array([0.0, 2.0000002], np.float32),), expected)


def test_a_quotient_may_be_off_by_a_few_ulp_on_a_gpu_and_no_more():
    sample, expected = _sample("div", np.array([1.0, 2.0], np.float32), np.array([3.0, 7.0], np.float32))
    for steps, device, passes in ((2, GPU, True), (2, EXACT, False), (9, GPU, False)):
        off = (expected[0].view(np.int32) + steps).view(np.float32)
        if passes:
            assert_close_on(device, "div", sample, (off,), expected)
        else:
            with pytest.raises(AssertionError):
                assert_close_on(device, "div", sample, (off,), expected)
