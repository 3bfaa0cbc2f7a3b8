"""If, Loop and Scan.

What is known at import is decided there: an If on a known condition imports the branch it takes, a Loop whose trip
count is known becomes a scan, or is unrolled where the shapes it carries change. The rest becomes `cond`,
`while_loop` and `scan`, whose bodies are closed: what they read from around becomes an operand.

A branch on an unknown condition may not fit the given shapes (an export for two sample rates, imported for one).
It is kept as NaN, with a ModelWarning, so that taking it is seen while the other branch works.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from rlx.errors import DataDependentShape, IRError, ModelWarning, UnsupportedModel
from rlx.frontends.onnx.node import ModelGraph
from rlx.frontends.onnx.scope import Scope
from rlx.frontends.onnx.shape import reshaped
from rlx.frontends.onnx.site import Site, handles
from rlx.ir import dtypes
from rlx.ir.graph import Graph, Value
from rlx.ir.types import TensorType

#: Trip counts up to which a loop that cannot be a scan is unrolled.
UNROLL_LIMIT = 64


def as_scalar(site: Site, x: Value) -> Value:
    """A tensor of one element as a scalar."""
    if x.type.elements != 1:
        raise site.misfit(f"expected one element, got {x.type}")
    return reshaped(site, x, ())


# -- If ------------------------------------------------------------------------------------------------------------


@handles("If")
def if_(site: Site) -> list[Value]:
    condition = site[0]
    known = site.b.data_of(condition)
    if known is not None:
        if known.size != 1:
            raise site.misfit(f"its condition must have one element, got {condition.type}")
        taken = "then_branch" if bool(known.reshape(-1)[0]) else "else_branch"
        return site.scope.inlined().import_graph(site.attr(taken))
    then_scope, then_outputs, then_error = _branch(site, "then_branch")
    else_scope, else_outputs, else_error = _branch(site, "else_branch")
    if then_outputs is None and else_outputs is None:
        raise then_error or else_error or site.misfit("neither branch fits")
    if then_outputs is None:
        then_outputs = _impossible(site, "then_branch", then_scope, else_outputs or [], then_error)
    if else_outputs is None:
        else_outputs = _impossible(site, "else_branch", else_scope, then_outputs, else_error)
    for name, x, y in zip(site.node.outputs, then_outputs, else_outputs, strict=True):
        if x.type != y.type:
            raise UnsupportedModel(
                f"If node {site.node.location.name!r} gives {name!r} the type {x.type} in one branch and {y.type} in "
                "the other, for these input shapes",
                hint=_fix(site, condition),
            )
    operands = list(dict.fromkeys([*then_scope.captures, *else_scope.captures]))
    regions = [_close(s, operands, o) for s, o in ((then_scope, then_outputs), (else_scope, else_outputs))]
    return list(site.b.emit_many("cond", as_scalar(site, condition), *operands, regions=regions))


def _branch(site: Site, name: str) -> tuple[Scope, list[Value] | None, IRError | None]:
    """A branch imported as a region; no outputs and the error where its shapes do not fit together."""
    graph: ModelGraph = site.attr(name)
    scope = site.scope.region(graph.name or name)
    try:
        return scope, scope.import_graph(graph), None
    except IRError as error:
        return site.scope.region(graph.name or name), None, error


def _impossible(site: Site, name: str, scope: Scope, like: Sequence[Value], error: IRError | None) -> list[Value]:
    """Outputs for a branch that cannot run for these shapes: NaN, so that taking it is seen."""
    if error is not None and not all(v.type.dtype.is_float for v in like):
        raise error
    warnings.warn(
        f"{name} of If node {site.node.location.name!r} in {site.node.location.file} does not fit the input shapes and "
        f"gives NaN if taken; {_fix(site, site[0])}\n  {error.message if error else ''}",
        ModelWarning,
        stacklevel=2,
    )
    return [scope.builder.full(v.type.shape, np.nan, v.type.dtype) for v in like]


def _fix(site: Site, condition: Value) -> str:
    roots = site.scope.roots(condition)
    named = ", ".join(f"{name!r}: array" for name in roots)
    return f"its condition follows from {', '.join(map(repr, roots))}: fix it at import, values={{{named}}}"


def _close(scope: Scope, operands: Sequence[Value], outputs: Sequence[Value]) -> Graph:
    """The region whose inputs are `operands`, in their order; those it does not read are inputs all the same."""
    inputs = [scope.captures.get(v) or scope.builder.capture(v, None) for v in operands]
    return scope.builder.region(inputs, outputs)


# -- Loop ----------------------------------------------------------------------------------------------------------


@handles("Loop")
def loop(site: Site) -> list[Value]:
    """Loop(count?, condition?, carried...) with body(i, condition, carried...) -> (condition, carried..., ys...)."""
    body: ModelGraph = site.attr("body")
    carried = [site[i] for i in range(2, len(site))]
    count = _known_scalar(site, 0)
    start = _known_scalar(site, 1)
    stacked = len(body.outputs) - 1 - len(carried)
    if start is not None and not start:
        count = 0
    if count is not None:
        count = max(int(count), 0)
        if _never_stops(body):
            return _counted(site, body, carried, count)
        if count <= UNROLL_LIMIT:
            unrolled = _unroll(site, body, carried, count)
            if unrolled is not None:
                return unrolled
    if stacked:
        unknown = site.get(0) if count is None else site.get(1)
        if unknown is not None and site.b.data_of(unknown) is None:
            raise site.depends(unknown, "number of iterations, and so the length of stacked outputs,")
        raise DataDependentShape(
            f"Loop node {site.node.location.name!r} stacks outputs and stops by a condition known only when it runs"
        )
    return _while(site, body, carried)


def _known_scalar(site: Site, index: int) -> int | bool | None:
    value = site.get(index)
    data = None if value is None else site.b.data_of(value)
    return None if data is None else data.reshape(-1)[0].item()


def _never_stops(body: ModelGraph) -> bool:
    """Whether the body hands its condition through, or gives constant true."""
    name = next(iter(body.outputs))
    condition_in = list(body.inputs)[1]
    for node in reversed(body.nodes):
        if name in node.outputs:
            if node.op == "Identity" and isinstance(node.inputs[0], str):
                name = node.inputs[0]
            elif node.op == "Constant" and "value" in node.attrs:
                return bool(np.all(node.attrs["value"]))
            else:
                return False
    if name in body.initializers:
        return bool(np.all(body.initializers[name]))
    return name == condition_in


def _counted(site: Site, body: ModelGraph, carried: list[Value], count: int) -> list[Value]:
    """A loop with a known trip count: a scan over the iteration numbers, unrolled where carried types change."""
    scope = site.scope.region(body.name or "body")
    b = scope.builder
    names = list(body.inputs)
    inner = [b.input(names[i + 2], v.type) for i, v in enumerate(carried)]
    index = b.input(names[0], TensorType((), dtypes.i64))
    scope.bind(names[0], index)
    scope.bind(names[1], b.constant(True, dtypes.bool_))
    for name, value in zip(names[2:], inner, strict=True):
        scope.names[name] = value
    fits = True
    outputs: list[Value] = []
    try:
        outputs = scope.import_graph(body)[1:]
    except (IRError, DataDependentShape):
        fits = False
    if not fits or any(new.type != old.type for new, old in zip(outputs, carried, strict=False)):
        unrolled = _unroll(site, body, carried, count) if count <= UNROLL_LIMIT else None
        if unrolled is None:
            raise site.unsupported(f"carried shapes that change over {count} iterations")
        return unrolled
    operands = list(scope.captures)
    region = b.region([*inner, index, *scope.captures.values()], outputs)
    numbers = site.b.iota((count,), 0, dtypes.i64)
    return list(
        site.b.emit_many(
            "scan",
            *carried,
            numbers,
            *operands,
            regions=(region,),
            num_carry=len(carried),
            num_xs=1,
            length=count,
            reverse=False,
        )
    )


def _unroll(site: Site, body: ModelGraph, carried: list[Value], count: int) -> list[Value] | None:
    """`count` copies of the body; None where its condition is not known at import."""
    b = site.b
    names = list(body.inputs)
    condition = True
    rows: list[list[Value]] = []
    for i in range(count):
        if not condition:
            break
        scope = site.scope.inlined()
        scope.names[names[0]] = b.literal(np.array(i, dtype=np.int64))
        scope.names[names[1]] = b.literal(np.array(True))
        scope.names.update(zip(names[2:], carried, strict=True))
        results = scope.import_graph(body)
        known = b.data_of(results[0])
        if known is None:
            return None
        condition = bool(known.reshape(-1)[0])
        rows.append(results[1 + len(carried) :])
        carried = results[1 : 1 + len(carried)]
    if not rows and len(body.outputs) > 1 + len(carried):
        raise site.unsupported("stacked outputs and no iteration")
    stacks = [_stack(site, list(column)) for column in zip(*rows, strict=True)]
    return [*carried, *stacks]


def _stack(site: Site, values: list[Value]) -> Value:
    rows = [reshaped(site, v, (1, *v.type.sizes)) for v in values]
    return rows[0] if len(rows) == 1 else site.b.emit("concatenate", *rows, dimension=0)


def _while(site: Site, body: ModelGraph, carried: list[Value]) -> list[Value]:
    """while (i < count and condition): carry = (i, condition, carried...), constants: the count and what is read."""
    outer = site.b
    start = site.get(1)
    condition = outer.constant(True, dtypes.bool_) if start is None else as_scalar(site, start)
    trip = site.get(0)
    limit = outer.constant(np.iinfo(np.int64).max, dtypes.i64) if trip is None else as_scalar(site, trip)
    scope = site.scope.region(body.name or "body")
    b = scope.builder
    names = list(body.inputs)
    index, go_on = b.input(names[0], TensorType((), dtypes.i64)), b.input(names[1], TensorType((), dtypes.bool_))
    inner = [b.input(name, v.type) for name, v in zip(names[2:], carried, strict=True)]
    bound = b.input("trip_count", TensorType((), dtypes.i64))
    for name, value in zip(names, (index, go_on, *inner), strict=True):
        scope.names[name] = value
    results = scope.import_graph(body)
    for name, new, old in zip(names[2:], results[1:], carried, strict=True):
        if new.type != old.type:
            raise site.unsupported(f"{name!r} changing its type from {old.type} to {new.type} between iterations")
    following = b.binary("add", index, 1)
    go_on_next = reshaped(Site(site.node, scope), results[0], ())
    region = b.region([index, go_on, *inner, bound, *scope.captures.values()], [following, go_on_next, *results[1:]])
    test = site.scope.region("test")
    t = test.builder
    inputs = [t.input(v.name or f"in{i}", v.type) for i, v in enumerate(region.inputs)]
    more = t.emit("and", inputs[1], t.emit("lt", inputs[0], inputs[2 + len(inner)]))
    zero = outer.constant(0, dtypes.i64)
    final = outer.emit_many(
        "while_loop",
        zero,
        condition,
        *carried,
        limit,
        *scope.captures,
        regions=(t.region(inputs, [more]), region),
        num_carry=2 + len(carried),
    )
    return list(final[2:])


# -- Scan ----------------------------------------------------------------------------------------------------------


@handles("Scan")
def scan(site: Site) -> list[Value]:
    """Scan(carried..., xs...) with body(carried..., slices...) -> (carried..., ys...)."""
    body: ModelGraph = site.attr("body")
    operands = site.operands()
    xs_count = site.attr("num_scan_inputs")
    carry_count = len(operands) - xs_count
    carried, xs = operands[:carry_count], operands[carry_count:]
    ys_count = len(body.outputs) - carry_count
    directions = site.attr("scan_input_directions", (0,) * xs_count)
    axes = site.attr("scan_input_axes", (0,) * xs_count)
    xs = [_leading(site, x, axis, bool(back)) for x, axis, back in zip(xs, axes, directions, strict=True)]
    length = xs[0].type.sizes[0]
    scope = site.scope.region(body.name or "body")
    b = scope.builder
    types = [v.type for v in carried] + [TensorType(x.type.shape[1:], x.type.dtype) for x in xs]
    inner = [b.input(name, type) for name, type in zip(body.inputs, types, strict=True)]
    for name, value in zip(body.inputs, inner, strict=True):
        scope.names[name] = value
    results = scope.import_graph(body)
    captured = list(scope.captures)
    region = b.region([*inner, *scope.captures.values()], results)
    outputs = site.b.emit_many(
        "scan",
        *carried,
        *xs,
        *captured,
        regions=(region,),
        num_carry=carry_count,
        num_xs=xs_count,
        length=length,
        reverse=False,
    )
    ys = list(outputs[carry_count:])
    out_axes = site.attr("scan_output_axes", (0,) * ys_count)
    out_directions = site.attr("scan_output_directions", (0,) * ys_count)
    for i, (axis, back) in enumerate(zip(out_axes, out_directions, strict=True)):
        if back:
            ys[i] = site.b.emit("rev", ys[i], dimensions=(0,))
        rank = ys[i].type.rank
        axis = site.normalize(axis, rank)
        if axis:
            order = (*range(1, axis + 1), 0, *range(axis + 1, rank))
            ys[i] = site.b.emit("transpose", ys[i], permutation=order)
    return [*outputs[:carry_count], *ys]


def _leading(site: Site, x: Value, axis: int, backwards: bool) -> Value:
    axis = site.normalize(axis, x.type.rank)
    if axis:
        x = site.b.emit("transpose", x, permutation=(axis, *(a for a in range(x.type.rank) if a != axis)))
    return site.b.emit("rev", x, dimensions=(0,)) if backwards else x


@handles("BatchedScan")
def batched_scan(site: Site) -> list[Value]:
    """Scan of opset 8: one scan for each row of the batch, which every operand has in front."""
    if site.get(0) is not None:
        raise site.unsupported("sequence_lens", "pad the sequences to one length")
    operands = [site[i] for i in range(1, len(site))]
    b = site.b
    rows: list[list[Value]] = []
    for n in range(operands[0].type.sizes[0]):
        slices = []
        for x in operands:
            one = b.emit(
                "slice",
                x,
                starts=(n, *(0,) * (x.type.rank - 1)),
                limits=(n + 1, *x.type.sizes[1:]),
                strides=(1,) * x.type.rank,
            )
            slices.append(reshaped(site, one, x.type.sizes[1:]))
        rows.append(_scan_row(site, slices))
    return [_stack(site, list(column)) for column in zip(*rows, strict=True)]


def _scan_row(site: Site, operands: list[Value]) -> list[Value]:
    names = tuple(f"{site.node.location.name}/operand{i}" for i in range(len(operands)))
    scope = site.scope.inlined()
    scope.names.update(zip(names, operands, strict=True))
    attrs = dict(site.node.attrs)
    directions = attrs.pop("directions", None)
    if directions is not None:
        attrs["scan_input_directions"] = directions
    node = type(site.node)("Scan", site.node.domain, 9, names, site.node.outputs, attrs, site.node.location)
    return scan(Site(node, scope))
