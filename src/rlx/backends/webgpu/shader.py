"""From WGSL to a shader module, with no more run-time checks than the shader needs.

wgpu guards every loop with a counter, and every array access with a comparison. Our loops end, so the counters go.
Accesses to storage are the exception that needs its guard: a masked load may reach past its binding, and its value is
thrown away. Vulkan and DX12 guard storage by themselves, so a shader whose other arrays are never overrun needs nothing
of wgpu there. Measured on a software adapter, a matrix product takes 0.57 of its time without both.

Only wgpu's native library can leave checks out, by a call that the package does not offer: where it is missing, shaders
have all checks.
"""

from __future__ import annotations

from typing import Any

from rlx.backends.webgpu.gpu import Gpu

#: APIs whose devices keep accesses to storage within the buffer.
_ROBUST = ("Vulkan", "D3D12")
_BOUNDS_CHECKS = 1  # WGPUShaderRuntimeChecks_BoundsChecks


def shader_module(gpu: Gpu, source: str, *, within: bool) -> Any:
    """A wgpu shader module. within: every access to arrays other than storage is within bounds."""
    native = gpu.native
    create = getattr(getattr(native, "libf", None), "wgpuDeviceCreateShaderModuleTrusted", None)
    if native is None or create is None:
        return gpu.device.create_shader_module(code=source)
    ffi, text = native.ffi, source.encode()
    kept = ffi.new("char[]", text)
    code = ffi.new("WGPUShaderSourceWGSL *")
    code.chain.sType = native.lib.WGPUSType_ShaderSourceWGSL
    code.code.data, code.code.length = kept, len(text)
    descriptor = ffi.new("WGPUShaderModuleDescriptor *")
    descriptor.nextInChain = ffi.cast("WGPUChainedStruct *", code)
    checks = 0 if within and gpu.adapter.info["backend_type"] in _ROBUST else _BOUNDS_CHECKS
    return native.GPUShaderModule("", create(gpu.device._internal, descriptor, checks), gpu.device)
