"""Compiling: the graph's text and its types. A real compiler lowers here; it is imported only when it is needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rlx.driver import Artifact, Device
from rlx.ir import Graph, TensorType, print_graph


def compile_graph(graph: Graph, device: Device, options: Any) -> Artifact:
    """The artefact of a graph whose shapes are all known; parameters' data is not read."""
    manifest = {
        "name": graph.name,
        "inputs": _types(graph.input_types.items()),
        "outputs": _types(graph.output_types.items()),
        "parameters": _types((p.name, p.value.type) for p in graph.parameters),
    }
    return Artifact(device.kind, manifest, {"graph": print_graph(graph).encode()})


def _types(types: Iterable[tuple[str, TensorType]]) -> list[list[Any]]:
    return [[name, type.dtype.name, list(type.sizes)] for name, type in types]
