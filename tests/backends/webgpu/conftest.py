"""The device under test: the first adapter, hardware or software; tests skip where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlx.backends.webgpu.backend import WebGpuBackend
from rlx.backends.webgpu.gpu import adapters, wgpu
from rlx.driver import Device
from rlx.driver.registry import registry


@pytest.fixture(scope="session")
def webgpu() -> Device:
    if wgpu() is None:
        pytest.skip("the package wgpu is not installed; `pip install rlx[webgpu]` brings it")
    if not adapters(None):
        pytest.skip("no Vulkan, Metal or DX12 adapter; Debian's mesa-vulkan-drivers brings one in software")
    return Device("webgpu")


@pytest.fixture(scope="session")
def lesser(webgpu: Device) -> Callable[..., Device]:
    """Makes a device that does without some of the adapter's limits and features: lesser(kind, lowered=, without=)."""

    def make(kind: str, **less: object) -> Device:
        registry._backends.setdefault(kind, WebGpuBackend(kind, None, **less))
        return Device(kind)

    return make


@pytest.fixture(scope="session")
def narrow(lesser: Callable[..., Device]) -> Device:
    """A device without 64-bit integers in shaders, as in browsers and on Metal."""
    return lesser("narrow", without={"shader-int64"})


@pytest.fixture(scope="session")
def small(lesser: Callable[..., Device]) -> Device:
    """A device whose shaders bind 64 KiB at once, of buffers of 200 KiB."""
    return lesser("small", lowered={"max-storage-buffer-binding-size": 64 << 10, "max-buffer-size": 200 << 10})


@pytest.fixture(scope="session")
def tiny(lesser: Callable[..., Device]) -> Device:
    """A device whose shaders bind eight buffers of 4 KiB."""
    return lesser("tiny", lowered={"max-storage-buffer-binding-size": 4096, "max-storage-buffers-per-shader-stage": 8})
