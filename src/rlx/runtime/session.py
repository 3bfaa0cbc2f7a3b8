"""Sessions: a device and options, and from models to programs.

`Session(device, options).compile(model)` looks in the compile cache by the graph's fingerprint, the target's features,
the options and the versions of what shapes the code; it imports the backend's compiler only on a miss. For a model's
file that the cache knows it does not even build the graph (`rlx.runtime.known_programs`). A session holds no device
state of its own: programs outlive it, and any thread may use it.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from rlx import driver, ir
from rlx.driver import Artifact, Device, Executable
from rlx.driver.file_map import unchanged
from rlx.errors import CommandError, InputMismatch, IRError, NotAModel
from rlx.ir import Dim, Graph, TensorType
from rlx.options import OptionError, Options
from rlx.runtime.cache import DiskCache, MemoryCache, digest
from rlx.runtime.donation import known_names
from rlx.runtime.known_programs import KnownPrograms, Readable
from rlx.runtime.model import CompiledModel
from rlx.runtime.program import CompiledGraph
from rlx.runtime.tuning_records import TuningRecords
from rlx.version import build_id

if TYPE_CHECKING:
    from rlx.driver import CommandBuffer, CompilerModule, Program
    from rlx.runtime.prepared import PreparedCommands

Shapes = Mapping[str, Sequence[int]]


@runtime_checkable
class Specializable(Protocol):
    """What `compile` takes beside a graph: a model whose sizes may be open (`rlx.frontends.model.Model`)."""

    source: str
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]

    def specialize(self, shapes: Mapping[str, tuple[int, ...]]) -> Graph: ...

    def default(self, name: str, type: TensorType) -> np.ndarray | None: ...


_memory = MemoryCache()


class Session:
    """Compiles for one device with one set of options.

    device: a `Device` or its name. Raises DeviceNotFound, listing those that are here, or OptionError, also where the
        device's backend has no such precision (it lists those that it has in `precisions`; "f32" where it lists none)
        or no such convolution (`convolutions`; "direct").
    """

    def __init__(self, device: Device | str = "cpu", options: Options | None = None) -> None:
        self.device = device if isinstance(device, Device) else Device(device)
        if not isinstance(options, Options | None):
            raise OptionError(f"options is {options!r}, expected an Options", hint="rlx.Options(threads=4)")
        self.options = options or Options()
        self._backend = self.device.backend
        precisions = getattr(self._backend, "precisions", ("f32",))
        if self.options.precision not in precisions:
            raise OptionError(
                f"precision {self.options.precision!r} is not to be had on {self.device}",
                hint=f"{self.device.kind} computes in: {', '.join(precisions)}",
            )
        convolutions = getattr(self._backend, "convolutions", ("direct",))
        if self.options.convolution not in convolutions:
            raise OptionError(
                f"convolution {self.options.convolution!r} is not to be had on {self.device}",
                hint=f"{self.device.kind} computes convolutions by: {', '.join(convolutions)}",
            )
        if self.options.tune and not getattr(self._backend, "tuning", False):
            raise OptionError(f"tune=True: {self.device} has nothing to tune", hint="leave tune out for this device")
        if self.options.affinity is not None and not getattr(self._backend, "affinity", False):
            raise OptionError(f"affinity: {self.device} has no threads to bind", hint="leave it out for this device")
        self._disk = DiskCache(self.options.cache_dir, self.options.cache_bytes) if self.options.cache else None
        self._records = TuningRecords(self.options.cache_dir if self.options.cache else None)

    def compile(
        self, model: Graph | Specializable, shapes: Shapes | None = None, *, donate: Collection[str] = ()
    ) -> CompiledGraph | CompiledModel:
        """A program for `model`.

        shapes: input -> sizes, for dimensions that the model leaves open. Where some stay open, the program compiles at
        the first call, for the sizes of its inputs, and again for each new set of sizes.

        donate: names of inputs whose bytes runs may overwrite, and give outputs of the same type in: calls consume
        them (see `rlx.runtime.donation`).

        Raises the frontend's errors for sizes that contradict the model, and the compiler's, naming the model's node;
        InputMismatch for sizes that are no whole numbers; NotAModel; UnknownInput where `donate` names no input.
        """
        if not isinstance(model, Graph | Specializable):
            hint = f"rlx.load({model!r}) gives the model in a file" if isinstance(model, str | Path) else None
            raise NotAModel(f"{model!r} is no model: expected a Graph, or what rlx.load gives", hint=hint)
        sizes = {name: _whole(name, shape) for name, shape in (shapes or {}).items()}
        if isinstance(model, Graph):
            _bound(model, sizes)

        def compile_for(given: Mapping[str, tuple[int, ...]]) -> CompiledGraph:
            if isinstance(model, Graph):
                return self._compile_graph(_with_sizes(model, given), donated)
            return self._compile_model(model, given, donated)

        inputs, outputs = (
            (model.input_types, model.output_types) if isinstance(model, Graph) else (model.inputs, model.outputs)
        )
        donated = known_names(donate, inputs)
        if _left_open(inputs, sizes):
            return CompiledModel(inputs, outputs, self.device, lambda given: compile_for({**sizes, **given}))
        return compile_for(sizes)

    def prepare(self, commands: CommandBuffer | str | Path) -> PreparedCommands:
        """A recording, or the file of one, ready to be replayed on the device: its programs compiled and loaded.

        Raises CommandError where it does not carry a program's graph, or carries one of other types; TextError for a
        graph that does not parse; as `rlx.driver.load_commands` for a file; and as `compile`.
        """
        if not isinstance(commands, driver.CommandBuffer):
            commands = driver.load_commands(commands)
        graphs = {key: _graph_of(commands, program) for key, program in commands.programs.items()}
        programs = {key: self._compile_graph(graph) for key, graph in graphs.items()}
        from rlx.runtime.prepared import PreparedCommands  # and all of command buffers with it

        return PreparedCommands(commands, self.device, programs)

    def cache_key(self, graph: Graph, donate: Sequence[str] = ()) -> dict[str, str]:
        """The named parts of the key under which the graph, compiled to overwrite the inputs `donate`, is kept."""
        return {
            "graph": ir.fingerprint(graph),
            "donate": json.dumps([name in donate for name in graph.input_types]) if donate else "",
            **self._key_of_code(),
        }

    def _key_of_code(self) -> dict[str, str]:
        """The parts of keys that say how, not what."""
        return {
            "device": self.device.kind,
            "rlx": build_id(),
            **{f"option.{name}": value for name, value in self.options.key().items()},
            **{f"target.{name}": value for name, value in self._backend.target_key(self.device, self.options).items()},
        }

    def explain(self, graph: Graph) -> str:
        """Why compiling `graph` would hit or miss the disk cache: which part of the key differs."""
        if self._disk is None:
            return "miss: the disk cache is off"
        return self._disk.explain(self.cache_key(graph))

    def _compile_graph(self, graph: Graph, donated: Sequence[str] = ()) -> CompiledGraph:
        start = time.perf_counter()
        artifact, cache = self._artifact(graph, self.cache_key(graph, donated), donated)
        executable, binding = self._load(artifact, {p.name: p.data for p in graph.parameters})
        return CompiledGraph(
            executable,
            self.device,
            source=graph.source,
            cache=cache,
            seconds=time.perf_counter() - start,
            binding_seconds=binding,
            defaults={},
            donated=donated,
        )

    def _compile_model(
        self, model: Specializable, sizes: Mapping[str, tuple[int, ...]], donated: Sequence[str]
    ) -> CompiledGraph:
        start = time.perf_counter()
        known, found = None, None
        if self._disk is not None and isinstance(model, Readable):
            known = KnownPrograms(self._disk, {"donate": json.dumps(sorted(donated)), **self._key_of_code()})
            found = known.find(model, sizes)
        kept = self._kept(found[0]) if found else None
        if found and kept:
            (artifact, cache), parameters = kept, found[1]
        else:
            graph = model.specialize(sizes)
            parts = self.cache_key(graph, donated)
            artifact, cache = self._artifact(graph, parts, donated)
            parameters = {p.name: p.data for p in graph.parameters}
            if known is not None and isinstance(model, Readable):
                known.note(model, sizes, graph, digest(parts))
        executable, binding = self._load(artifact, parameters)
        defaults = {name: model.default(name, type) for name, type in executable.inputs.items()}
        return CompiledGraph(
            executable,
            self.device,
            source=model.source,
            cache=cache,
            seconds=time.perf_counter() - start,
            binding_seconds=binding,
            defaults={name: array for name, array in defaults.items() if array is not None},
            donated=donated,
        )

    def _load(self, artifact: Artifact, parameters: Mapping[str, np.ndarray]) -> tuple[Executable, float]:
        """The executable, and how many seconds binding its parameters took."""
        executable = self._backend.load(artifact, self.device, self.options)
        start = time.perf_counter()
        if parameters:
            with unchanged(parameters.values()):
                executable.bind_parameters(parameters)
        return executable, time.perf_counter() - start

    def _kept(self, key: str) -> tuple[Artifact, str] | None:
        """The artefact that a cache has for a key, and which cache."""
        artifact = _memory.get(key)
        if artifact is not None:
            return artifact, "memory"
        artifact = self._disk.get(key) if self._disk is not None else None
        if artifact is None or artifact.backend != self.device.kind:
            return None
        _memory.put(key, artifact)
        return artifact, "disk"

    def _artifact(self, graph: Graph, parts: Mapping[str, str], donated: Sequence[str]) -> tuple[Artifact, str]:
        key = digest(parts)
        kept = self._kept(key)
        if kept:
            return kept
        compiler: CompilerModule = importlib.import_module(self._backend.compiler)  # type: ignore[assignment]
        more: dict[str, Any] = {"donate": donated} if donated and getattr(self._backend, "donation", False) else {}
        if self.options.tune:
            more["records"] = self._records
        artifact = compiler.compile_graph(graph, self.device, self.options, **more)
        if artifact.manifest.get("untuned"):
            return artifact, "compiled"  # not kept: the next compilation goes on measuring
        _memory.put(key, artifact)
        if self._disk is not None:
            self._disk.put(key, parts, artifact)
        return artifact, "compiled"


def _graph_of(commands: CommandBuffer, program: Program) -> Graph:
    """The graph that a recording carries for a program, with its weights."""
    if not program.graph:
        raise CommandError(
            f"{commands.name!r} does not carry the graph of its program {program.key!r}",
            hint="record it with commands.graph(graph), or replay with programs={...}",
        )
    arrays = {name: commands.constants[constant] for name, constant in program.parameters}
    graph = ir.parse_text(program.graph, arrays, origin=f"the recording {commands.name!r}")
    types = tuple(graph.input_types.values()), tuple(graph.output_types.values())
    if types != (program.inputs, program.outputs):
        raise CommandError(
            f"{commands.name!r} carries another graph for its program {program.key!r} than it runs",
            where=f"recorded as {program}, the graph is {driver.Program(program.key, *types)}",
        )
    return graph


def _left_open(inputs: Mapping[str, TensorType], sizes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a symbol of an input is given a size by no shape."""
    given = {d for name, t in inputs.items() if name in sizes for d in t.shape if isinstance(d, Dim)}
    return any(isinstance(d, Dim) and d not in given for t in inputs.values() for d in t.shape)


def _whole(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The sizes given for an input. Raises InputMismatch where they are not whole numbers."""
    try:
        return tuple(index(d) for d in shape)
    except TypeError:
        raise InputMismatch(f"shapes gives {name!r} {shape!r}, expected whole numbers") from None


def _with_sizes(graph: Graph, sizes: Mapping[str, tuple[int, ...]]) -> Graph:
    """A graph whose symbols take the sizes that input shapes give them."""
    if not sizes and all(t.is_static for t in graph.input_types.values()):
        return graph
    return ir.specialize(graph, _bound(graph, sizes))


def _bound(graph: Graph, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes that input shapes give a graph's symbols. Raises IRError where the graph declares other inputs."""
    bound: dict[str, int] = {}
    for name, shape in sizes.items():
        declared = graph.input_types.get(name)
        if declared is None:
            raise IRError(f"shapes names {name!r}, which is no input", hint=f"inputs: {', '.join(graph.input_types)}")
        if len(shape) != declared.rank:
            raise IRError(f"shapes gives {name!r} {shape}, the graph declares {declared}")
        for size, dim in zip(shape, declared.shape, strict=True):
            if isinstance(dim, Dim):
                if bound.setdefault(str(dim), size) != size:
                    raise IRError(f"shapes gives dimension {str(dim)!r} both {bound[str(dim)]} and {size}")
            elif dim != size:
                raise IRError(f"shapes gives {name!r} {shape}, the graph declares {declared}")
    return bound
