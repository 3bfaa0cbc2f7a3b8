"""Running: this device only remembers, so what is computed is fetched, computed on the host, and brought back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlx.driver import HOST, Artifact, Buffer
from rlx.errors import DriverError
from rlx.ir import Graph, TensorType, interpret
from rlx.ir.dtypes import by_name
from rlx.ir.text import parse_text


class OpaqueExecutable:
    """See `rlx.driver.Executable` for what each method promises. It keeps nothing between runs, so runs may overlap."""

    def __init__(self, artifact: Artifact) -> None:
        self.inputs, self.outputs, self.parameters = (
            _types(artifact.manifest[part]) for part in ("inputs", "outputs", "parameters")
        )
        self._name = artifact.manifest["name"]
        self._text = bytes(artifact.sections["graph"]).decode()
        self._graph: Graph | None = None
        if not self.parameters:
            self.bind_parameters({})

    def bind_parameters(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._graph = parse_text(self._text, arrays, origin=f"artefact of {self._name}")

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        """Raises DriverError before parameters are bound and after `close`; and whatever an operation raises."""
        if self._graph is None:
            raise DriverError(f"the program {self._name!r} is closed, or has no parameters bound yet")
        arrays = {name: buffer.to(HOST).numpy() for name, buffer in zip(self.inputs, inputs, strict=True)}
        results = interpret(self._graph, arrays)
        for name, buffer in zip(self.outputs, outputs, strict=True):
            buffer.copy_from(Buffer.from_numpy(np.array(results[name], order="C", copy=None)))

    def report(self) -> Mapping[str, Any]:
        return {"program": self._name}

    def close(self) -> None:
        self._graph = None
        self._text = ""


def _types(rows: Sequence[Sequence[Any]]) -> dict[str, TensorType]:
    return {name: TensorType(tuple(shape), by_name(dtype)) for name, dtype, shape in rows}
