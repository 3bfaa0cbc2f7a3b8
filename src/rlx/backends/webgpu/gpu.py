"""Opening GPUs through wgpu: which adapters are here, and one opened device for each.

`wgpu` is imported when the first adapter is asked for. Adapters that speak OpenGL are left out: they show the hardware
a second time, with fewer features. A device is opened once for the process, with the adapter's own limits and those
features that code can use; every user of it shares it.

Threads. wgpu's queue is shared: callers hold `Gpu.lock` while they submit, and `Gpu.reading` while they wait for what
comes back. Whoever takes both takes `reading` first.
Loss. What first finds the device gone says so, and each later call raises the same DeviceLost, for as long as the
process lives.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from rlx.errors import DeviceLost, DriverError

#: wgpu's names for the APIs that count, best first.
APIS = ("Metal", "Vulkan", "D3D12")
_LIMITS = (
    "max-storage-buffers-per-shader-stage",
    "max-storage-buffer-binding-size",
    "max-buffer-size",
    "max-compute-workgroup-storage-size",
    "max-compute-invocations-per-workgroup",
    "max-compute-workgroup-size-x",
)
#: Features of shaders; a device is opened with these, where the adapter has them, and with timestamps.
_FEATURES = ("shader-int64",)
_TIMESTAMPS = "timestamp-query"
#: The wgpu whose inner calls are known.
_NATIVE = "0.32."
#: Offsets of bindings: WebGPU's default, which every adapter keeps to.
ALIGNMENT = 256


@cache
def wgpu() -> ModuleType | None:
    """The package, or None where it, or the library that it loads, is missing."""
    try:
        import wgpu as package
    except (ImportError, OSError, RuntimeError):
        return None
    return package


@cache
def adapters(api: str | None) -> tuple[Any, ...]:
    """Adapters that speak one API, or any of APIS; hardware before software."""
    package = wgpu()
    if package is None:
        return ()
    wanted = (api,) if api else APIS
    found = [a for a in package.gpu.enumerate_adapters_sync() if a.info["backend_type"] in wanted]
    return tuple(sorted(found, key=lambda a: a.info["adapter_type"] == "CPU"))


class Gpu:
    """One opened device. lost: why it is gone, or None.

    lowered, without: limits and features that the adapter has and this device is to do without, as other adapters must.
    """

    def __init__(self, adapter: Any, lowered: Mapping[str, int] | None = None, without: Collection[str] = ()) -> None:
        package = wgpu()
        assert package is not None
        self.wgpu = package
        self.adapter = adapter
        self.features = frozenset(f for f in _FEATURES if f in adapter.features and f not in without)
        self.limits: dict[str, int] = {name: int(adapter.limits[name]) for name in _LIMITS if name in adapter.limits}
        self.limits |= lowered or {}
        self.has_timestamps = _TIMESTAMPS in adapter.features
        self.device: Any = adapter.request_device_sync(
            required_features=sorted({*self.features, *((_TIMESTAMPS,) if self.has_timestamps else ())}),
            required_limits=dict(self.limits),
        )
        #: wgpu's module of native calls, for what the package offers slowly or not at all; None where there is none.
        known = package.__version__.startswith(_NATIVE)
        self.native: Any = getattr(getattr(package.backends, "wgpu_native", None), "_api", None) if known else None
        self.lock = threading.RLock()
        self.reading = threading.RLock()
        self.lost: str | None = None

    @property
    def largest_buffer(self) -> int:
        """Bytes of the largest buffer whose parts can all be bound: a multiple of ALIGNMENT."""
        return self.limits["max-buffer-size"] // ALIGNMENT * ALIGNMENT

    def check(self) -> None:
        """Raises DeviceLost where an earlier call found the device gone."""
        if self.lost is not None:
            raise DeviceLost(
                f"the device {self.adapter.info['device']} is lost: {self.lost}",
                hint="start the process again; programs and buffers on the device are gone",
            )

    def failed(self, error: Exception, doing: str) -> DriverError:
        """A typed error for what wgpu raised while `doing`; remembers a lost device."""
        text = str(error)
        if self.lost is None and "lost" in text.lower():
            self.lost = f"found while {doing}: {text}"
        try:
            self.check()
        except DeviceLost as lost:
            return lost
        return DriverError(f"wgpu failed {doing}: {text}")

    def lose(self) -> None:
        """Destroy the device under its users' feet, as a driver's reset would: for tests of what happens then."""
        with self.reading, self.lock:
            self.device.destroy()
            self.lost = "it was destroyed"


@cache
def gpu(api: str | None, ordinal: int) -> Gpu:
    """The opened device; `webgpu:0` and `vulkan:0` share it where they are one adapter."""
    return _opened(adapters(api)[ordinal])


_gpus: dict[tuple[Any, ...], Gpu] = {}
_opening = threading.Lock()


def _opened(adapter: Any) -> Gpu:
    info = adapter.info
    same = [i for i, a in enumerate(adapters(None)) if a is adapter or dict(a.info) == dict(info)]
    key = (info["backend_type"], info["vendor_id"], info["device_id"], info["device"], len(same) and same[0])
    with _opening:
        if key not in _gpus:
            _gpus[key] = Gpu(adapter)
        return _gpus[key]
