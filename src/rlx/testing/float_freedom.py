"""Comparing where a device computes floats less exactly than op records say, within what its language allows.

WGSL lets a device take denormals for zeros, of operands and of results, fuse a product into a sum, and divide and take
square roots to within 2.5 ulp; GPUs do all of that. A device says so by its feature `exact-floats`, False; every other
device is held to the records alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlx.driver import Device
from rlx.ir import dtypes
from rlx.ir.op import Sample
from rlx.testing.op_samples import Arrays, assert_close, evaluate_sample, ulp_distance

_TINY = float(np.finfo(np.float32).tiny)
#: Dtypes whose denormals are f32's.
_WITH_DENORMALS = (dtypes.f32.numpy, dtypes.bf16.numpy)
#: A result this near to a denormal may be lost with one on the way to it.
_NEAR = 128 * _TINY
#: Ops that divide or take roots, and the ulp that they may be off by in all.
_ROUNDED = frozenset(("div", "sqrt", "rsqrt", "cbrt", "hard_sigmoid"))
_ULPS = 8


def is_exact(device: Device) -> bool:
    """Whether the device computes floats as op records say."""
    return bool(device.properties.features.get("exact-floats", True))


def sample_for(device: Device, name: str, sample: Sample, expected: Arrays) -> tuple[Sample, Arrays]:
    """A sample of the op `name`, and what it gives, as the device may be asked: where not exact, without denormals."""
    arrays = sample.arrays
    if is_exact(device) or not any(x.dtype in _WITH_DENORMALS for x in arrays):
        return sample, expected
    sample = replace(sample, arrays=_without_denormals(arrays, _TINY))
    return sample, evaluate_sample(name, sample)


def assert_close_on(device: Device, name: str, sample: Sample, got: Arrays, expected: Arrays) -> None:
    """As `assert_close`, with the freedom that the device has."""
    if not is_exact(device):
        got, expected = _without_denormals(got, _NEAR), _without_denormals(expected, _NEAR)
        if name in _ROUNDED and all(
            (ulp_distance(g, e) <= _ULPS).all() for g, e in zip(got, expected, strict=True) if g.dtype == np.float32
        ):
            got = tuple(e if g.dtype == np.float32 else g for g, e in zip(got, expected, strict=True))
    assert_close(name, sample, got, expected)


def _without_denormals(arrays: Arrays, below: float) -> Arrays:
    return tuple(_kept(x, below) if x.dtype in _WITH_DENORMALS else x for x in arrays)


def _kept(x: np.ndarray, below: float) -> np.ndarray:
    wide = x.astype(np.float32)
    return np.where(np.abs(wide) < below, np.copysign(np.float32(0), wide), wide).astype(x.dtype)
