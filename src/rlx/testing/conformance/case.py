"""Cases: one sentence about a device each, and what they work with.

A `Suite` is a module's collection; a case is a function of a `Subject`, and its name is its promise. A `Subject` gives
streams, buffers and programs on the device under test and ends them when the case ends. Content comes from a seeded
generator, the same for a case in every process.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from rlx.driver import HOST, Buffer, CommandStream, CompilerModule, Device, DeviceMemory, Executable, device_memory
from rlx.ir import DType, Graph, TensorType, fingerprint
from rlx.options import Options


class Programs:
    """Executables for one device, compiled once each; a run of the kit shares one."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._loaded: dict[str, Executable] = {}

    def load(self, graph: Graph) -> Executable:
        """The graph, compiled and loaded anew, with its parameters bound; the caller closes it."""
        options = Options(cache=False)
        compiler: CompilerModule = importlib.import_module(self.device.backend.compiler)  # type: ignore[assignment]
        artifact = compiler.compile_graph(graph, self.device, options)
        executable = self.device.backend.load(artifact, self.device, options)
        if graph.parameters:
            executable.bind_parameters({p.name: p.data for p in graph.parameters})
        return executable

    def get(self, graph: Graph) -> Executable:
        """The graph, compiled and loaded, for all cases to run."""
        key = fingerprint(graph)
        if key not in self._loaded:
            self._loaded[key] = self.load(graph)
        return self._loaded[key]

    def close(self) -> None:
        """Free every program."""
        for executable in self._loaded.values():
            executable.close()
        self._loaded.clear()


class Subject:
    """The device under test, for one case. mode: how a queue's work is issued; see `rlx.testing.conformance.script`."""

    def __init__(self, programs: Programs, case: str, mode: str = "direct", *, seed: int = 0) -> None:
        self.device = programs.device
        self.programs = programs
        self.mode = mode
        self.rng = np.random.default_rng([zlib.crc32(case.encode()), seed])
        self.ends = ExitStack()

    @property
    def memory(self) -> DeviceMemory:
        return device_memory(self.device)

    @property
    def host_visible(self) -> bool:
        """Whether the host may read the device's memory."""
        return self.memory.backend.host_visible

    def stream(self, name: str = "") -> CommandStream:
        """A stream of the device, closed when the case ends."""
        return self.ends.enter_context(CommandStream(self.device, name=name))

    def program(self, graph: Graph) -> Executable:
        """The graph, ready to run on the device."""
        return self.programs.get(graph)

    def content(self, type: TensorType) -> np.ndarray:
        """Fresh, finite content of any type: small whole numbers, exact in every dtype."""
        return self.rng.integers(0, 2 if type.dtype.kind == "bool" else 8, type.sizes).astype(type.dtype.numpy)

    def buffer(self, content: np.ndarray) -> Buffer:
        """A buffer of the device with that content."""
        return Buffer.from_numpy(content, copy=True, device=self.device)

    @staticmethod
    def read(buffer: Buffer) -> np.ndarray:
        """The buffer's content, on the host."""
        return buffer.to(HOST).numpy().copy()


Body = Callable[[Subject], None]


@dataclass(frozen=True)
class Case:
    """One promise of a device. id: `suite/name`, with `[variant]` where there are several of a kind."""

    suite: str
    id: str
    body: Body
    mode: str = "direct"

    def run(self, programs: Programs, *, seed: int = 0) -> None:
        """Raise where the device breaks the promise."""
        subject = Subject(programs, self.id, self.mode, seed=seed)
        with subject.ends:
            self.body(subject)


@dataclass
class Suite:
    """Cases about one thing."""

    name: str
    cases: list[Case] = field(default_factory=list)

    def case(self, body: Body) -> Body:
        """Decorates a case."""
        self.cases.append(Case(self.name, f"{self.name}/{body.__name__}", body))
        return body

    def in_modes(self, modes: Iterable[str]) -> Callable[[Body], Body]:
        """Decorates a case that is run once a mode."""

        def decorate(body: Body) -> Body:
            for mode in modes:
                self.cases.append(Case(self.name, f"{self.name}/{body.__name__}[{mode}]", body, mode))
            return body

        return decorate

    def for_each(self, variants: Mapping[str, object]) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Decorates a case that is run once a variant, which it takes as its second argument."""

        def decorate(body: Callable[..., None]) -> Callable[..., None]:
            for name, value in variants.items():
                bound: Body = lambda subject, value=value: body(subject, value)  # noqa: E731
                self.cases.append(Case(self.name, f"{self.name}/{body.__name__}[{name}]", bound))
            return body

        return decorate


def by_name(dtypes: Iterable[DType]) -> dict[str, DType]:
    """dtypes as variants."""
    return {dtype.name: dtype for dtype in dtypes}
