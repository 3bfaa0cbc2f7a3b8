"""GPUs through WebGPU as RLX devices: `webgpu`, and `metal`, `vulkan` and `dx12`, which keep to one API.

Cheap to import: wgpu is loaded when a device is first asked for. Where it is missing there are no devices of these
kinds. The compiler (`rlx.backends.webgpu.compiler`) is imported only when something must be compiled; an artefact holds
WGSL, which the driver compiles when it is loaded. Any thread may call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import ClassVar

from rlx.backends.webgpu.executable import WebGpuExecutable
from rlx.backends.webgpu.gpu import Gpu, adapters, gpu
from rlx.backends.webgpu.memory import WebGpuMemory
from rlx.backends.webgpu.mixed import MixedExecutable
from rlx.driver import Artifact, Device, DeviceProperties, Executable
from rlx.errors import DriverError
from rlx.options import Options

#: Limits that shape code.
_SHAPING = (
    "max-storage-buffers-per-shader-stage",
    "max-storage-buffer-binding-size",
    "max-buffer-size",
    "max-compute-workgroup-storage-size",
)


class WebGpuBackend:
    """Adapters of one API, or of any. See `rlx.driver.Backend`.

    lowered, without: limits and features that its devices are to do without; see `Gpu`.
    """

    compiler = "rlx.backends.webgpu.compiler"
    donation = True  # the compiler takes `donate`
    #: What the conformance kit is told (see `rlx.testing.conformance`).
    conformance: ClassVar[dict[str, dict[str, str]]] = {
        "unsupported": {
            "numerics/*[*f64*]": "WGSL has no f64",
            "numerics/*[*c64*]": "WGSL has no complex numbers",
            "numerics/*[*c128*]": "WGSL has no complex numbers",
        }
    }

    def __init__(
        self, kind: str, api: str | None, *, lowered: Mapping[str, int] | None = None, without: Collection[str] = ()
    ) -> None:
        self.kind = kind
        self._api = api
        held = cache(lambda ordinal: Gpu(adapters(api)[ordinal], lowered, without))
        self._gpu: Callable[[int], Gpu] = held if lowered or without else lambda ordinal: gpu(api, ordinal)
        self._memories: dict[int, WebGpuMemory] = {}

    def device_count(self) -> int:
        return len(adapters(self._api))

    def properties(self, ordinal: int) -> DeviceProperties:
        opened = self._gpu(ordinal)
        info = opened.adapter.info
        features: dict[str, bool | int | str] = {
            "api": info["backend_type"],
            "adapter": info["adapter_type"],
            "driver": info["description"],
            "exact-floats": info["adapter_type"] == "CPU",  # see `rlx.testing.float_freedom`
        }
        features |= dict.fromkeys(opened.features, True)
        features |= dict(opened.limits)
        return DeviceProperties(info["device"], self.memory(ordinal).capacity_bytes, features)

    def memory(self, ordinal: int) -> WebGpuMemory:
        found = self._memories.get(ordinal)
        return found or self._memories.setdefault(ordinal, WebGpuMemory(lambda: self._gpu(ordinal)))

    def target_key(self, device: Device, options: Options) -> dict[str, str]:
        """WGSL depends on the language's extensions, on what shaders may bind and share, and on the kind of adapter."""
        opened = self._gpu(device.ordinal)
        limits = {name: str(opened.limits[name]) for name in _SHAPING}
        return {"features": ",".join(sorted(opened.features)), "adapter": opened.adapter.info["adapter_type"], **limits}

    def load(self, artifact: Artifact, device: Device, options: Options) -> Executable:
        if artifact.backend not in (self.kind, *KINDS):
            raise DriverError(f"an artefact compiled for {artifact.backend!r} cannot run on {device}")
        loaded = MixedExecutable if "parts" in artifact.manifest else WebGpuExecutable
        return loaded(artifact, device, options, self.memory(device.ordinal))

    def lose_device(self, ordinal: int) -> None:
        """Lose the device as a reset of its driver would, for the conformance kit; it stays lost."""
        self._gpu(ordinal).lose()


#: What the entry points name.
backend = WebGpuBackend("webgpu", None)
metal = WebGpuBackend("metal", "Metal")
vulkan = WebGpuBackend("vulkan", "Vulkan")
dx12 = WebGpuBackend("dx12", "D3D12")
KINDS = ("webgpu", "metal", "vulkan", "dx12")
