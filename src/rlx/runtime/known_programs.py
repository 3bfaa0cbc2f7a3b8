"""From a model's file to its compiled program without the graph between them.

Importing a model and fingerprinting its graph takes longer than loading its program. A `Readable` model says, without
building a graph, what decides it: `identity`, a digest of all that its file holds except the values of `weights`. Once
a graph was compiled, a note in the compile cache says which entry its identity, sizes and options led to; the next
process finds the entry by the note.

Honesty. The note's key holds everything that the entry's key depends on: the identity, the sizes as given, the donated
inputs, device, target, options and build. Nothing is noted unless every parameter of the graph is one of the model's
weights itself, under its name, and a note is used only where the model still has a weight of each parameter's name,
shape and dtype. Weights are read from the file at each start and never kept. A note is an entry of the compile cache:
trusted, bounded and thrown away as others are; a note whose entry is gone counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from rlx.driver import Artifact
from rlx.ir.graph import Graph
from rlx.runtime.cache import DiskCache, digest

#: What stands for a backend in a note.
_NOTE = "note"


@runtime_checkable
class Readable(Protocol):
    """A model whose program can be found without its graph."""

    @property
    def identity(self) -> str | None:
        """A digest of all that decides the graphs of this model but sizes; None where none can be told.

        Weights' values are no part of it, so no graph may depend on them.
        """
        ...

    @property
    def weights(self) -> Mapping[str, np.ndarray]:
        """The file's weights by name; graphs have them as parameters of these names."""
        ...


class KnownPrograms:
    """Notes in a disk cache; threads and processes may share it.

    parts: what a key holds beside the model: as `Session.cache_key`, without the graph.
    """

    def __init__(self, disk: DiskCache, parts: Mapping[str, str]) -> None:
        self._disk = disk
        self._parts = dict(parts)

    def find(self, model: Readable, sizes: Mapping[str, Sequence[int]]) -> tuple[str, Mapping[str, np.ndarray]] | None:
        """The key of the entry noted for the model and these sizes, with the program's parameters, or None."""
        parts = self._key(model, sizes)
        note = None if parts is None else self._disk.get(digest(parts))
        if note is None or note.backend != _NOTE:
            return None
        weights = model.weights
        parameters: dict[str, np.ndarray] = {}
        for name, dtype, shape in note.manifest["parameters"]:
            array = weights.get(name)
            if array is None or array.dtype.name != dtype or array.shape != tuple(shape):
                return None
            parameters[name] = array
        return note.manifest["entry"], parameters

    def note(self, model: Readable, sizes: Mapping[str, Sequence[int]], graph: Graph, entry: str) -> None:
        """Note that the model's graph for these sizes is compiled as `entry`, where its parameters allow it."""
        parts, weights = self._key(model, sizes), model.weights
        if parts is not None and all(weights.get(p.name) is p.data for p in graph.parameters):
            parameters = [[p.name, p.data.dtype.name, list(p.data.shape)] for p in graph.parameters]
            self._disk.put(digest(parts), parts, Artifact(_NOTE, {"entry": entry, "parameters": parameters}, {}))

    def _key(self, model: Readable, sizes: Mapping[str, Sequence[int]]) -> dict[str, str] | None:
        identity = model.identity
        if identity is None:
            return None
        shapes = json.dumps({name: list(map(int, shape)) for name, shape in sorted(sizes.items())})
        return {"model": identity, "shapes": shapes, **self._parts}
