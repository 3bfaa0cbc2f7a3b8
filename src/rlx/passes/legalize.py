"""Rewrites ops that lowering knows only through others: argmax and argmin, top_k, scan, reductions to few results.

argmax is two reductions (the extreme, then the least position that holds it), which fuse like any others. top_k is a
stable sort of values with their positions, cut off. A scan is a while_loop that counts steps, slices its operands and
updates its stacked results in place. A reduction of very many elements to a few is done in two: the first
reduces pieces, whose number depends on the shape alone, so that threads share the work and the order of the sum stays.
"""

from __future__ import annotations

from typing import Any

from rlx.ir.builder import GraphBuilder
from rlx.ir.dtypes import bool_, f32, i32, i64
from rlx.ir.graph import Graph, Node, Value
from rlx.ir.types import TensorType
from rlx.passes.group import REDUCTIONS
from rlx.passes.rewrite import Rewriter, inline_graph, rewrite


def legalize(graph: Graph) -> Graph:
    """`graph` without the ops above, inside regions too; itself where it has none."""
    return rewrite(graph, _visit)


def _visit(rewriter: Rewriter, node: Node) -> tuple[Value, ...] | None:
    if node.op in ("argmax", "argmin"):
        return (_arg_extreme(rewriter, node),)
    if node.op == "top_k":
        return _top_k(rewriter, node)
    if node.op == "scan":
        return _scan(rewriter, node)
    if node.op in REDUCTIONS:
        return _in_pieces(rewriter, node)
    return None


def _arg_extreme(b: GraphBuilder, node: Node) -> Value:
    (x,) = node.inputs
    attrs: Any = node.attrs
    axis, dtype = attrs["dimension"], attrs["dtype"]
    shape = x.type.sizes
    kept = tuple(d for d in range(len(shape)) if d != axis)
    extreme = b.emit("reduce_max" if node.op == "argmax" else "reduce_min", x, dimensions=(axis,))
    spread = b.emit("broadcast_in_dim", extreme, shape=shape, broadcast_dims=kept)
    hit = b.emit("eq", x, spread)
    if x.type.dtype.is_float:
        # Where the extreme is NaN nothing equals it, and the first NaN is the position; else there is no NaN at all.
        hit = b.emit("or", hit, b.emit("ne", x, x))
    position = b.iota(shape, axis, dtype)
    beyond = b.full(shape, shape[axis], dtype)
    return b.emit("reduce_min", b.emit("select", hit, position, beyond), dimensions=(axis,))


#: Reductions to at most FEW results of at least MANY elements each are done in pieces, about PIECES in all.
FEW, MANY, PIECES = 4, 1 << 16, 32


def _in_pieces(b: GraphBuilder, node: Node) -> tuple[Value, ...] | None:
    (x,) = node.inputs
    attrs: Any = node.attrs
    results, shape = node.output.type.elements, x.type.sizes
    if results > FEW or x.type.elements < MANY * max(results, 1):
        return None
    reduced = tuple(sorted(attrs["dimensions"]))
    outer = next(d for d in reduced if shape[d] != 1)
    pieces = max((p for p in range(2, 2 * PIECES + 1) if shape[outer] % p == 0), default=1)
    if pieces < PIECES // 4:
        return None
    dtype = x.type.dtype
    wide = f32 if dtype.is_float and dtype.bits < 32 and node.op in ("reduce_sum", "reduce_prod") else dtype
    parts = b.emit(
        "reshape",
        b.convert(x, wide),
        shape=(*shape[:outer], pieces, shape[outer] // pieces, *shape[outer + 1 :]),
    )
    within = tuple(d + (d >= outer) for d in reduced)
    kept_before = sum(d not in reduced for d in range(outer))
    partial = b.emit(node.op, parts, dimensions=within)
    return (b.convert(b.emit(node.op, partial, dimensions=(kept_before,)), dtype),)


def _top_k(b: GraphBuilder, node: Node) -> tuple[Value, ...]:
    (x,) = node.inputs
    attrs: Any = node.attrs
    axis = attrs["dimension"] % x.type.rank
    position = b.iota(x.type.shape, axis, i32)
    both = b.emit_many("sort", x, position, dimension=axis, num_keys=1, descending=attrs["largest"])
    limits = tuple(attrs["k"] if d == axis else n for d, n in enumerate(x.type.sizes))
    zeros, ones = (0,) * x.type.rank, (1,) * x.type.rank
    return tuple(b.emit("slice", v, starts=zeros, limits=limits, strides=ones) for v in both)


def _scan(b: GraphBuilder, node: Node) -> tuple[Value, ...]:
    attrs: Any = node.attrs
    carries, slices, length, reverse = attrs["num_carry"], attrs["num_xs"], attrs["length"], attrs["reverse"]
    (region,) = node.regions
    carry, xs, consts = (
        node.inputs[:carries],
        node.inputs[carries : carries + slices],
        node.inputs[carries + slices :],
    )
    stacked = tuple(v.type for v in node.outputs[carries:])
    empty = [b.full(t.shape, False if t.dtype is bool_ else 0, t.dtype) for t in stacked]
    if length == 0:
        return (*carry, *empty)
    counter = TensorType((), i64)
    kept = (counter, *(v.type for v in carry), *stacked)
    types = (*kept, *(v.type for v in xs), *(v.type for v in consts))

    test = GraphBuilder("test")
    given = [test.input(f"in{i}", t) for i, t in enumerate(types)]
    done = test.emit("lt", given[0], test.constant(length, i64))

    body = GraphBuilder("body")
    inputs = [body.input(f"in{i}", t) for i, t in enumerate(types)]
    step, rest = inputs[0], inputs[1:]
    old, ys = rest[:carries], rest[carries : carries + len(stacked)]
    arrays, free = rest[carries + len(stacked) :][:slices], rest[carries + len(stacked) + slices :]
    place = body.emit("sub", body.constant(length - 1, i64), step) if reverse else step
    zero = body.constant(0, i64)
    parts = [_take(body, array, place, zero) for array in arrays]
    results = inline_graph(body, region, (*old, *parts, *free))
    written = [_put(body, into, value, place, zero) for into, value in zip(ys, results[carries:], strict=True)]
    following = body.emit("add", step, body.constant(1, i64))

    start = b.constant(0, i64)
    outputs = b.emit_many(
        "while_loop",
        start,
        *carry,
        *empty,
        *xs,
        *consts,
        num_carry=len(kept),
        regions=(test.build([done]), body.build([following, *results[:carries], *written])),
    )
    return outputs[1:]


def _take(b: GraphBuilder, array: Value, place: Value, zero: Value) -> Value:
    """array[place] along the first dimension."""
    shape = array.type.sizes[1:]
    starts = (place, *(zero for _ in shape))
    return b.emit("reshape", b.emit("dynamic_slice", array, *starts, sizes=(1, *shape)), shape=shape)


def _put(b: GraphBuilder, into: Value, value: Value, place: Value, zero: Value) -> Value:
    """`into` with `value` at `place` along the first dimension."""
    shape = value.type.sizes
    starts = (place, *(zero for _ in shape))
    return b.emit("dynamic_update_slice", into, b.emit("reshape", value, shape=(1, *shape)), *starts)
