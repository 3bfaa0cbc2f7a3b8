"""The text form of graphs, read: the other half of `rlx.ir.printer`, which describes it.

What `print_graph` wrote parses back to the same graph: names, locations, types, attributes, constants and regions, to
the bit. In texts written by hand, result types and attributes that have defaults may be left out: both are inferred.
A text file (`.rlx.txt`) is dim declarations, then one graph; comments begin with `;`.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rlx.errors import IRError, RLXError, nearest
from rlx.ir import op as ops
from rlx.ir.dim import Dim
from rlx.ir.dtypes import DType, by_name
from rlx.ir.graph import Attribute, Graph, Node, Parameter, Value
from rlx.ir.lexer import Token, Tokens, unquote
from rlx.ir.location import UNKNOWN, Location
from rlx.ir.size_text import parse_size
from rlx.ir.types import TensorType, type_of


def parse_text(text: str, parameters: Mapping[str, np.ndarray] | None = None, *, origin: str = "") -> Graph:
    """The graph that `text` writes down.

    parameters: data by name for the parameters whose bytes the text does not hold; taken, not copied.
    origin: the file's name, for messages.

    Raises TextError, with line, column and the line's text, for bad syntax, for types that break an op's rule or
    differ from what it infers, and where a parameter's data is missing or of another type. Raises IRError where
    `parameters` names one that the graph does not have.
    """
    given = dict(parameters or {})
    parser = _Parser(Tokens(text, origin), given)
    graph = parser.file()
    unknown = sorted(given.keys() - parser.parameters)
    if unknown:
        close = nearest(unknown[0], parser.parameters)
        raise IRError(
            f"data is given for the parameter {unknown[0]!r}, which the text does not declare",
            hint=f"did you mean {close!r}?" if close else None,
        )
    return graph


#: A value as the text calls it: its name ("" for a number), and the number or the count behind `#`.
_Key = tuple[str, int]


class _Parser:
    """Recursive descent over one text; `parameters` collects the names declared."""

    def __init__(self, tokens: Tokens, given: Mapping[str, np.ndarray]) -> None:
        self._tokens = tokens
        self._given = given
        self._symbols: dict[str, Dim] = {}
        self.parameters: set[str] = set()

    def file(self) -> Graph:
        t = self._tokens
        while t.accept("dim"):
            self._dim()
        graph = self._graph()
        if t.peek().kind != "end":
            t.fail(f"expected the end of the text, found {t.describe(t.peek())}")
        return graph

    def _dim(self) -> None:
        t = self._tokens
        at = t.peek()
        name = t.word("the dimension's name")
        if name in self._symbols:
            t.fail(f"dimension {name!r} is declared twice", at)
        lo, hi = 0, None
        if t.accept("in"):
            t.expect("[")
            lo = self._int("the lower bound")
            t.expect(",")
            hi = None if t.accept("*") else self._int("the upper bound, or *")
            t.expect("]")
        self._symbols[name] = self._guarded(at, lambda: Dim(name, lo, hi))

    # -- graphs ----------------------------------------------------------------------------------------------------

    def _graph(self) -> Graph:
        t = self._tokens
        t.expect("graph")
        name = t.word("the graph's name")
        scope: dict[_Key, Value] = {}
        inputs: list[Value] = []
        t.expect("(")
        while not t.accept(")"):
            inputs.append(self._declared(scope))
            if t.peek().text != ")":
                t.expect(",", "between inputs")
        t.expect("{")
        source = t.string("the source, in quotes") if t.accept("source") else ""
        parameters: list[Parameter] = []
        nodes: list[Node] = []
        while not t.accept("return"):
            if t.accept("param"):
                parameters.append(self._parameter(scope))
            else:
                nodes.append(self._node(scope))
        names, outputs = self._returned(scope)
        t.expect("}")
        return Graph(name, tuple(inputs), tuple(parameters), tuple(nodes), outputs, names, source)

    def _declared(self, scope: dict[_Key, Value]) -> Value:
        """`%name: type`."""
        at, key = self._key()
        self._tokens.expect(":", "and a type")
        return self._define(scope, at, key, self._type())

    def _parameter(self, scope: dict[_Key, Value]) -> Parameter:
        t = self._tokens
        at = t.peek()
        value = self._declared(scope)
        name = t.string("the parameter's name") if t.accept("named") else value.name
        if name in self.parameters:
            t.fail(f"parameter {name!r} is declared twice", at)
        self.parameters.add(name)
        if t.accept("="):
            return Parameter(name, value, self._bytes(value.type))
        if name not in self._given:
            close = nearest(name, self._given)
            t.fail(
                f"parameter {name!r} has no data, in the text or beside it",
                at,
                hint=f"did you mean {close!r}?" if close else "pass it: parse_text(text, {name: array})",
            )
        data = self._given[name]
        type = self._guarded(at, lambda: type_of(data))
        if type != value.type:
            t.fail(f"parameter {name!r} is declared {value.type}, its data is {type}", at)
        return Parameter(name, value, data)

    def _returned(self, scope: dict[_Key, Value]) -> tuple[tuple[str, ...], tuple[Value, ...]]:
        t = self._tokens
        names: list[str] = []
        outputs: list[Value] = []
        while t.peek().text != "}":
            if outputs:
                t.expect(",", "between results")
            name = f"out{len(outputs)}"
            if t.peek().kind != "value":
                name = t.word("a result: a value, or name=value")
                t.expect("=")
            names.append(name)
            outputs.append(self._read(scope))
        return tuple(names), tuple(outputs)

    # -- nodes -----------------------------------------------------------------------------------------------------

    def _node(self, scope: dict[_Key, Value]) -> Node:
        t = self._tokens
        results = self._results()
        t.expect("=")
        at = t.peek()
        op = t.word("an op's name")
        t.expect("(")
        inputs: list[Value] = []
        while not t.accept(")"):
            inputs.append(self._read(scope))
            if t.peek().text != ")":
                t.expect(",", "between operands")
        attrs = self._attributes() if t.accept("{") else {}
        location = self._location() if t.accept("at") else UNKNOWN
        regions: list[Graph] = []
        if t.accept("regions"):
            t.expect("{")
            while not t.accept("}"):
                regions.append(self._graph())
        record = self._guarded(at, lambda: ops.get(op))
        full = self._guarded(at, lambda: ops.complete_attrs(record, attrs))
        call = ops.Call(tuple(v.type for v in inputs), full, tuple(regions))
        types = self._guarded(at, lambda: record.infer(call))
        if len(types) != len(results):
            t.fail(f"{op} has {len(types)} results, the text names {len(results)}", at)
        outputs = []
        for (token, key, stated), type in zip(results, types, strict=True):
            if stated is not None and stated != type:
                t.fail(f"{op} gives {type}, the text says {stated}", token)
            outputs.append(self._define(scope, token, key, type))
        return Node(op, tuple(inputs), tuple(outputs), full, tuple(regions), location)

    def _results(self) -> list[tuple[Token, _Key, TensorType | None]]:
        t = self._tokens
        if t.accept("("):
            t.expect(")")
            return []
        results = []
        while True:
            at, key = self._key()
            results.append((at, key, self._type() if t.accept(":") else None))
            if not t.accept(","):
                return results

    def _attributes(self) -> dict[str, Attribute]:
        t = self._tokens
        attrs: dict[str, Attribute] = {}
        while not t.accept("}"):
            at = t.peek()
            name = t.word("an attribute's name")
            if name in attrs:
                t.fail(f"attribute {name!r} is given twice", at)
            t.expect("=")
            attrs[name] = self._attribute()
            if t.peek().text != "}":
                t.expect(",", "between attributes")
        return attrs

    def _location(self) -> Location:
        t = self._tokens
        t.expect("(")
        file, name, line = "", "", 0
        while not t.accept(")"):
            if t.accept("file"):
                t.expect("=")
                file = t.string("the file, in quotes")
            elif t.accept("name"):
                t.expect("=")
                name = t.string("the name, in quotes")
            else:
                t.expect("line", "(or file, or name)")
                t.expect("=")
                line = self._int("the line's number")
            if t.peek().text != ")":
                t.expect(",")
        return Location(file, name, line)

    # -- values and types ------------------------------------------------------------------------------------------

    def _key(self) -> tuple[Token, _Key]:
        token = self._tokens.expect_kind("value", "a value, as in %name")
        text = token.text[1:]
        quoted = text.startswith('"')
        head, mark, count = text.rpartition("#")
        if not mark or text.endswith('"'):
            head, count = text, "0"
        if head.isdecimal():
            return token, ("", int(head))
        try:
            return token, (unquote(head) if quoted else head, int(count))
        except ValueError:
            self._tokens.fail("bad escape in a name", token)

    def _define(self, scope: dict[_Key, Value], at: Token, key: _Key, type: TensorType) -> Value:
        if key in scope:
            self._tokens.fail(f"{at.text} is defined twice", at)
        value = scope[key] = Value(type, key[0])
        return value

    def _read(self, scope: dict[_Key, Value]) -> Value:
        token, key = self._key()
        value = scope.get(key)
        if value is None:
            self._tokens.fail(f"{token.text} is not defined before this use", token)
        return value

    def _type(self) -> TensorType:
        t = self._tokens
        at = t.expect_kind("name", "a type, as in f32[2, 3]")
        return self._shaped(at, self._guarded(at, lambda: by_name(at.text)))

    def _shaped(self, at: Token, dtype: DType) -> TensorType:
        t = self._tokens
        t.expect("[")
        sizes: list[int | Dim] = []
        while not t.accept("]"):
            sizes.append(parse_size(t, self._symbols))
            if t.peek().text != "]":
                t.expect(",", "between sizes")
        return self._guarded(at, lambda: TensorType(tuple(sizes), dtype))

    # -- attribute values ------------------------------------------------------------------------------------------

    def _attribute(self) -> Attribute:
        t = self._tokens
        token = t.peek()
        if token.kind == "string":
            return t.string("a string")
        if t.accept("("):
            parts: list[Attribute] = []
            while not t.accept(")"):
                parts.append(self._attribute())
                if t.peek().text != ")":
                    t.expect(",", "between elements")
            return tuple(parts)
        if t.accept("["):
            size = parse_size(t, self._symbols)
            t.expect("]")
            return size
        if token.kind == "name" and token.text in ("none", "true", "false"):
            return {"none": None, "true": True, "false": False}[t.take().text]
        if token.kind == "name" and token.text not in ("inf", "nan"):
            dtype = self._guarded(t.take(), lambda: by_name(token.text))
            return self._array(token, dtype) if t.peek().text == "[" else dtype
        return self._number()

    def _number(self) -> int | float:
        t = self._tokens
        negative = t.accept("-")
        token = t.take()
        if token.kind == "int":
            value: int | float = int(token.text, 0)
        elif token.kind == "float":
            value = float(token.text)
        elif token.text == "inf":
            value = math.inf
        elif token.text == "nan" and t.accept("("):
            bits = self._int("the bits of the NaN")
            t.expect(")")
            value = struct.unpack("<d", struct.pack("<Q", bits & (1 << 64) - 1))[0]
        elif token.text == "nan":
            value = math.nan
        else:
            t.fail(f"expected a value, found {t.describe(token)}", token)
        return -value if negative else value

    def _int(self, what: str) -> int:
        return int(self._tokens.expect_kind("int", what).text, 0)

    def _array(self, at: Token, dtype: DType) -> np.ndarray:
        t = self._tokens
        type = self._shaped(at, dtype)
        if not type.is_static:
            t.fail(f"an array of type {type} has no fixed size", at)
        if t.peek().kind == "string":
            return self._bytes(type)
        t.expect("(", "or base64 in quotes")
        elements: list[Any] = []
        while not t.accept(")"):
            elements.append(self._element(dtype))
            if t.peek().text != ")":
                t.expect(",", "between elements")
        if len(elements) != type.elements:
            t.fail(f"{type} has {type.elements} elements, the text gives {len(elements)}", at)
        array = np.empty(len(elements), dtype.numpy)
        for i, element in enumerate(elements):
            array[i] = element
        array = array.reshape(type.sizes)
        array.flags.writeable = False
        return array

    def _element(self, dtype: DType) -> Any:
        t = self._tokens
        at = t.peek()
        if dtype.is_complex and t.accept("("):
            real = self._number()
            t.expect(",")
            imaginary = self._number()
            t.expect(")")
            return complex(real, imaginary)
        value = self._attribute()
        wanted = {"bool": bool, "int": int, "uint": int}.get(dtype.kind, float)
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            t.fail(f"expected an element of {dtype}, found {t.describe(at)}", at)
        try:
            return dtype.numpy.type(value)
        except (OverflowError, ValueError):
            t.fail(f"{value} does not fit {dtype}", at)

    def _bytes(self, type: TensorType) -> np.ndarray:
        t = self._tokens
        at = t.peek()
        try:
            raw = base64.b64decode(t.string("base64, in quotes"), validate=True)
        except binascii.Error as error:
            t.fail(f"bad base64: {error}", at)
        if len(raw) != type.nbytes:
            t.fail(f"{type} takes {type.nbytes} bytes, the text gives {len(raw)}", at)
        return np.frombuffer(raw, type.dtype.numpy).reshape(type.sizes)

    def _guarded(self, at: Token, make: Callable[[], Any]) -> Any:
        """What `make` returns; its errors become TextErrors at `at`."""
        try:
            return make()
        except RLXError as error:
            self._tokens.fail(error.message, at, error.hint)
