"""Constant folding: what depends on constants alone is computed now, by the reference meaning of each op.

Only small results are folded (64 KiB), and only where folding does not spell out what an op says more shortly: an iota
or a broadcast stays as it is unless it is tiny. A result whose elements are all equal becomes a broadcast scalar, which
later stages treat as a literal. Parameters are never folded: what depends on them runs once when they are bound.
"""

from __future__ import annotations

import numpy as np

from rlx.ir.dtypes import from_numpy
from rlx.ir.graph import Graph, Node, Value
from rlx.ir.op import RunRegion, get
from rlx.passes.rewrite import Rewriter, rewrite

LARGEST_RESULT = 64 << 10
#: Bytes up to which an op that makes much from little is spelt out.
LARGEST_GROWTH = 1 << 10


def fold_constants(graph: Graph) -> Graph:
    """`graph` with constant subgraphs evaluated; itself where there are none."""
    return rewrite(graph, _fold)


def _fold(rewriter: Rewriter, node: Node) -> tuple[Value, ...] | None:
    if node.op == "constant":
        return _as_splat(rewriter, node)
    record = get(node.op)
    if record.evaluate is None or node.regions or node.op in ("custom_call", "rng_bits", "broadcast_in_dim"):
        return None
    if not all(v.type.is_static for v in node.outputs):
        return None
    if record.pointwise and node.output.type.rank:
        scalars = [splat_of(rewriter, v) for v in node.inputs]
        if all(s is not None for s in scalars):
            (result,) = record.evaluate([s for s in scalars if s is not None], node.attrs, RunRegion((), _no_region))
            scalar = rewriter.constant(np.asarray(result))
            return (rewriter.broadcast(scalar, node.output.type.shape),)
    arrays = [constant_value(rewriter, v) for v in node.inputs]
    if any(a is None for a in arrays):
        return None
    given = sum(a.nbytes for a in arrays if a is not None)
    made = sum(v.type.nbytes for v in node.outputs)
    if made > LARGEST_RESULT or made > max(given, LARGEST_GROWTH):
        return None
    results = record.evaluate([a for a in arrays if a is not None], node.attrs, RunRegion((), _no_region))
    return tuple(literal(rewriter, np.asarray(r)) for r in results)


def _no_region(graph: Graph, arrays: object) -> tuple[np.ndarray, ...]:
    raise AssertionError("ops with regions are not folded")


def scalar_under(rewriter: Rewriter, value: Value) -> Value | None:
    """The constant scalar that `value` is, or is a broadcast of."""
    node = rewriter.producers.get(value)
    if node is not None and node.op == "broadcast_in_dim":
        value = node.inputs[0]
        node = rewriter.producers.get(value)
    return value if node is not None and node.op == "constant" and value.type.rank == 0 else None


def splat_of(rewriter: Rewriter, value: Value) -> np.ndarray | None:
    """The 0-d array that all elements of `value` are known to equal; None where there is none."""
    scalar = scalar_under(rewriter, value)
    if scalar is None:
        return None
    array = rewriter.producers[scalar].attrs["value"]
    assert isinstance(array, np.ndarray)
    return array


def constant_value(rewriter: Rewriter, value: Value) -> np.ndarray | None:
    """The array that `value` is, where a constant or a broadcast constant scalar of moderate size makes it."""
    node = rewriter.producers.get(value)
    if node is None:
        return None
    if node.op == "constant":
        array = node.attrs["value"]
        assert isinstance(array, np.ndarray)
        return array
    if node.op == "broadcast_in_dim" and value.type.is_static and value.type.nbytes <= LARGEST_RESULT:
        inner = rewriter.producers.get(node.inputs[0])
        if inner is not None and inner.op == "constant" and node.inputs[0].type.rank == 0:
            array = inner.attrs["value"]
            assert isinstance(array, np.ndarray)
            return np.broadcast_to(array, value.type.sizes)
    return None


def literal(rewriter: Rewriter, array: np.ndarray) -> Value:
    """A constant with the contents of `array`; a broadcast scalar where all its elements have the same bits."""
    if array.ndim and array.size:
        raw = np.ascontiguousarray(array).reshape(array.size, 1).view(np.uint8)
        if (raw == raw[0]).all():
            scalar = rewriter.constant(array.reshape(-1)[0], from_numpy(array.dtype))
            return rewriter.broadcast(scalar, array.shape)
    return rewriter.constant(np.array(array))


def _as_splat(rewriter: Rewriter, node: Node) -> tuple[Value, ...] | None:
    array = node.attrs["value"]
    assert isinstance(array, np.ndarray)
    if array.ndim == 0 or array.size == 0 or array.nbytes > LARGEST_RESULT:
        return None
    raw = np.ascontiguousarray(array).reshape(array.size, 1).view(np.uint8)
    return (literal(rewriter, array),) if (raw == raw[0]).all() else None
