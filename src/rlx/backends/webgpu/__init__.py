"""WebGPU: Metal, Vulkan and DX12 through the package `wgpu`."""

from rlx.backends.webgpu.backend import backend, dx12, metal, vulkan

__all__ = ["backend", "dx12", "metal", "vulkan"]
