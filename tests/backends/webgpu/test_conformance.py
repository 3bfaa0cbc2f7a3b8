"""WebGPU keeps the driver's whole contract, by the kit that any backend must pass."""

from __future__ import annotations

from rlx.testing.conformance.kit import conform


def test_webgpu_conforms(webgpu):
    score = conform(webgpu)
    assert score.conforms, score
