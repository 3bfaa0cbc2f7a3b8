"""What identifies a graph by content.

`fingerprint` covers what a compiled program depends on: structure, types, attributes, constants, the names of inputs,
outputs and parameters, and every region. It knows no paths, locations, graph names, value names, object identities or
dict orders, so two builds of one model agree, in any process. The weights' bytes have a fingerprint of their own,
because programs do not depend on them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import numpy as np

from rlx.errors import IRError
from rlx.ir.dim import Dim
from rlx.ir.dtypes import DType, from_numpy
from rlx.ir.graph import Attribute, Graph, Value
from rlx.ir.types import TensorType

#: Changes whenever equal graphs would hash differently than before.
FORMAT = "rlx-graph-1"


def fingerprint(graph: Graph) -> str:
    """64 hex digits that identify the program `graph`, weights' content apart.

    Raises IRError where a node reads a value that nothing defines.
    """
    parts = [FORMAT]
    _graph(graph, parts, named=True)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def fingerprint_parameters(graph: Graph) -> str:
    """64 hex digits that identify the parameters' names, types and bytes. Reads every byte of the weights."""
    digest = hashlib.sha256()
    for parameter in sorted(graph.parameters, key=lambda p: p.name):
        digest.update(f"{parameter.name!r} {parameter.value.type}\n".encode())
        digest.update(_bytes(parameter.data))
    return digest.hexdigest()


def _graph(graph: Graph, parts: list[str], named: bool) -> None:
    """One line a definition; values are numbers in order of definition."""
    numbers: dict[Value, int] = {}
    types: dict[TensorType, str] = {}

    def define(value: Value) -> str:
        numbers[value] = len(numbers)
        text = types.get(value.type)
        if text is None:
            text = types[value.type] = _type(value.type)
        return text

    for value in graph.inputs:
        parts.append(f"in {value.name!r} {define(value)}" if named else f"in {define(value)}")
    for parameter in graph.parameters:
        parts.append(f"param {parameter.name!r} {define(parameter.value)}")
    try:
        for node in graph.nodes:
            reads = ",".join([str(numbers[v]) for v in node.inputs])
            attrs = _attributes(node.attrs)
            results = ";".join([define(v) for v in node.outputs])
            parts.append(f"{node.op!r} {reads} {attrs} {results}")
            for region in node.regions:
                parts.append("{")
                _graph(region, parts, named=False)
                parts.append("}")
        outputs = [numbers[v] for v in graph.outputs]
    except KeyError as error:
        raise IRError(f"graph {graph.name!r} reads {error.args[0]!r}, which nothing defines before it") from None
    names = f" {graph.output_names!r}" if named else ""
    parts.append(f"out {outputs}{names}")


def _type(type: TensorType) -> str:
    return f"{type.dtype.name}[{','.join([str(d) if isinstance(d, int) else _dim(d) for d in type.shape])}]"


def _dim(dim: Dim) -> str:
    return f"{dim} in {[(d.symbol, d.lo, d.hi) for d in dim.symbols]!r}"


def _attributes(attrs: Mapping[str, Attribute]) -> str:
    return " ".join([f"{name!r}={_attribute(attrs[name])}" for name in sorted(attrs)]) if attrs else ""


def _attribute(value: object) -> str:
    """Text that differs whenever type or bits differ: 1, 1.0 and true are three values, and so are 0.0 and -0.0."""
    if isinstance(value, bool):
        return f"bool {value}"
    if isinstance(value, int):
        return f"{int(value)}"
    if isinstance(value, tuple):
        return f"({','.join([_attribute(v) for v in value])})"
    if isinstance(value, float):
        return f"float {struct.pack('<d', value).hex()}"
    if isinstance(value, str):
        return f"str {value!r}"
    if isinstance(value, DType):
        return f"dtype {value.name}"
    if isinstance(value, Dim):
        return f"dim {_dim(value)}"
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(_bytes(value)).hexdigest()
        return f"array {from_numpy(value.dtype).name}{list(value.shape)} {content}"
    if value is None:
        return "none"
    raise IRError(f"{type(value).__name__} is no attribute value")


def _bytes(array: np.ndarray) -> memoryview:
    """The bytes in row-major order, without a copy where they lie so already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
