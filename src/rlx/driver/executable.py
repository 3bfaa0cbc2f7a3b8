"""Compiled programs as the driver sees them: bytes to keep, and a thing that runs.

An `Artifact` is what a compiler gives and a cache stores: plain data, the same on every machine that can run it. An
`Executable` is an artefact made ready on one device by `Backend.load`; parameters are bound to it once, then it runs
any number of times. An artefact never changes, so any thread may read it; an executable says what threads may do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from rlx.ir.types import TensorType

if TYPE_CHECKING:
    from rlx.driver.buffer import Buffer


@dataclass(frozen=True)
class Artifact:
    """A compiled program at rest.

    backend: the kind that made it and can load it.
    manifest: all that is small, as JSON can hold it: names, types, plan, target.
    sections: all that is large, by name: code, constants. Bytes may be views into a mapped file.
    """

    backend: str
    manifest: Mapping[str, Any]
    sections: Mapping[str, bytes | memoryview]


@runtime_checkable
class Executable(Protocol):
    """A program loaded on one device.

    Owner. Whoever loaded it; `close` frees its code and memory, and later calls raise.
    Threads. Any thread may call: runs of one executable take turns where they share memory, by a lock of its own.
    Ordering. `run` works on the thread that calls it. When it returns it has finished, or stands in the device's own
    queue before everything that comes later; see `AsynchronousMemory`.
    """

    @property
    def inputs(self) -> Mapping[str, TensorType]:
        """Names -> types, in the order of `run`."""
        ...

    @property
    def outputs(self) -> Mapping[str, TensorType]:
        """Names -> types, in the order of `run`."""
        ...

    @property
    def parameters(self) -> Mapping[str, TensorType]:
        """Weights to be bound before the first run, names -> types."""
        ...

    def bind_parameters(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Give every parameter its data, once. The executable keeps the arrays alive while it needs them."""
        ...

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        """Read `inputs`, write all of `outputs`; types and devices are the caller's to check, memory is contiguous."""
        ...

    def report(self) -> Mapping[str, Any]:
        """Facts about this program as JSON can hold them: dispatch, fusion, memory."""
        ...

    def close(self) -> None:
        """Free everything. Closing twice is allowed."""
        ...
