"""What a kind of device must give: the two protocols that a backend implements, and what it may give besides.

A `Backend` is one object a kind ("cpu", "cuda", ...), found by `rlx.driver.registry`. Importing its module and calling
anything but `load` and the module named by `compiler` must be cheap: no compiler is imported, no thread is started, no
device is opened. A `MemoryBackend` is one device's memory in the raw: addresses and bytes, no types. `Buffer`, arenas,
caching and statistics are built on it, once, for every kind; a backend keeps no freed bytes of its own.

A memory may keep to more: `DivisibleMemory` (parts of an allocation serve as allocations), `MemoryOfKinds` (there are
other kinds of memory beside the device's own), `QueuedMemory` (foreign queues can be ordered with the device's),
`AsynchronousMemory` (what was called may still be under way when the call has returned).

Threads. Every method of both may be called from any thread, at the same time.
Ordering. Memory calls have happened when they return, as far as later calls can see; a `CommandStream` is what makes
them asynchronous.
Failure. Methods raise `rlx.errors` classes; `MemoryBackend.allocate` raises MemoryError where there is no room.
Loss. Once a device is lost, every call that needs it raises DeviceLost, with one message that names the device; calls
that give back (`MemoryBackend.free`, `Executable.close`) raise nothing. It stays lost for as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from rlx.driver.executable import Artifact, Executable
from rlx.ir.graph import Graph

if TYPE_CHECKING:
    from rlx.driver.device import Device

#: Where bytes can be. device: the device's own memory. host: this process's. pinned: the host's, locked in physical
#: memory so that a device reaches it fast. unified: one address that host and device both read and write. file: a
#: file's own pages, mapped.
MemoryKind = Literal["device", "host", "pinned", "unified", "file"]


@dataclass(frozen=True)
class DeviceProperties:
    """What one device is.

    name: as its maker calls it.
    memory_bytes: all that its memory holds.
    features: what code for it may use (instruction sets, limits, versions); small plain values.
    dlpack_device: (device type, device id) as DLPack counts them, None where DLPack has no number for it.
    """

    name: str
    memory_bytes: int
    features: Mapping[str, bool | int | str] = field(default_factory=dict)
    dlpack_device: tuple[int, int] | None = None


@runtime_checkable
class MemoryBackend(Protocol):
    """One device's memory. An address is an int; arithmetic on it inside one allocation must hold.

    Reuse. Bytes whose last holder has let go may be written by the next one at once, without a call to this memory in
    between: a device whose runs and copies return before they are done orders later ones behind them.
    """

    @property
    def host_visible(self) -> bool:
        """True where addresses are valid pointers in this process: such memory may be read as NumPy arrays."""
        ...

    @property
    def capacity_bytes(self) -> int:
        """All that this memory could hold."""
        ...

    def allocate(self, nbytes: int, alignment: int) -> int:
        """The address of nbytes (above 0) fresh bytes of unknown content; a multiple of `alignment`, a power of two.

        Raises MemoryError where there is no room.
        """
        ...

    def free(self, address: int) -> None:
        """Give back what `allocate` gave.

        A garbage collection may call this at any point, even inside another call of the same thread: a lock that is
        taken here must be re-entrant.
        """
        ...

    def copy_in(self, destination: int, host_source: int, nbytes: int) -> None:
        """Host bytes to this memory."""
        ...

    def copy_out(self, host_destination: int, source: int, nbytes: int) -> None:
        """Bytes of this memory to the host."""
        ...

    def copy_within(self, destination: int, source: int, nbytes: int) -> None:
        """Between two places of this memory; they may overlap."""
        ...

    def fill(self, destination: int, pattern: bytes, count: int) -> None:
        """Write `pattern` (1 to 16 bytes, a power of two) count times, one after the other."""
        ...


@runtime_checkable
class DivisibleMemory(MemoryBackend, Protocol):
    """Memory whose allocations may be handed out in parts. Of any other, whole allocations are kept and given again."""

    @property
    def granularity(self) -> int:
        """What a part's start and size are multiples of, a power of two in bytes."""
        ...


@runtime_checkable
class MemoryOfKinds(MemoryBackend, Protocol):
    """Memory with others beside it that serve the same device."""

    @property
    def kinds(self) -> Mapping[MemoryKind, MemoryBackend]:
        """ "pinned" or "unified" -> that memory, the same object at each call; both are host-visible."""
        ...


@runtime_checkable
class QueuedMemory(MemoryBackend, Protocol):
    """Memory whose work runs on a queue that other libraries of this process can name: a CUDA or HIP stream."""

    @property
    def queue(self) -> int:
        """The queue that this memory's transfers and its device's runs go to, as DLPack numbers it for this device."""
        ...

    def order(self, first: int, then: int) -> None:
        """Let what is put on the queue `then` from now on begin when what is on `first` is done. Does not wait."""
        ...


@runtime_checkable
class AsynchronousMemory(MemoryBackend, Protocol):
    """Memory of a device that works through a queue of its own: runs and copies return when they are submitted.

    Submitted work is ordered before every later call; `synchronize` is for those who wait without another call, as
    streams do before they say that a point is reached.
    """

    def synchronize(self) -> None:
        """Return when the device has done all that was submitted. Raises DeviceLost."""
        ...


@runtime_checkable
class Backend(Protocol):
    """One kind of device.

    kind: the name in `Device("kind:0")`, equal to the entry point's name.
    compiler: dotted name of a module with `compile_graph(graph, device, options) -> Artifact` (see `CompilerModule`),
        imported only when something must be compiled.
    """

    @property
    def kind(self) -> str: ...

    @property
    def compiler(self) -> str: ...

    def device_count(self) -> int:
        """How many devices of this kind are here; 0 where the hardware or its driver is missing."""
        ...

    def properties(self, ordinal: int) -> DeviceProperties: ...

    def memory(self, ordinal: int) -> MemoryBackend:
        """The memory of one device: the same object at each call."""
        ...

    def target_key(self, device: Device, options: Any) -> dict[str, str]:
        """Named parts of a compile-cache key: the target features really used and the versions that shape code."""
        ...

    def load(self, artifact: Artifact, device: Device, options: Any) -> Executable:
        """Make an artefact runnable. Raises DriverError where it was made for another backend or target."""
        ...


class TuningRecords(Protocol):
    """Where a compiler that measures keeps what it measured, from one compilation to the next."""

    def find(self, parts: Mapping[str, str]) -> Mapping[str, Any] | None:
        """What was kept under exactly these parts, as JSON can hold it, or None."""
        ...

    def keep(self, parts: Mapping[str, str], record: Mapping[str, Any]) -> None:
        """Keep a record under these parts, which name all that it depends on."""
        ...


class CompilerModule(Protocol):
    """The module that `Backend.compiler` names."""

    def compile_graph(self, graph: Graph, device: Device, options: Any) -> Artifact:
        """Compile; parameters' data is not read, only their types.

        A backend with a true attribute `donation` has a compiler that also takes `donate`, by keyword: the names of
        inputs that runs may overwrite. Its executables have `in_inputs`, see `rlx.runtime.program`.

        A backend with a true attribute `tuning` has a compiler that also takes `records`, by keyword, where
        `Options.tune` is set: a `TuningRecords`. The artefact's manifest then says in `untuned` how many kernels it
        had no time to measure.
        """
        ...
