"""The model as plain Python: decoded nodes and graphs, and the reader that makes them from a file.

Decoding happens once, when the model is loaded; importing for given shapes then never touches messages. A `ModelNode`
is one ONNX node, with attributes as Python values, text as str, tensors as arrays and bodies as `ModelGraph`s. An
operand is the name of a value, an array (which upgrade rules put there), or "" where an optional operand is absent.
Decoded models are immutable by agreement: upgrade rules return new nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlx.errors import DamagedModel, InvalidModel, NotAModel, UnsupportedModel
from rlx.frontends.model import ANY_RANK
from rlx.frontends.onnx.schema import MODEL, AttributeKind
from rlx.frontends.onnx.tensors import dtype_of, to_array
from rlx.frontends.onnx.wire import Message, WireError, read_message
from rlx.ir.dim import Dim
from rlx.ir.location import Location
from rlx.ir.types import TensorType

STANDARD = ""
#: Dimension names that exporters write where they mean "some size", not "the same size".
_ANONYMOUS = ("", "?", "-1", "None", "unk")


@dataclass(frozen=True, slots=True)
class ModelNode:
    """One node. `opset` is the version of its domain that the model imports."""

    op: str
    domain: str
    opset: int
    inputs: tuple[str | np.ndarray, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    location: Location

    @property
    def full_name(self) -> str:
        return f"{self.domain}.{self.op}" if self.domain else self.op


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """A graph or the body of a control-flow node.

    inputs and outputs: name -> declared type, None where none is declared (as bodies may).
    initializers: name -> data.
    """

    name: str
    inputs: Mapping[str, TensorType | None]
    outputs: Mapping[str, TensorType | None]
    initializers: Mapping[str, np.ndarray]
    nodes: tuple[ModelNode, ...]


@dataclass(frozen=True, slots=True)
class ModelFunction:
    """A function that the model defines: nodes over formal names. `attrs` holds defaults, REQUIRED where none."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    nodes: tuple[ModelNode, ...]


@dataclass(frozen=True, slots=True)
class AttributeOfCall:
    """Inside a function's body: the attribute of the call named `name`."""

    name: str


#: A function attribute that the call must give.
REQUIRED = object()


@dataclass(frozen=True, slots=True)
class DecodedModel:
    """A whole file. `functions` is keyed by (domain, name)."""

    graph: ModelGraph
    opsets: Mapping[str, int]
    ir_version: int
    functions: Mapping[tuple[str, str], ModelFunction] = field(default_factory=dict)


def read_model(path: Path) -> DecodedModel:
    """Read and decode the file at `path`.

    Raises NotAModel for a file that is no ONNX model, DamagedModel where it is cut short, and what `decode_model`
    raises.
    """
    return decode_model(_parse(path), path)


def _parse(path: Path) -> Message:
    """The file as a message."""
    with path.open("rb") as file:
        head = file.read(1)
    if not head:
        raise NotAModel(f"{str(path)!r} is empty")
    try:
        model = read_message(MODEL, path)
    except WireError as error:
        if head == b"\x08":
            raise DamagedModel(
                f"{str(path)!r} begins as an ONNX model, but its {path.stat().st_size} bytes do not decode: {error}",
                hint="the file is cut short or damaged: fetch it again",
            ) from None
        raise NotAModel(f"{str(path)!r} is not an ONNX model: its bytes are no such protobuf") from None
    if not model.HasField("graph") or not model.opset_import:
        raise NotAModel(f"{str(path)!r} is not an ONNX model: it has no graph or imports no opset")
    return model


def decode_model(model: Message, path: Path) -> DecodedModel:
    """Decode a parsed model; `path` is where it lies, for messages and external data.

    Raises InvalidModel, UnsupportedModel, DamagedModel and ExternalDataRefused.
    """
    opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
    decoder = _Decoder(str(path), path.parent, opsets)
    functions = {
        (_domain(f.domain), f.name): ModelFunction(
            inputs=tuple(f.input),
            outputs=tuple(f.output),
            attrs={
                **dict.fromkeys(f.attribute, REQUIRED),
                **{a.name: decoder.attribute(a, Location(str(path), f.name)) for a in f.attribute_proto},
            },
            nodes=_Decoder(
                str(path), path.parent, {**opsets, **{_domain(e.domain): e.version for e in f.opset_import}}
            ).nodes(f.node),
        )
        for f in model.functions
    }
    return DecodedModel(decoder.graph(model.graph), opsets, model.ir_version, functions)


def _domain(name: str) -> str:
    return STANDARD if name == "ai.onnx" else name


class _Decoder:
    def __init__(self, file: str, folder: Path, opsets: Mapping[str, int]) -> None:
        self.file = file
        self.folder = folder
        self.opsets = opsets

    def graph(self, graph: Message) -> ModelGraph:
        if graph.sparse_initializer:
            raise UnsupportedModel(f"graph {graph.name!r} has sparse initializers", where=self.file)
        return ModelGraph(
            name=self.text(graph.name),
            inputs={self.text(v.name): self.declared(v) for v in graph.input},
            outputs={self.text(v.name): self.declared(v) for v in graph.output},
            initializers={self.text(t.name): to_array(t, self.folder) for t in graph.initializer},
            nodes=self.nodes(graph.node),
        )

    def nodes(self, nodes: Any) -> tuple[ModelNode, ...]:
        return tuple(self.node(n) for n in nodes)

    def node(self, node: Message) -> ModelNode:
        inputs, outputs = tuple(map(self.text, node.input)), tuple(map(self.text, node.output))
        domain, op_type = _domain(self.text(node.domain)), self.text(node.op_type)
        location = Location(self.file, self.text(node.name) or next((o for o in outputs if o), op_type))
        attrs = {a.name: self.attribute(a, location) for a in node.attribute}
        opset = self.opsets.get(domain, 0)
        return ModelNode(op_type, domain, opset, inputs, outputs, attrs, location)

    def text(self, found: str | bytes) -> str:
        """A name. Raises DamagedModel where it is not UTF-8: protobuf then gives its bytes."""
        if not isinstance(found, str):
            raise DamagedModel(f"{self.file!r} has the name {found!r}, which is not UTF-8")
        return found

    def attribute(self, attribute: Message, location: Location) -> Any:
        if attribute.ref_attr_name:
            return AttributeOfCall(attribute.ref_attr_name)
        kind = attribute.type
        if kind == AttributeKind.INT:
            return attribute.i
        if kind == AttributeKind.INTS:
            return tuple(map(int, attribute.ints))
        if kind == AttributeKind.FLOAT:
            return attribute.f
        if kind == AttributeKind.FLOATS:
            return tuple(map(float, attribute.floats))
        if kind == AttributeKind.STRING:
            return attribute.s.decode("utf-8", "replace")
        if kind == AttributeKind.STRINGS:
            return tuple(s.decode("utf-8", "replace") for s in attribute.strings)
        if kind == AttributeKind.TENSOR:
            return to_array(attribute.t, self.folder)
        if kind == AttributeKind.GRAPH:
            return self.graph(attribute.g)
        raise UnsupportedModel(
            f"attribute {attribute.name!r} is of a kind that RLX does not read ({_named(kind)})",
            where=f"at {location}",
        )

    def declared(self, info: Message) -> TensorType | None:
        """The declared type; None where there is none. An unknown rank is the one dimension ANY_RANK."""
        kind = info.type.WhichOneof("value")
        if kind is None:
            return None
        what = f"{info.name!r}"
        if kind != "tensor_type":
            raise UnsupportedModel(f"{what} is a {kind.removesuffix('_type')}, RLX has tensors only", where=self.file)
        tensor = info.type.tensor_type
        if not tensor.elem_type:
            return None
        dtype = dtype_of(tensor.elem_type, what=what)
        if not tensor.HasField("shape"):
            return TensorType((Dim(ANY_RANK),), dtype)
        return TensorType(tuple(self.dim(info.name, axis, d) for axis, d in enumerate(tensor.shape.dim)), dtype)

    def dim(self, name: str, axis: int, dim: Any) -> int | Dim:
        if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0:
            return dim.dim_value
        if dim.dim_param in _ANONYMOUS:
            return Dim(f"{name}_{axis}")
        return Dim(self.text(dim.dim_param))


def _named(kind: int) -> str:
    return next((k.name for k in AttributeKind if k == kind), str(kind))


def check_outputs(model: DecodedModel, file: str) -> None:
    """Raise InvalidModel where the graph has no outputs, or an output or input has no type."""
    graph = model.graph
    if not graph.outputs:
        raise InvalidModel("the graph has no outputs", where=file)
    for name, type in graph.inputs.items():
        if type is None and name not in graph.initializers:
            raise InvalidModel(f"input {name!r} declares no type", where=file)
