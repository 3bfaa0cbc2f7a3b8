"""The device under test: the first adapter, hardware or software; tests skip where there is none."""

from __future__ import annotations

import pytest

from rlx.backends.webgpu.gpu import adapters, wgpu
from rlx.driver import Device


@pytest.fixture(scope="session")
def webgpu() -> Device:
    if wgpu() is None:
        pytest.skip("the package wgpu is not installed; `pip install rlx[webgpu]` brings it")
    if not adapters(None):
        pytest.skip("no Vulkan, Metal or DX12 adapter; Debian's mesa-vulkan-drivers brings one in software")
    return Device("webgpu")
