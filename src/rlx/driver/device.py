"""Devices: a kind and an ordinal.

A `Device` is a name, nothing more: making one opens nothing and needs no hardware, so programs can be compiled for, and
files can speak of, devices that are elsewhere. Whatever asks something of the device itself (its properties, its
memory, its backend) raises DeviceNotFound where it is not here, listing those that are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlx.driver.backend import Backend, DeviceProperties
from rlx.driver.registry import registry
from rlx.errors import DeviceNameError, DeviceNotFound

_NAME = re.compile(r"([a-z][a-z0-9_]*)(?::(0|[1-9][0-9]{0,5}))?")


@dataclass(frozen=True, order=True, init=False)
class Device:
    """One device: `Device("cpu")`, `Device("cuda:1")`, `Device("cuda", 1)`, or from another.

    Frozen, hashable, ordered, picklable; any thread may use it. Printed as `kind:ordinal`.
    Raises DeviceNameError for a name that does not parse.
    """

    kind: str
    ordinal: int

    def __init__(self, name: str | Device, ordinal: int | None = None) -> None:
        match = _NAME.fullmatch(str(name))
        if match is None or (ordinal is not None and match[2] is not None):
            given = repr(name) if ordinal is None else f"({name!r}, {ordinal!r})"
            raise DeviceNameError(
                f"{given} does not name a device", hint="a kind, or a kind and an ordinal: 'cpu', 'cuda:1'"
            )
        if ordinal is None:
            ordinal = int(match[2] or 0)
        if ordinal < 0:
            raise DeviceNameError(f"the ordinal of a device is {ordinal}, expected a whole number from 0")
        object.__setattr__(self, "kind", match[1])
        object.__setattr__(self, "ordinal", ordinal)

    @staticmethod
    def all() -> tuple[Device, ...]:
        """Every device here whose backend works; `rlx.driver.registry.registry.problems()` tells of the others."""
        return tuple(Device(kind, ordinal) for kind, ordinal in registry.available())

    @property
    def backend(self) -> Backend:
        """The backend that serves this device. Raises DeviceNotFound where the device is not here."""
        backend = registry.backend(self.kind)
        if self.ordinal >= backend.device_count():
            names = ", ".join(str(d) for d in Device.all()) or "none"
            raise DeviceNotFound(f"there is no device {str(self)!r}", where=f"devices here: {names}")
        return backend

    @property
    def properties(self) -> DeviceProperties:
        """What the device is. Raises DeviceNotFound where it is not here."""
        return self.backend.properties(self.ordinal)

    def __str__(self) -> str:
        return f"{self.kind}:{self.ordinal}"

    def __repr__(self) -> str:
        return f"Device({str(self)!r})"


#: The host itself: the device whose memory NumPy arrays live in.
HOST = Device("cpu")
