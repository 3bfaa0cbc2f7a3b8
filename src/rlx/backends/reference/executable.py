"""Running on the reference backend: the graph read back from its text, then interpreted.

Owner. The executable keeps the arrays that were bound as parameters, and nothing between runs.
Threads. Any thread may call. The interpreter keeps no state, so runs need not take turns here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlx.driver import Artifact, Buffer
from rlx.errors import DriverError
from rlx.ir.dtypes import by_name
from rlx.ir.graph import Graph
from rlx.ir.interpret import interpret
from rlx.ir.text import parse_text
from rlx.ir.types import TensorType


class ReferenceExecutable:
    """A loaded program. See `rlx.driver.Executable` for what each method promises."""

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        self.inputs = _types(manifest["inputs"])
        self.outputs = _types(manifest["outputs"])
        self.parameters = _types(manifest["parameters"])
        self._name = manifest["name"]
        self._dispatch = manifest["dispatch"]
        self._text = bytes(artifact.sections["graph"]).decode()
        self._graph: Graph | None = None
        if not self.parameters:
            self.bind_parameters({})

    def bind_parameters(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._graph = parse_text(self._text, arrays, origin=f"artefact of {self._name}")

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        """Raises DriverError before parameters are bound and after `close`; and whatever an operation raises."""
        if self._graph is None:
            state = "is closed" if not self._text else "has no parameters bound yet"
            raise DriverError(f"the program {self._name!r} {state}")
        arrays = {name: buffer.numpy() for name, buffer in zip(self.inputs, inputs, strict=True)}
        results = interpret(self._graph, arrays)
        for name, buffer in zip(self.outputs, outputs, strict=True):
            buffer.copy_from(Buffer.from_numpy(results[name]))

    def report(self) -> Mapping[str, Any]:
        return {"program": self._name, "dispatch": self._dispatch}

    def close(self) -> None:
        self._graph = None
        self._text = ""


def _types(rows: Sequence[Sequence[Any]]) -> dict[str, TensorType]:
    return {name: TensorType(tuple(shape), by_name(dtype)) for name, dtype, shape in rows}
