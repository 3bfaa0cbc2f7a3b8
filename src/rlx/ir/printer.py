"""The text form of graphs, written. `rlx.ir.text` reads it back to the same graph.

    dim batch in [1, 64]
    graph "main" (%x: f32[batch, 4]) {
      param %w: f32[4, 2]
      %0: f32[batch, 2] = dot_general(%x, %w) {lhs_contract=(1,), rhs_contract=(0,), ...}
      return y=%0
    }

Values without a name get numbers; a name that two values of one graph share gets `#1`, `#2`, ... behind it. Floats
print so that every bit returns. A size inside an attribute stands in brackets: `shape=([batch], [2*seq + 1], 4)`. An
array prints as `f32[2](1.0, 2.0)`, or, where it is larger than 16 elements or holds bits that literals do not carry,
as the base64 of its bytes in row-major order, little endian: `f32[64]"..."`. A region prints as a graph behind its
node, with names of its own.
"""

from __future__ import annotations

import base64
import math
import struct
from typing import TYPE_CHECKING

import numpy as np

from rlx.ir.dim import Dim, symbols_of
from rlx.ir.dtypes import DType, from_numpy
from rlx.ir.lexer import name_or_quote, quote

if TYPE_CHECKING:
    from rlx.ir.graph import Graph, Node, Value

#: Arrays of up to this many elements print as literals.
LITERAL_ELEMENTS = 16

_QUIET_NAN = 0x7FF8000000000000


def print_graph(graph: Graph, *, data: bool = False, locations: bool = True) -> str:
    """The text of `graph`.

    data: print the parameters' bytes as well, so that the text stands alone.
    locations: print where each node came from.
    """
    lines = [_declaration(symbol) for symbol in _symbols(graph)]
    return "\n".join([*lines, *_graph_lines(graph, "", data, locations)]) + "\n"


def print_attribute(value: object) -> str:
    """The text of one attribute value. Raises TypeError for what no attribute may hold."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return print_float(value)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, DType):
        return value.name
    if isinstance(value, Dim):
        return f"[{value}]"
    if isinstance(value, tuple):
        return f"({', '.join(print_attribute(v) for v in value)}{',' if len(value) == 1 else ''})"
    if isinstance(value, np.ndarray):
        return print_array(value)
    raise TypeError(f"{type(value).__name__} is no attribute value")


def print_float(value: float) -> str:
    """`value` so that `text` reads the same 64 bits: shortest digits, inf, nan, nan(0x...) for other NaNs."""
    if math.isnan(value):
        bits = struct.unpack("<Q", struct.pack("<d", value))[0]
        return "nan" if bits == _QUIET_NAN else f"nan(0x{bits:x})"
    return repr(float(value))


def print_array(array: np.ndarray) -> str:
    """The text of an array: literals where it is small, else base64."""
    dtype = from_numpy(array.dtype)
    head = f"{dtype.name}[{', '.join(map(str, array.shape))}]"
    if array.size <= LITERAL_ELEMENTS:
        literals = [_literal(x, dtype) for x in array.reshape(-1)]
        if None not in literals:
            return f"{head}({', '.join(literals)})"  # type: ignore[arg-type]  # None was ruled out
    return head + print_bytes(array)


def print_bytes(array: np.ndarray) -> str:
    """The base64 of the array's bytes, row-major and little endian, quoted."""
    return f'"{base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}"'


def _literal(element: np.generic, dtype: DType) -> str | None:
    """The text of one element, or None where it would not bring all bits back."""
    if dtype.kind == "bool":
        return "true" if element else "false"
    if dtype.is_integer:
        return str(int(element))
    if dtype.is_complex:
        parts = (
            _literal(element.real, from_numpy(element.real.dtype)),
            _literal(element.imag, from_numpy(element.imag.dtype)),
        )
        return None if None in parts else f"({parts[0]}, {parts[1]})"
    for text in (str(element), repr(float(element))):
        try:
            again = dtype.numpy.type(float(text))
        except ValueError:
            continue
        if again.tobytes() == element.tobytes():
            return text if any(c in text for c in ".en") else f"{text}.0"
    return None


class _Names:
    """What each value of one graph is called."""

    def __init__(self, graph: Graph) -> None:
        self._texts: dict[Value, str] = {}
        self._taken: dict[str, int] = {}
        self._count = 0
        for value in (*graph.inputs, *(p.value for p in graph.parameters)):
            self._add(value)
        for node in graph.nodes:
            for value in node.outputs:
                self._add(value)

    def __getitem__(self, value: Value) -> str:
        text = self._texts.get(value)
        return text if text is not None else f'%"undefined {value.name}"'

    def _add(self, value: Value) -> None:
        if value in self._texts:
            return
        if not value.name:
            self._texts[value] = f"%{self._count}"
            self._count += 1
            return
        times = self._taken.get(value.name, 0)
        self._taken[value.name] = times + 1
        self._texts[value] = f"%{name_or_quote(value.name)}{f'#{times}' if times else ''}"


def _graph_lines(graph: Graph, indent: str, data: bool, locations: bool) -> list[str]:
    names = _Names(graph)
    lines = [f"{indent}graph {quote(graph.name)} {_signature(graph, names, indent)} {{"]
    inner = indent + "  "
    if graph.source:
        lines.append(f"{inner}source {quote(graph.source)}")
    for parameter in graph.parameters:
        named = "" if parameter.name == parameter.value.name else f" named {quote(parameter.name)}"
        bytes_ = f" = {print_bytes(parameter.data)}" if data else ""
        lines.append(f"{inner}param {names[parameter.value]}: {parameter.value.type}{named}{bytes_}")
    for node in graph.nodes:
        lines += _node_lines(node, names, inner, data, locations)
    lines += [f"{inner}{_return(graph, names)}", f"{indent}}}"]
    return lines


def _signature(graph: Graph, names: _Names, indent: str) -> str:
    inputs = [f"{names[v]}: {v.type}" for v in graph.inputs]
    short = f"({', '.join(inputs)})"
    if len(short) + len(indent) <= 100:
        return short
    return "(\n" + ",\n".join(f"{indent}    {text}" for text in inputs) + f"\n{indent})"


def _symbols(graph: Graph) -> tuple[Dim, ...]:
    """The symbols that types and attributes mention, in the graph and its regions."""
    sizes: dict[object, None] = {}
    _find_graph_sizes(graph, sizes)
    return symbols_of(sizes)


def _find_graph_sizes(graph: Graph, sizes: dict[object, None]) -> None:
    for value in (*graph.inputs, *(p.value for p in graph.parameters), *(v for n in graph.nodes for v in n.outputs)):
        _find_sizes(value.type.shape, sizes)
    for node in graph.nodes:
        for attribute in node.attrs.values():
            _find_sizes(attribute, sizes)
        for region in node.regions:
            _find_graph_sizes(region, sizes)


def _find_sizes(attribute: object, sizes: dict[object, None]) -> None:
    if isinstance(attribute, Dim):
        sizes[attribute] = None
    elif isinstance(attribute, tuple):
        for part in attribute:
            _find_sizes(part, sizes)


def _declaration(symbol: Dim) -> str:
    return f"dim {symbol} in [{symbol.lo}, {'*' if symbol.hi is None else symbol.hi}]"


def _node_lines(node: Node, names: _Names, indent: str, data: bool, locations: bool) -> list[str]:
    results = ", ".join(f"{names[v]}: {v.type}" for v in node.outputs) or "()"
    line = f"{indent}{results} = {name_or_quote(node.op)}({', '.join(names[v] for v in node.inputs)})"
    if node.attrs:
        line += " {" + ", ".join(f"{name_or_quote(k)}={print_attribute(v)}" for k, v in node.attrs.items()) + "}"
    if locations:
        line += _location(node)
    if not node.regions:
        return [line]
    lines = [f"{line} regions {{"]
    for region in node.regions:
        lines += _graph_lines(region, indent + "  ", data, locations)
    return [*lines, f"{indent}}}"]


def _location(node: Node) -> str:
    where = node.location
    parts = [f"file={quote(where.file)}"] if where.file else []
    parts += [f"name={quote(where.name)}"] if where.name else []
    parts += [f"line={where.line}"] if where.line else []
    return f" at ({', '.join(parts)})" if parts else ""


def _return(graph: Graph, names: _Names) -> str:
    plain = graph.output_names == tuple(f"out{i}" for i in range(len(graph.outputs)))
    parts = [
        names[value] if plain else f"{name_or_quote(name)}={names[value]}"
        for name, value in zip(graph.output_names, graph.outputs, strict=True)
    ]
    return f"return {', '.join(parts)}".rstrip()
