"""Compiling for the reference backend: the graph's text, with its types in the manifest.

A real compiler lowers here. What any must keep to: parameters' data is not read, since the artefact serves every set of
weights with these types; the manifest is plain JSON; equal graphs give equal artefacts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rlx.driver import Artifact, Device
from rlx.ir import op as ops
from rlx.ir.graph import Graph, Value
from rlx.ir.printer import print_graph
from rlx.ir.verify import verify
from rlx.options import Options
from rlx.passes.pipeline import optimize


def compile_graph(graph: Graph, device: Device, options: Options) -> Artifact:
    """The artefact of a graph whose shapes are all known. Raises IRError where a dimension is still symbolic."""
    manifest = {
        "name": graph.name,
        "inputs": _types((v.name, v) for v in graph.inputs),
        "outputs": _types(zip(graph.output_names, graph.outputs, strict=True)),
        "parameters": _types((p.name, p.value) for p in graph.parameters),
        # composites run through their bodies here, all of them
        "dispatch": [
            [node.op, str(node.location), "inlined"] for _, node in graph.walk() if ops.get(node.op).is_composite
        ],
    }
    if options.precision != "f32":
        graph = optimize(graph, level=0, precision=options.precision, verify=verify if options.verify else None)
    return Artifact(device.kind, manifest, {"graph": print_graph(graph).encode()})


def _types(values: Iterable[tuple[str, Value]]) -> list[list[Any]]:
    return [[name, value.type.dtype.name, list(value.type.sizes)] for name, value in values]
