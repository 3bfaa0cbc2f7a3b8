"""A graph builder that computes while it builds: the partial evaluator behind the ONNX import.

Values known at import (shapes, small constants, what follows from them) are tracked beside the graph. `emit` on known
operands evaluates the op by its record at once, and adds no node; where a known value meets an unknown one, it becomes
a `constant` node. So shape arithmetic disappears and the arguments of Reshape, Slice, Resize are plain numbers.

Only small results are computed, at most FOLD_LIMIT elements; weights are parameters, whose data `data_of` tells but
which nothing folds through. Bodies of control flow have builders of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlx.ir import op as ops
from rlx.ir.builder import GraphBuilder, Scalar
from rlx.ir.dtypes import DType
from rlx.ir.graph import Attribute, Graph, Node, Value
from rlx.ir.location import Location
from rlx.ir.types import type_of

#: Elements up to which a result is computed at import.
FOLD_LIMIT = 4096


class PartialBuilder(GraphBuilder):
    """Builds a graph; what is known stays out of it until something unknown needs it."""

    def __init__(self, name: str = "main", *, source: str = "") -> None:
        super().__init__(name, source=source)
        self._known: dict[Value, np.ndarray] = {}
        self._unwritten: dict[Value, Location] = {}
        self._weights: dict[Value, np.ndarray] = {}
        self.looked_at_weights = False  # whether a weight's values were asked for: the graph may depend on them
        self._named: dict[str, Value] = {}

    # -- what is known ---------------------------------------------------------------------------------------------

    def literal(self, array: np.ndarray, name: str = "") -> Value:
        """A known value; it enters the graph as a constant when an unknown op reads it. The array is kept."""
        value = Value(type_of(array), name)
        self._known[value] = array
        self._unwritten[value] = self._location
        return value

    def known(self, value: Value) -> np.ndarray | None:
        """The array of a value computed at import, else None."""
        return self._known.get(value)

    def data_of(self, value: Value) -> np.ndarray | None:
        """The array of a known value or of a weight, else None."""
        found = self._known.get(value)
        if found is None and value in self._weights:
            self.looked_at_weights = True
            return self._weights[value]
        return found

    def parameter(self, name: str, data: np.ndarray) -> Value:
        """As GraphBuilder.parameter; a name that another weight has, as bodies may reuse names, gets a number."""
        number, unique = 1, name
        while unique in self._named:
            value = self._named[unique]
            if self._weights[value] is data:
                return value
            number += 1
            unique = f"{name}.{number}"
        value = super().parameter(unique, data)
        self._named[unique] = value
        self._weights[value] = data
        return value

    def constant(self, data: np.ndarray | Scalar, dtype: DType | None = None) -> Value:
        if dtype is None and not isinstance(data, np.ndarray | np.generic):
            return super().constant(data, dtype)  # raises
        return self.literal(np.array(data, dtype=dtype.numpy if dtype else None))

    # -- nodes -----------------------------------------------------------------------------------------------------

    def emit_many(
        self, op: str, *inputs: Value, regions: Sequence[Graph] = (), **attrs: Attribute
    ) -> tuple[Value, ...]:
        record = ops.get(op)
        full = ops.complete_attrs(record, attrs)
        known = [self._known.get(v) for v in inputs]
        foldable = not regions and op != "custom_call" and all(array is not None for array in known)
        if foldable and record.expand is not None:
            return tuple(record.expand(self, tuple(inputs), full))
        types = record.infer(ops.Call(tuple(v.type for v in inputs), full, tuple(regions)))
        if foldable and record.evaluate is not None and all(t.elements <= FOLD_LIMIT for t in types):
            with np.errstate(all="ignore"):
                arrays = record.evaluate([a for a in known if a is not None], full, _NO_REGIONS)
            return tuple(self.literal(np.asarray(a)) for a in arrays)
        for value in inputs:
            self.write(value)
        outputs = tuple(Value(t) for t in types)
        self._nodes.append(Node(op, tuple(inputs), outputs, full, tuple(regions), self._location))
        return outputs

    def write(self, value: Value) -> Value:
        """`value`, made sure to be defined by the graph: a known value becomes a constant node."""
        location = self._unwritten.pop(value, None)
        if location is not None:
            array = self._known[value]
            if array.flags.writeable:
                array = array.copy()
                array.flags.writeable = False
            self._nodes.append(Node("constant", (), (value,), {"value": array}, (), location))
        return value

    def capture(self, outer: Value, data: np.ndarray | None) -> Value:
        """A region's input that stands for `outer`, a value around it; `data` where that is a weight."""
        value = Value(outer.type, outer.name)
        self._inputs.append(value)
        if data is not None:
            self._weights[value] = data
        return value

    def region(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Graph:
        """The finished body of a control-flow node: `inputs` in the operands' order, known outputs written out."""
        for value in outputs:
            self.write(value)
        self._inputs = list(inputs)
        return self.build(list(outputs))

    # -- where values come from ------------------------------------------------------------------------------------

    def reached(self, value: Value) -> set[Value]:
        """`value` and all values that it is computed from."""
        producers = {out: node for node in self._nodes for out in node.outputs}
        seen: set[Value] = set()
        stack = [value]
        while stack:
            current = stack.pop()
            if current not in seen:
                seen.add(current)
                node = producers.get(current)
                stack.extend(node.inputs if node else ())
        return seen

    def roots(self, value: Value) -> tuple[str, ...]:
        """Names of the inputs that `value` is computed from, in the graph's order."""
        seen = self.reached(value)
        return tuple(v.name for v in self._inputs if v in seen)


def _no_regions(graph: Graph, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    raise AssertionError(f"folded ops have no regions, asked to run {graph.name!r}")  # `foldable` has made sure


_NO_REGIONS = ops.RunRegion((), _no_regions)
