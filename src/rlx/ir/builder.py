"""Build graphs, one op at a time, with types inferred and checked at each step.

A builder belongs to one thread and is spent by `build`. `emit` is strict, as the primitives are: equal shapes, equal
dtypes. `binary`, `lift` and `broadcast` add NumPy's broadcasting on top, explicitly, as nodes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from rlx.errors import IRError, RLXError
from rlx.ir import op as ops
from rlx.ir.dtypes import DType, i32
from rlx.ir.graph import Attribute, Graph, Node, Parameter, Value
from rlx.ir.location import UNKNOWN, Location
from rlx.ir.types import Shape, TensorType, type_of

Scalar = int | float | bool | complex | np.generic
Operand = Value | Scalar


class GraphBuilder:
    """Collects inputs, parameters and nodes; `build` makes the graph."""

    def __init__(self, name: str = "main", *, source: str = "") -> None:
        self.name = name
        self.source = source
        self._inputs: list[Value] = []
        self._parameters: list[Parameter] = []
        self._nodes: list[Node] = []
        self._location = UNKNOWN

    # -- leaves ----------------------------------------------------------------------------------------------------

    def input(self, name: str, type: TensorType) -> Value:
        """A named input. Raises IRError where the name is taken."""
        if any(v.name == name for v in self._inputs):
            raise IRError(f"graph {self.name!r} has two inputs named {name!r}")
        value = Value(type, name)
        self._inputs.append(value)
        return value

    def parameter(self, name: str, data: np.ndarray) -> Value:
        """A named weight. The array is kept, not copied."""
        value = Value(type_of(data), name)
        self._parameters.append(Parameter(name, value, data))
        return value

    def constant(self, data: np.ndarray | Scalar, dtype: DType | None = None) -> Value:
        """A literal, part of the program; for large arrays use `parameter`. Python scalars need `dtype`."""
        if dtype is None and not isinstance(data, np.ndarray | np.generic):
            raise IRError(f"constant({data!r}) needs a dtype")
        array = np.array(data, dtype=dtype.numpy if dtype else None)
        array.flags.writeable = False
        return self.emit("constant", value=array)

    # -- nodes -----------------------------------------------------------------------------------------------------

    @contextmanager
    def at(self, location: Location) -> Iterator[None]:
        """Nodes emitted inside come from `location`; errors raised inside name it."""
        before, self._location = self._location, location
        try:
            yield
        except RLXError as error:
            if error.where is None and location is not UNKNOWN:
                error.where = f"at {location}"
            raise
        finally:
            self._location = before

    def emit(self, op: str, *inputs: Value, regions: Sequence[Graph] = (), **attrs: Attribute) -> Value:
        """Apply an op with one output; see `emit_many`."""
        (value,) = self.emit_many(op, *inputs, regions=regions, **attrs)
        return value

    def emit_many(
        self, op: str, *inputs: Value, regions: Sequence[Graph] = (), **attrs: Attribute
    ) -> tuple[Value, ...]:
        """Apply `op`. Raises UnknownOp, or TypeRuleError where shapes, dtypes or attributes do not fit."""
        record = ops.get(op)
        full = ops.complete_attrs(record, attrs)
        types = record.infer(ops.Call(tuple(v.type for v in inputs), full, tuple(regions)))
        outputs = tuple(Value(t) for t in types)
        self._nodes.append(Node(op, tuple(inputs), outputs, full, tuple(regions), self._location))
        return outputs

    def append(self, node: Node) -> tuple[Value, ...]:
        """Take over a node as it stands (its values stay the same values): for passes."""
        self._nodes.append(node)
        return node.outputs

    # -- NumPy's conveniences, as explicit nodes -------------------------------------------------------------------

    def broadcast(self, value: Value, shape: Shape) -> Value:
        """`value` broadcast to `shape` by NumPy's rule; itself where it has that shape already."""
        if value.type.shape == tuple(shape):
            return value
        offset = len(shape) - value.type.rank
        return self.emit("broadcast_in_dim", value, shape=tuple(shape), broadcast_dims=tuple(range(offset, len(shape))))

    def lift(self, *operands: Operand) -> tuple[Value, ...]:
        """Values of one shape: scalars take the dtype of the first value, shapes broadcast by NumPy's rule."""
        values = [x for x in operands if isinstance(x, Value)]
        if not values:
            raise IRError("lift needs at least one value beside scalars")
        dtype = values[0].type.dtype
        shape = broadcast_shapes(*(v.type.shape for v in values))
        full = [x if isinstance(x, Value) else self.constant(x, dtype) for x in operands]
        return tuple(self.broadcast(v, shape) for v in full)

    def binary(self, op: str, x: Operand, y: Operand) -> Value:
        """A pointwise op of two operands with NumPy broadcasting: `b.binary("add", x, 1.0)`."""
        return self.emit(op, *self.lift(x, y))

    def full(self, shape: Shape, fill: Scalar, dtype: DType) -> Value:
        """A tensor of one repeated scalar."""
        return self.broadcast(self.constant(fill, dtype), shape)

    def convert(self, value: Value, dtype: DType) -> Value:
        """`value` as `dtype`; itself where it is that already."""
        return value if value.type.dtype is dtype else self.emit("convert", value, dtype=dtype)

    def iota(self, shape: Shape, dimension: int, dtype: DType = i32) -> Value:
        return self.emit("iota", shape=tuple(shape), dimension=dimension, dtype=dtype)

    # -- the end ---------------------------------------------------------------------------------------------------

    def build(self, outputs: Mapping[str, Value] | Sequence[Value]) -> Graph:
        """The graph. Outputs are a mapping name -> value, or values alone for a region."""
        named = dict(outputs) if isinstance(outputs, Mapping) else {f"out{i}": value for i, value in enumerate(outputs)}
        return Graph(
            name=self.name,
            inputs=tuple(self._inputs),
            parameters=tuple(self._parameters),
            nodes=tuple(self._nodes),
            outputs=tuple(named.values()),
            output_names=tuple(named),
            source=self.source,
        )


def broadcast_shapes(*shapes: Shape) -> Shape:
    """NumPy's broadcast of shapes, symbolic dimensions included. Raises IRError where they do not fit."""
    rank = max((len(s) for s in shapes), default=0)
    result = []
    for axis in range(-rank, 0):
        size = 1
        for shape in shapes:
            d = shape[axis] if -axis <= len(shape) else 1
            if d == 1 or d == size:
                continue
            if size != 1:
                raise IRError(f"shapes {', '.join(map(str, shapes))} do not broadcast: {size} against {d}")
            size = d
        result.append(size)
    return tuple(result)
