"""Op records: everything that an op is, in one place.

A primitive has `evaluate`, its meaning in NumPy, which is the oracle for every backend. A composite has `expand`, its
body in primitives (or in other composites); a backend may claim it by name, or it is inlined. Exactly one of the two
is set. The interpreter, verifier, documentation, op tests and coverage table are all made from these records.

The records of `rlx.ir.ops` and `rlx.ir.composites` are imported when the first is looked up: a process that only runs a
cached program needs none. `register` is how a stranger adds a composite. After that the registry is only read, from any
thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.errors import IRError, TypeRuleError, UnknownOp, nearest
from rlx.ir.graph import Attribute, Graph, Node, Value
from rlx.ir.types import TensorType

if TYPE_CHECKING:
    from rlx.ir.builder import GraphBuilder

Attrs = Mapping[str, Any]


@dataclass(frozen=True)
class RunRegion:
    """A node's regions and the means to run them on arrays: what control-flow ops need from the interpreter.

    graphs: the node's regions, in order.
    run: evaluates one of them on arrays in the order of its inputs.
    """

    graphs: tuple[Graph, ...]
    run: Callable[[Graph, Sequence[np.ndarray]], tuple[np.ndarray, ...]]

    def __call__(self, index: int, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """The outputs of region `index` on `arrays`."""
        return self.run(self.graphs[index], arrays)


@dataclass(frozen=True)
class Call:
    """One application as an op's rules see it."""

    inputs: tuple[TensorType, ...]
    attrs: Attrs
    regions: tuple[Graph, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One input for the op tests: arrays, attributes, and the regions where the op has some."""

    arrays: tuple[np.ndarray, ...]
    attrs: Attrs = field(default_factory=dict)
    regions: tuple[Graph, ...] = ()


@dataclass(frozen=True)
class Tolerance:
    """How far a backend may be from `evaluate`, and why.

    ulps: units in the last place of the output dtype, of each element, for pointwise ops (0: equal bits; NaN = NaN).
    terms: True where the op sums many terms: the bound becomes eps * sqrt(terms) * sum(|terms|), as tests derive it.
    """

    ulps: float = 0.0
    terms: bool = False


@dataclass(frozen=True)
class Op:
    """The record of one op.

    name: as in jax.lax / StableHLO.
    summary: one sentence with shapes.
    infer: the shape and dtype rule; raises TypeRuleError.
    attrs: name -> default; `REQUIRED` where there is none. Unknown and missing attributes are errors.
    evaluate: (arrays, attrs, run_region) -> arrays; never writes its operands.
    expand: (builder, values, attrs) -> values.
    pointwise: each output element depends on the operands' elements at the same index alone; shapes are equal.
    samples: rng -> samples that cover the dtypes, edge values and odd sizes which the op accepts.
    """

    name: str
    summary: str
    infer: Callable[[Call], tuple[TensorType, ...]]
    attrs: Mapping[str, Attribute | object] = field(default_factory=dict)
    evaluate: Callable[[Sequence[np.ndarray], Attrs, RunRegion], tuple[np.ndarray, ...]] | None = None
    expand: Callable[[GraphBuilder, tuple[Value, ...], Attrs], tuple[Value, ...]] | None = None
    pointwise: bool = False
    commutative: bool = False
    samples: Callable[[np.random.Generator], Iterator[Sample]] | None = None
    tolerance: Tolerance = Tolerance()

    @property
    def is_composite(self) -> bool:
        return self.expand is not None


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


#: Marks an attribute that has no default.
REQUIRED = _Required()

_OPS: dict[str, Op] = {}


def define(op: Op) -> Op:
    """Add a record of RLX's own, while its module is imported.

    Raises IRError where the name is taken, or where `evaluate` and `expand` are not exactly one.
    """
    if op.name in _OPS:
        raise IRError(f"op {op.name!r} is registered already")
    if (op.evaluate is None) == (op.expand is None):
        raise IRError(f"op {op.name!r} must have exactly one of evaluate and expand")
    _OPS[op.name] = op
    return op


def register(op: Op) -> Op:
    """Add a stranger's record beside RLX's own. Raises as `define`."""
    all_ops()
    return define(op)


def get(name: str) -> Op:
    """The record named `name`. Raises UnknownOp, naming the nearest."""
    try:
        return _OPS.get(name) or all_ops()[name]
    except KeyError:
        close = nearest(name, _OPS)
        raise UnknownOp(f"no op is named {name!r}", hint=f"did you mean {close!r}?" if close else None) from None


def all_ops() -> Mapping[str, Op]:
    """Name -> record, in order of registration."""
    for records in ("rlx.ir.composites", "rlx.ir.ops"):
        importlib.import_module(records)
    return dict(_OPS)


def complete_attrs(op: Op, given: Attrs) -> dict[str, Attribute]:
    """`given` with defaults filled in, in the record's order. Raises TypeRuleError for unknown or missing names."""
    for name in given:
        if name not in op.attrs:
            raise TypeRuleError(f"{op.name} has no attribute {name!r}", hint=f"it has: {', '.join(op.attrs) or 'none'}")
    full: dict[str, Any] = {}
    for name, default in op.attrs.items():
        if name in given:
            full[name] = given[name]
        elif default is REQUIRED:
            raise TypeRuleError(f"{op.name} needs the attribute {name!r}")
        else:
            full[name] = default
    return full


def expand(builder: GraphBuilder, node: Node, values: Sequence[Value]) -> tuple[Value, ...]:
    """Emit the body of the composite `node` into `builder`, reading `values` in place of its inputs.

    Every emitted node carries the composite's location. The body may hold other composites. Raises IRError where the
    op is a primitive.
    """
    record = get(node.op)
    if record.expand is None:
        raise IRError(f"{node.op} is a primitive: it has no body")
    with builder.at(node.location):
        return record.expand(builder, tuple(values), node.attrs)
