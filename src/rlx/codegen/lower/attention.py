"""Attention: softmax(f(q k^T)) v as a template's kernel with an epilogue, or as two products and a softmax.

Groups of dimensions: b, batch; m, queries; n, keys; d, what queries and keys are contracted over; e, the values' own.
What `rlx.passes.attention` matched by its ops is verified here by its indices: each row that is reduced, spread and
contracted must be the row of one query.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from rlx.codegen.kernel import Apply, Const, Expr, Load, Memory, Store, Var
from rlx.codegen.lower.affine import Index
from rlx.codegen.lower.axes import Uses
from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.contraction import Contraction, template_launch
from rlx.codegen.lower.control import LowerScope
from rlx.codegen.lower.forward import carry_forward
from rlx.codegen.lower.reader import Reader
from rlx.codegen.lower.sides import Extents, Side, Strided, fit, strided
from rlx.codegen.lower.stores import in_memory
from rlx.codegen.lower.strided import base_of
from rlx.codegen.lower.templates import AttentionSpec, Epilogue, Scores
from rlx.codegen.lower.view import View
from rlx.errors import LoweringError
from rlx.ir.dtypes import bool_
from rlx.ir.graph import Graph, Value
from rlx.passes.attention import AttentionGroup


def lower_attention(scope: Scope, group: AttentionGroup, lower_scope: LowerScope) -> None:
    """An attention and what follows it: one kernel, or several where the backend has no such kernel."""
    (output,) = group.outputs
    view = scope.allocate(output)
    if 0 in output.type.sizes:
        scope.views[output] = view
    elif not _by_template(scope, group, view):
        _apart(scope, group, view, lower_scope)


def _apart(scope: Scope, group: AttentionGroup, view: View, lower_scope: LowerScope) -> None:
    """Lower the group's nodes as a graph of their own, without looking for attention."""
    inside = {*group.nodes, *group.inlined}
    nodes = tuple(n for n in scope.graph.nodes if n in inside)
    made = {v for n in nodes for v in n.outputs}
    inputs = dict.fromkeys(v for n in nodes for v in n.inputs if v not in made)
    part = Graph(scope.graph.name, tuple(inputs), (), nodes, group.outputs, ("attention",))
    inner = Scope(scope.program, part, scope.steps, in_setup=scope.in_setup)
    inner.views, inner.static = scope.views, scope.static
    inner.destinations = {group.outputs[0]: view}
    inner.attention = False
    lower_scope(inner)


# -- template ------------------------------------------------------------------------------------------------------


def _by_template(scope: Scope, group: AttentionGroup, view: View) -> bool:
    """Emit the template's kernel; False where there is none to be had."""
    joints = _Joints(scope, group, view)
    for value in joints.operands:
        if base_of(scope, value) is None:
            scope.views[value] = in_memory(scope, value)
    fitted = joints.fit()
    crooked = [v for v, found in zip(joints.operands, fitted.operands, strict=True) if found is None]
    if not joints.is_softmax_of_rows(fitted.extents):
        return False
    if crooked:
        for value in crooked:
            scope.views[value] = in_memory(scope, value)
        fitted = joints.fit()
    q, k, v = fitted.operands
    if q is None or k is None or v is None:
        return False
    size = fitted.extents
    spec = AttentionSpec(
        dtype=group.attention.scores.type.dtype,
        batch=size["b"],
        m=size["m"],
        n=size["n"],
        d=size["d"],
        e=size["e"],
        q=q.memory,
        k=k.memory,
        v=v.memory,
        scores=fitted.ends.scores,
        blind=group.attention.blind,
        cleared=group.attention.cleared,
        causal=_causal(fitted.ends),
    )
    kernel = scope.program.templates.attention(spec, fitted.ends.epilogue)
    if kernel is None:
        return False
    operands = (q.operand, k.operand, v.operand)
    scope.emit(template_launch(kernel, operands, fitted.ends.side.builder, group))
    scope.views[group.outputs[0]] = view
    return True


@dataclass(frozen=True)
class _Ends:
    """What happens to products and to results, over one set of axes."""

    side: Side
    scores: Scores
    epilogue: Epilogue


@dataclass(frozen=True)
class _Fitted:
    """An attention over one set of axes; an operand is None where it is not affine in the axes of its groups."""

    extents: Extents
    operands: tuple[Strided | None, Strided | None, Strided | None]
    ends: _Ends


class _Joints:
    """The indices of an attention's values, over axes of the groups b, m, n, d and e."""

    def __init__(self, scope: Scope, group: AttentionGroup, view: View) -> None:
        self.scope = scope
        self.group = group
        self.view = view
        self.attention = group.attention
        self.product = Contraction(self.attention.product)
        self.mix = Contraction(self.attention.mix)
        product = self.product
        self.sizes: Extents = {"b": product.batch, "m": product.m, "n": product.n, "d": product.k, "e": self.mix.n}

    @property
    def operands(self) -> tuple[Value, Value, Value]:
        """q, k and v."""
        return self.product.x, self.product.y, self.mix.y

    def fit(self) -> _Fitted:
        """The attention over as few axes as its operands and ends allow."""
        last: dict[str, Any] = {}

        def build(extents: Extents) -> dict[str, Side]:
            sides = {name: Side(self.sizes, extents) for name in "qkv"}
            last.update({name: self._read(name, side) for name, side in sides.items()})
            last["ends"] = self._ends(Side(self.sizes, extents))
            return {**sides, "ends": last["ends"].side}

        extents, sides = fit(build, self.sizes)
        q = strided(sides["q"], last["q"], "bmd", "spec_q")
        k = strided(sides["k"], last["k"], "bnd", "spec_k")
        v = strided(sides["v"], last["v"], "bne", "spec_v")
        return _Fitted(extents, (q, k, v), last["ends"])

    def _read(self, name: str, side: Side) -> Expr:
        reader = Reader(self.scope, side.builder)
        at = side.index
        if name == "q":
            load = reader.read(self.product.x, self.product.operand_index("lhs", at["b"], at["m"], at["d"]))
        elif name == "k":
            load = reader.read(self.product.y, self.product.operand_index("rhs", at["b"], at["n"], at["d"]))
        else:
            batch, _, keys = self._weights_index(self._of_product(reader, side))
            load = reader.read(self.mix.y, self.mix.operand_index("rhs", batch, at["e"], keys))
        side.reads([Store(Memory("none", load.dtype, ()), (), load)])
        return load

    def _of_product(self, reader: Reader, side: Side) -> dict[Value, Index]:
        """The indices of the product and of what has an element for each of its own."""
        at = side.index
        known = {self.attention.product.output: (*at["b"], *at["m"], *at["n"])}
        carry_forward(reader, self.attention.members, known)
        return known

    def _weights_index(self, known: dict[Value, Index]) -> tuple[Index, Index, Index]:
        """The index of the mix's left operand: batch, free and contracted dimensions."""
        at = known[self.mix.x]
        attrs: Any = self.mix.node.attrs
        batch, contract = attrs["lhs_batch"], attrs["lhs_contract"]
        free = self.mix.free(self.mix.x, "lhs")
        return tuple(at[d] for d in batch), tuple(at[d] for d in free), tuple(at[d] for d in contract)

    def _of_mix(self, reader: Reader, side: Side) -> dict[Value, Index]:
        """The indices of the mix's result and of what follows it."""
        batch, free, _ = self._weights_index(self._of_product(reader, side))
        known = {self.attention.mix.output: (*batch, *free, *side.index["e"])}
        carry_forward(reader, self.group.nodes, known)
        return known

    def _ends(self, side: Side) -> _Ends:
        builder, found = side.builder, self.attention
        reader = Reader(self.scope, builder)
        dtype = found.scores.type.dtype
        product, acc = Var("product", dtype), Var("acc", dtype)
        known = self._of_product(reader, side)
        _bind(reader, found.product.output, known, product)
        value = reader.read(found.scores, known[found.scores])
        read = Store(Memory("none", dtype, ()), (), value)
        scores = Scores(product, _variables(side, "bmn"), value, tuple(builder.args), float(Uses.of([read]).applies))
        known = self._of_mix(reader, side)
        (output,) = self.group.outputs
        _bind(reader, found.result, known, acc)
        store = builder.store(self.view, known[output], reader.read(output, known[output]))
        args = tuple(builder.args[len(scores.args) :])
        epilogue = Epilogue(acc, _variables(side, "bme"), (store,), args, float(Uses.of([store]).applies))
        side.reads([read, store])
        return _Ends(side, scores, epilogue)

    def is_softmax_of_rows(self, extents: Extents) -> bool:
        """Whether what is reduced over, spread to and contracted with each row of weights is one query's row."""
        side = Side(self.sizes, extents)
        reader = Reader(self.scope, side.builder)
        found = self.attention
        known = self._of_product(reader, side)
        scores = known[found.scores]
        reduced: Any = self.scope.producers[found.largest].attrs["dimensions"]
        row = tuple(a for d, a in enumerate(scores) if d not in reduced)
        batch, free, keys = self._weights_index(known)
        key_axes, query_axes = frozenset(_variables(side, "n")), frozenset(_variables(side, "bm"))
        moving = (tuple(scores[d] for d in reduced), keys)
        if not all(_moves_along(part, key_axes) for part in moving):
            return False
        if not all(_moves_along(part, query_axes) for part in (row, batch, free)):
            return False
        shift, divisor = Var("shift", found.shift.type.dtype), Var("divisor", found.divisor.type.dtype)
        reader.here[found.shift] = lambda index: shift if index == row else None
        reader.here[found.divisor] = lambda index: divisor if index == row else None
        late = self._of_mix(reader, side) if found.divided_late else known
        try:
            return (
                reader.read(found.shifted.inputs[1], known[found.shifted.output]) is shift
                and reader.read(found.quotient.inputs[1], late[found.quotient.output]) is divisor
            )
        except LoweringError:  # another row's shift or divisor, which no kernel can compute as it reads
            return False


def _bind(reader: Reader, value: Value, known: dict[Value, Index], var: Var) -> None:
    """Let `var` stand for `value` at the index where it is known to be."""
    at = known[value]
    reader.here[value] = lambda index: var if index == at else None


def _variables(side: Side, groups: str) -> tuple[Var, ...]:
    return tuple(axis.var for g in groups for axis in side.axes[g])


def _moves_along(index: Index, axes: frozenset[Expr]) -> bool:
    """Whether an index depends on nothing but `axes`."""

    def depends(expr: Expr) -> bool:
        return expr in axes or isinstance(expr, Const) or (isinstance(expr, Apply) and all(map(depends, expr.args)))

    return all(depends(atom) for a in index for atom, _ in a.terms)


# -- causal masks --------------------------------------------------------------------------------------------------


def _causal(ends: _Ends) -> int | None:
    """c where every score of key j > query i + c is -inf: the scores are select(j <= i + c, something, -inf).

    Or select(j > i + c, -inf, something). A constant mask that is such a triangle counts as its comparison.
    """
    axes = ends.side.axes
    if len(axes["n"]) != 1 or not axes["m"]:
        return None
    value = ends.scores.value
    while isinstance(value, Apply) and value.op == "select":
        test, then, other = value.args
        hides = _is_lowest(then)
        if not hides and not _is_lowest(other):
            return None
        for part in _parts(test, "or" if hides else "and"):
            offset = _triangle(ends, part, hides) if isinstance(part, Load) else _at_most(ends, part, hides)
            if offset is not None:
                return offset
        value = other if hides else then
    return None


def _is_lowest(value: Expr) -> bool:
    return isinstance(value, Const) and value.value == -math.inf


def _parts(test: Expr, op: str) -> list[Expr]:
    """What `op` joins."""
    if isinstance(test, Apply) and test.op == op:
        return [part for arg in test.args for part in _parts(arg, op)]
    return [test]


def _triangle(ends: _Ends, load: Load, hides: bool) -> int | None:
    """c where a constant bool array is true for key <= query + c alone, or, if it hides, false there alone."""
    builder, axes = ends.side.builder, ends.side.axes
    operand = builder.operands[next(i for i, memory in enumerate(builder.args) if memory is load.memory)]
    memory, query, key = load.memory, axes["m"][-1], axes["n"][-1]
    steps = dict(zip(load.index, memory.strides, strict=True))
    if operand.buffer.kind != "constant" or memory.dtype is not bool_ or load.mask is not None or memory.offset != 0:
        return None
    if steps.keys() != {query.var, key.var}:
        return None
    strides = [step for step in (steps[query.var], steps[key.var]) if isinstance(step, int)]
    data = np.frombuffer(operand.buffer.data, np.bool_, offset=operand.byte_offset)
    seen = as_strided(data, (query.extent, key.extent), strides) ^ hides
    for offset in (int(seen[0].sum()) - 1, int(seen[-1].sum()) - query.extent):
        if np.array_equal(seen, np.tri(query.extent, key.extent, offset, np.bool_)):
            return offset
    return None


#: The comparison that holds where another does not.
_OPPOSITE = {"le": "gt", "gt": "le", "lt": "ge", "ge": "lt"}


def _at_most(ends: _Ends, test: Expr, hides: bool) -> int | None:
    """c where `test`, or its opposite if it hides, is key <= query + c, in one of the ways to write that."""
    if not isinstance(test, Apply) or test.op not in _OPPOSITE:
        return None
    key, query = ends.side.axes["n"][-1].var, ends.side.axes["m"][-1].var
    op = _OPPOSITE[test.op] if hides else test.op
    small, large = test.args if op in ("le", "lt") else test.args[::-1]
    below, above = _linear(small), _linear(large)
    if below is None or above is None:
        return None
    difference = {v: above[0].get(v, 0) - below[0].get(v, 0) for v in {*above[0], *below[0]}}
    if {v: c for v, c in difference.items() if c} != {key: -1, query: 1}:
        return None
    return above[1] - below[1] - (op in ("lt", "gt"))


def _linear(expr: Expr) -> tuple[dict[Var, int], int] | None:
    """The variables of a sum of integers, each with its factor, and the constant; None for anything else."""
    if not expr.dtype.is_integer or expr.dtype.bits < 32:
        return None
    match expr:
        case Var():
            return {expr: 1}, 0
        case Const():
            return {}, int(expr.value)  # type: ignore[arg-type]  # an integer's
        case Apply("convert", (inner,)):
            return _linear(inner)
        case Apply("add" | "sub", (a, b)):
            left, right = _linear(a), _linear(b)
            if left is None or right is None:
                return None
            sign = 1 if expr.op == "add" else -1
            terms = {v: left[0].get(v, 0) + sign * right[0].get(v, 0) for v in (*left[0], *right[0])}
            return terms, left[1] + sign * right[1]
    return None
