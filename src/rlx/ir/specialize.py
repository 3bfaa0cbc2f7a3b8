"""Symbolic graphs to graphs of fixed sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlx.errors import IRError, nearest
from rlx.ir import op as ops
from rlx.ir.dim import Dim
from rlx.ir.graph import Attribute, Graph, Node, Parameter, Value
from rlx.ir.types import TensorType


def specialize(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """`graph` with its dimensions set: dimension name -> size.

    Types are inferred again from the inputs on, and sizes inside attributes are replaced; parameters, constants, names
    and locations stay. Dimensions that `sizes` does not name stay symbolic. Without sizes the graph itself returns.

    Raises IRError for a name that no input has, naming the nearest, and for a size outside a dimension's bounds;
    TypeRuleError where an op refuses the sizes.
    """
    known = input_dims(graph)
    for name in sizes:
        if name not in known:
            close = nearest(name, known)
            listed = ", ".join(known) or "none"
            raise IRError(
                f"no input has a dimension named {name!r}",
                hint=f"did you mean {close!r}?" if close else f"dimensions: {listed}",
            )
    if not sizes:
        return graph
    return _graph(graph, sizes)


def input_dims(graph: Graph) -> dict[str, Dim]:
    """The symbols in the inputs' types, by name, in order of appearance."""
    found: dict[str, Dim] = {}
    for value in graph.inputs:
        for size in value.type.shape:
            if isinstance(size, Dim):
                for symbol in size.symbols:
                    found.setdefault(symbol.symbol or "", symbol)
    return found


def bind_dims(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The sizes of dimensions that `shapes` (input name -> shape) settles: dimension name -> size.

    Inputs may be left out; what they alone would settle is then missing from the result. Raises IRError, showing both
    sides, for an unknown input, a wrong rank, a size that differs from a fixed one, a dimension that two inputs settle
    differently, and a size outside its bounds.
    """
    types = graph.input_types
    bound: dict[str, int] = {}
    origin: dict[str, str] = {}
    for name, shape in shapes.items():
        if name not in types:
            close = nearest(name, types)
            raise IRError(
                f"no input is named {name!r}",
                hint=f"did you mean {close!r}?" if close else f"inputs: {', '.join(types)}",
            )
        if len(shape) != types[name].rank:
            raise IRError(f"input {name!r} is {types[name]}, the shape given for it is {tuple(shape)}")
        for axis, (size, given) in enumerate(zip(types[name].shape, shape, strict=True)):
            symbol = size.symbol if isinstance(size, Dim) else None
            if symbol is None:
                continue
            if bound.setdefault(symbol, int(given)) != given:
                raise IRError(
                    f"dimension '{symbol}' is {given} from dimension {axis} of input {name!r}, "
                    f"but {bound[symbol]} from {origin[symbol]}"
                )
            origin.setdefault(symbol, f"dimension {axis} of input {name!r}")
    for name, shape in shapes.items():
        for axis, (size, given) in enumerate(zip(types[name].shape, shape, strict=True)):
            expected = size.substitute(bound) if isinstance(size, Dim) else size
            if isinstance(expected, int) and expected != given:
                raise IRError(
                    f"dimension {axis} of input {name!r}, which is {types[name]}, must be {expected}, "
                    f"the shape given is {tuple(shape)}"
                )
    return bound


def _graph(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    values: dict[Value, Value] = {}

    def renew(value: Value) -> Value:
        new = values[value] = Value(_type(value.type, sizes), value.name)
        return new

    inputs = tuple(renew(v) for v in graph.inputs)
    parameters = tuple(Parameter(p.name, renew(p.value), p.data) for p in graph.parameters)
    nodes: list[Node] = []
    for node in graph.nodes:
        reads = tuple(values[v] for v in node.inputs)
        attrs = {name: _attribute(value, sizes) for name, value in node.attrs.items()}
        regions = tuple(_graph(region, sizes) for region in node.regions)
        types = ops.get(node.op).infer(ops.Call(tuple(v.type for v in reads), attrs, regions))
        outputs = tuple(Value(type, old.name) for type, old in zip(types, node.outputs, strict=True))
        values.update(zip(node.outputs, outputs, strict=True))
        nodes.append(Node(node.op, reads, outputs, attrs, regions, node.location))
    results = tuple(values[v] for v in graph.outputs)
    return Graph(graph.name, inputs, parameters, tuple(nodes), results, graph.output_names, graph.source)


def _type(type: TensorType, sizes: Mapping[str, int]) -> TensorType:
    if type.is_static:
        return type
    return TensorType(tuple(d.substitute(sizes) if isinstance(d, Dim) else d for d in type.shape), type.dtype)


def _attribute(value: Attribute, sizes: Mapping[str, int]) -> Attribute:
    if isinstance(value, Dim):
        return value.substitute(sizes)
    if isinstance(value, tuple):
        return tuple(_attribute(v, sizes) for v in value)
    return value
