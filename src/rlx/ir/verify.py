"""The verifier: does a graph keep the rules that everyone relies on?

`verify` checks that values are defined once and before their use, that names at the top level are unique and not empty,
that every node's attributes are complete and canonical (plain ints, floats, tuples, no arrays but in constants), that
the op's rule infers the stored types, that regions are closed and hold no parameters, that parameters have the type of
their data, and that one dimension name has one pair of bounds. It reads types, never data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import numpy as np

from rlx.errors import IRError, RLXError, VerifyError
from rlx.ir import op as ops
from rlx.ir.dim import Dim
from rlx.ir.dtypes import DType
from rlx.ir.graph import Graph, Node, Value
from rlx.ir.location import UNKNOWN
from rlx.ir.types import type_of


def verify(graph: Graph) -> None:
    """Raise VerifyError for the first rule that `graph` breaks, naming the node and where it came from."""
    names = [v.name for v in graph.inputs] + [p.name for p in graph.parameters]
    _require_names(graph, "inputs and parameters", names)
    _require_names(graph, "outputs", graph.output_names)
    _verify_body(graph, {})


def _verify_body(graph: Graph, bounds: dict[str, Dim]) -> None:
    """Everything but names, for a graph or a region. bounds: the dimensions met so far, by name."""
    defined: set[Value] = set()
    for value in graph.inputs:
        _define(value, defined, bounds, f"input {value.name!r} of graph {graph.name!r}", None)
    for parameter in graph.parameters:
        what = f"parameter {parameter.name!r} of graph {graph.name!r}"
        _define(parameter.value, defined, bounds, what, None)
        try:
            actual = type_of(parameter.data)
        except IRError as error:
            raise VerifyError(f"{what}: {error.message}") from None
        if actual != parameter.value.type:
            raise VerifyError(f"{what} is declared {parameter.value.type}, its data is {actual}")
    for index, node in enumerate(graph.nodes):
        what = f"node {index} ({node.op}) of graph {graph.name!r}"
        for position, value in enumerate(node.inputs):
            if value not in defined:
                _fail(f"{what} reads operand {position}, {value!r}, which nothing before it defines", node)
        _verify_node(node, what)
        for region in node.regions:
            _verify_region(region, what, node, bounds)
        for value in node.outputs:
            _define(value, defined, bounds, what, node)
    if len(graph.outputs) != len(graph.output_names):
        raise VerifyError(
            f"graph {graph.name!r} has {len(graph.outputs)} outputs and {len(graph.output_names)} output names"
        )
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        if value not in defined:
            raise VerifyError(f"output {name!r} of graph {graph.name!r} is {value!r}, which nothing defines")


def _verify_node(node: Node, what: str) -> None:
    """Attributes and types against the op's record."""
    try:
        record = ops.get(node.op)
        ops.complete_attrs(record, node.attrs)
    except RLXError as error:
        _fail(f"{what}: {error.message}", node, error.hint)
    missing = [name for name in record.attrs if name not in node.attrs]
    if missing:
        _fail(f"{what} lacks the attribute {missing[0]!r}: attributes are stored with their defaults", node)
    for name, value in node.attrs.items():
        if isinstance(value, np.ndarray) and node.op == "constant":
            continue
        reason = _not_canonical(value)
        if reason:
            _fail(f"{what}: attribute {name!r} holds {reason}", node)
    try:
        types = record.infer(ops.Call(tuple(v.type for v in node.inputs), node.attrs, node.regions))
    except RLXError as error:
        _fail(f"{what}: {error.message}", node, error.hint)
    stored = tuple(v.type for v in node.outputs)
    if types != stored:
        inferred, held = (", ".join(map(str, t)) or "nothing" for t in (types, stored))
        _fail(f"{what} stores {held}, its rule infers {inferred}", node)


def _verify_region(region: Graph, what: str, node: Node, bounds: dict[str, Dim]) -> None:
    if region.parameters:
        _fail(f"{what}: its region {region.name!r} has parameters; regions take all they read as operands", node)
    try:
        _verify_body(region, bounds)
    except VerifyError as error:
        if error.where is None:
            error.where = _where(node)
        raise


def _define(value: Value, defined: set[Value], bounds: dict[str, Dim], what: str, node: Node | None) -> None:
    if value in defined:
        _fail(f"{what} defines {value!r}, which is defined before", node)
    defined.add(value)
    for size in value.type.shape:
        if isinstance(size, Dim):
            for symbol in size.symbols:
                known = bounds.setdefault(symbol.symbol or "", symbol)
                if known != symbol:
                    limits = " and ".join(f"[{d.lo}, {'*' if d.hi is None else d.hi}]" for d in (known, symbol))
                    _fail(f"{what}: dimension '{symbol}' has two pairs of bounds, {limits}", node)


def _not_canonical(value: object) -> str | None:
    """Why no attribute may hold `value`, or None."""
    if value is None or isinstance(value, DType | Dim) or type(value) in (bool, int, float, str):
        return None
    if isinstance(value, tuple):
        return next(filter(None, map(_not_canonical, value)), None)
    if isinstance(value, np.ndarray):
        return "an array, which only a constant may"
    article = "an" if type(value).__name__[0] in "aeiou" else "a"
    return f"{article} {type(value).__name__}: attributes are plain ints, floats, bools, strs, dtypes, sizes and tuples"


def _require_names(graph: Graph, what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise VerifyError(f"graph {graph.name!r} has an empty name among its {what}")
        if name in seen:
            raise VerifyError(f"graph {graph.name!r} has the name {name!r} twice among its {what}")
        seen.add(name)


def _where(node: Node | None) -> str | None:
    return None if node is None or node.location == UNKNOWN else f"at {node.location}"


def _fail(message: str, node: Node | None, hint: str | None = None) -> NoReturn:
    raise VerifyError(message, where=_where(node), hint=hint)
