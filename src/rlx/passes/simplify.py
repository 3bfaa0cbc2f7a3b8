"""Local simplifications: shape ops that cancel or compose, arithmetic identities, branches already decided.

One walk in order, each node looked at once with its operands simplified already; the pipeline repeats until nothing
changes. Every rule keeps the bits of every output (`rlx.passes.algebra` says where arithmetic allows that).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rlx.ir.graph import Graph, Node, Value
from rlx.passes import algebra
from rlx.passes.fold import constant_value, scalar_under, splat_of
from rlx.passes.group import REDUCTIONS
from rlx.passes.rewrite import Rewriter, inline_graph, rewrite

Rule = Callable[[Rewriter, Node], Value | None]


def simplify(graph: Graph) -> Graph:
    """`graph` with each node replaced by something simpler where a rule knows one; itself where none does."""
    return rewrite(graph, _visit)


def _visit(b: Rewriter, node: Node) -> tuple[Value, ...] | None:
    if node.op == "cond":
        predicate = splat_of(b, node.inputs[0])
        if predicate is None:
            return None
        return inline_graph(b, node.regions[0 if bool(predicate) else 1], node.inputs[1:])
    rule = _RULES.get(node.op)
    if rule is None or not all(v.type.is_static for v in (*node.inputs, *node.outputs)):
        return None
    value = rule(b, node)
    return None if value is None else (value,)


def _made_by(b: Rewriter, value: Value, op: str) -> Node | None:
    node = b.producers.get(value)
    return node if node is not None and node.op == op else None


def _spread(b: Rewriter, node: Node) -> Value | None:
    """A shape op on a broadcast scalar is the scalar broadcast to another shape."""
    scalar = scalar_under(b, node.inputs[0])
    return None if scalar is None or node.inputs[0].type.rank == 0 else b.broadcast(scalar, node.output.type.shape)


def _reshape(b: Rewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    shape = node.output.type.shape
    if x.type.shape == shape:
        return x
    if inner := _made_by(b, x, "reshape"):
        return _reshaped(b, inner.inputs[0], shape)
    return _spread(b, node)


def _reshaped(b: Rewriter, x: Value, shape: tuple[Any, ...]) -> Value:
    return x if x.type.shape == shape else b.emit("reshape", x, shape=shape)


def _transpose(b: Rewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    permutation: Any = node.attrs["permutation"]
    if permutation == tuple(range(len(permutation))):
        return x
    if inner := _made_by(b, x, "transpose"):
        first: Any = inner.attrs["permutation"]
        return b.emit("transpose", inner.inputs[0], permutation=tuple(first[p] for p in permutation))
    moved = [p for p in permutation if x.type.shape[p] != 1]
    if moved == sorted(moved):
        return _reshaped(b, x, node.output.type.shape)
    return _spread(b, node)


def _broadcast(b: Rewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    shape: Any = node.output.type.shape
    dims: Any = node.attrs["broadcast_dims"]
    if x.type.shape == shape and dims == tuple(range(len(dims))):
        return x
    if inner := _made_by(b, x, "broadcast_in_dim"):
        first: Any = inner.attrs["broadcast_dims"]
        return b.emit("broadcast_in_dim", inner.inputs[0], shape=shape, broadcast_dims=tuple(dims[d] for d in first))
    if x.type.rank and x.type.elements == node.output.type.elements and dims == tuple(sorted(dims)):
        return _reshaped(b, x, shape)
    if x.type.rank and x.type.elements == 1:
        return b.broadcast(_reshaped(b, x, ()), shape)
    return None


def _slice(b: Rewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    if x.type.shape == node.output.type.shape:
        return x
    attrs: Any = node.attrs
    if inner := _made_by(b, x, "slice"):
        first: Any = inner.attrs
        parts = zip(first["starts"], first["strides"], attrs["starts"], attrs["strides"], strict=True)
        starts, strides = [], []
        for start, stride, further, step in parts:
            starts.append(start + further * stride)
            strides.append(stride * step)
        limits = tuple(
            s + (n - 1) * t + 1 if n else s for s, t, n in zip(starts, strides, node.output.type.sizes, strict=True)
        )
        return b.emit("slice", inner.inputs[0], starts=tuple(starts), limits=limits, strides=tuple(strides))
    if inner := _made_by(b, x, "concatenate"):
        return _slice_of_concatenate(b, node, inner)
    return _spread(b, node)


def _slice_of_concatenate(b: Rewriter, node: Node, inner: Node) -> Value | None:
    """A slice that falls into one operand of a concatenation is a slice of that operand."""
    attrs: Any = node.attrs
    d: Any = inner.attrs["dimension"]
    begin = 0
    for x in inner.inputs:
        end = begin + x.type.sizes[d]
        if begin <= attrs["starts"][d] and attrs["limits"][d] <= end and attrs["starts"][d] < end:
            starts, limits = list(attrs["starts"]), list(attrs["limits"])
            starts[d] -= begin
            limits[d] -= begin
            return b.emit("slice", x, starts=tuple(starts), limits=tuple(limits), strides=attrs["strides"])
        begin = end
    return None


def _rev(b: Rewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    dimensions: Any = node.attrs["dimensions"]
    kept = tuple(d for d in dimensions if x.type.shape[d] != 1)
    if not kept:
        return x
    if kept != dimensions:
        return b.emit("rev", x, dimensions=kept)
    return _spread(b, node)


def _pad(b: Rewriter, node: Node) -> Value | None:
    x, fill = node.inputs
    attrs: Any = node.attrs
    if not any(attrs["low"]) and not any(attrs["high"]) and not any(attrs["interior"]):
        return x
    if x.type.elements == 0:
        return b.broadcast(fill, node.output.type.shape)
    if max(attrs["low"]) <= 0 and max(attrs["high"]) <= 0 and not any(attrs["interior"]):
        starts = tuple(-n for n in attrs["low"])
        limits = tuple(n + h for n, h in zip(x.type.sizes, attrs["high"], strict=True))
        return b.emit("slice", x, starts=starts, limits=limits, strides=(1,) * x.type.rank)
    return None


def _concatenate(b: Rewriter, node: Node) -> Value | None:
    if len(node.inputs) == 1:
        return node.inputs[0]
    d: Any = node.attrs["dimension"]
    kept = tuple(v for v in node.inputs if v.type.shape[d] != 0)
    if len(kept) == len(node.inputs) or not kept:
        return None
    return kept[0] if len(kept) == 1 else b.emit("concatenate", *kept, dimension=d)


def _dynamic_slice(b: Rewriter, node: Node) -> Value | None:
    x, *starts = node.inputs
    if x.type.shape == node.output.type.shape:
        return x
    places = [splat_of(b, s) for s in starts]
    if any(p is None for p in places):
        return None
    sizes = node.output.type.sizes
    begin = _clamped(places, x.type.sizes, sizes)
    limits = tuple(s + n for s, n in zip(begin, sizes, strict=True))
    return b.emit("slice", x, starts=begin, limits=limits, strides=(1,) * len(sizes))


def _clamped(places: list[Any], shape: tuple[int, ...], window: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(max(int(p), 0), n - w) for p, n, w in zip(places, shape, window, strict=True))


def _dynamic_update_slice(b: Rewriter, node: Node) -> Value | None:
    x, update = node.inputs[:2]
    if update.type.shape == x.type.shape:
        return update
    return x if update.type.elements == 0 else None


def _gather(b: Rewriter, node: Node) -> Value | None:
    """A gather of one window at a known place is a slice."""
    x, indices = node.inputs
    attrs: Any = node.attrs
    vector = constant_value(b, indices)
    if vector is None or vector.size != len(attrs["start_index_map"]) or attrs["operand_batching_dims"]:
        return None
    starts = [0] * x.type.rank
    for d, place in zip(attrs["start_index_map"], np.reshape(vector, -1), strict=True):
        last = x.type.sizes[d] - attrs["slice_sizes"][d]
        if attrs["mode"] == "fill" and not 0 <= int(place) <= last:
            return None
        starts[d] = min(max(int(place), 0), last)
    limits = tuple(s + n for s, n in zip(starts, attrs["slice_sizes"], strict=True))
    window = b.emit("slice", x, starts=tuple(starts), limits=limits, strides=(1,) * x.type.rank)
    return _reshaped(b, window, node.output.type.shape)


def _reduce(b: Rewriter, node: Node) -> Value | None:
    """A reduction over dimensions of size 1 only drops them."""
    (x,) = node.inputs
    dimensions: Any = node.attrs["dimensions"]
    if all(x.type.shape[d] == 1 for d in dimensions):
        return _reshaped(b, x, node.output.type.shape)
    return None


_RULES: dict[str, Rule] = {
    **algebra.RULES,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "rev": _rev,
    "pad": _pad,
    "concatenate": _concatenate,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    **dict.fromkeys(REDUCTIONS, _reduce),
}
