"""The CPU as an RLX device: host memory, and programs compiled to native code.

Cheap to import. The compiler (`rlx.backends.cpu.compiler`), which needs LLVM, is named here and imported only when
something must be compiled. The backend keeps no state: any thread may call it.
"""

from __future__ import annotations

import platform
from typing import ClassVar

from rlx.backends.cpu.executable import CpuExecutable
from rlx.backends.cpu.host import cpu_flags, cpu_name, memory_bytes, resolve_target, supported_targets
from rlx.driver import Artifact, Device, DeviceProperties
from rlx.driver.host_memory import HOST_MEMORY, HostMemory
from rlx.errors import DriverError
from rlx.options import Options, available_processors

#: Flags of the processor that `properties` tells.
TOLD_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "asimd")


class CpuBackend:
    """One device, `cpu:0`: all processors that this process may use."""

    kind = "cpu"
    compiler = "rlx.backends.cpu.compiler"
    precisions = ("f32", "bf16", "int8-dynamic")
    convolutions = ("direct", "winograd-2x2", "winograd-4x4")
    donation = True  # the compiler takes `donate`
    affinity = True  # `load` honours `Options.affinity`
    tuning = True  # the compiler takes `records`
    #: What the conformance kit is told (see `rlx.testing.conformance`).
    conformance: ClassVar[dict[str, dict[str, str]]] = {
        "unsupported": {"device_loss/*": "the processor and its memory cannot be lost while the process lives"}
    }

    def device_count(self) -> int:
        return 1

    def properties(self, ordinal: int) -> DeviceProperties:
        features: dict[str, bool | int | str] = {
            "processors": available_processors(),
            "targets": ", ".join(supported_targets()),
        }
        features |= {flag: True for flag in TOLD_FLAGS if flag in cpu_flags()}
        return DeviceProperties(cpu_name(), memory_bytes(), features, dlpack_device=(1, 0))

    def memory(self, ordinal: int) -> HostMemory:
        return HOST_MEMORY

    def target_key(self, device: Device, options: Options) -> dict[str, str]:
        return {
            "instructions": resolve_target(options.target, options.precision),
            "machine": platform.machine(),
            "system": platform.system(),
            **({"processor": cpu_name()} if options.tune else {}),
        }

    def load(self, artifact: Artifact, device: Device, options: Options) -> CpuExecutable:
        if artifact.backend != self.kind:
            raise DriverError(f"an artefact compiled for {artifact.backend!r} cannot run on {device}")
        return CpuExecutable(artifact, device, options)


#: What the entry point names.
backend = CpuBackend()
