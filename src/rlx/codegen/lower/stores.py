"""Groups that store elements where they belong: pointwise chains, concatenations, updates of a window, plain copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlx.codegen.kernel import Store
from rlx.codegen.lower.affine import Index
from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.elementwise import elementwise
from rlx.codegen.lower.reader import Reader
from rlx.codegen.lower.strided import strided_view
from rlx.codegen.lower.view import View
from rlx.codegen.program import Copy, Operand
from rlx.ir.graph import Node, Value
from rlx.ir.location import UNKNOWN, Location
from rlx.passes.group import Group


def lower_elementwise(scope: Scope, group: Group) -> None:
    """One kernel that stores every output of the group; all have one shape."""
    views = {value: scope.allocate(value) for value in group.outputs}
    shape = group.outputs[0].type.sizes
    static = group.outputs[0] in scope.static
    if 0 not in shape:

        def emit(reader: Reader, index: Index) -> Sequence[Store]:
            return [reader.builder.store(views[v], index, reader.read(v, index)) for v in group.outputs]

        step = elementwise(
            scope, shape, emit, label=group.label, location=group.nodes[-1].location, sources=group.sources
        )
        scope.emit(step, static)
    scope.views.update(views)


def lower_concatenate(scope: Scope, group: Group) -> None:
    """Each operand stores its own slice of the result, unless it was computed there already."""
    node = group.nodes[-1]
    result = node.output
    dimension: Any = node.attrs["dimension"]
    view = scope.whole(node)
    start = 0
    for value in node.inputs:
        shape = value.type.sizes
        piece = View(view.buffer, view.dtype, shape, view.strides, view.offset + start * view.strides[dimension])
        start += shape[dimension]
        if scope.views.get(value) == piece:
            continue
        store_value(scope, value, piece, label=group.label, node=node, static=result in scope.static)
    scope.views[result] = view


def lower_update(scope: Scope, group: Group) -> None:
    """dynamic_update_slice: in place where nothing reads the operand later, else after a copy of it."""
    node = group.nodes[-1]
    x, update, *starts = node.inputs
    result = node.output
    static = result in scope.static
    view = in_place(scope, x, result)
    if view is None:
        view = scope.allocate(result)
        store_value(scope, x, view, label="copy", node=node, static=static)
    if 0 not in update.type.sizes:

        def emit(reader: Reader, index: Index) -> Sequence[Store]:
            sizes = zip(index, starts, result.type.sizes, update.type.sizes, strict=True)
            place = tuple(reader.space.add(a, reader.clamped(s, (), n - w)) for a, s, n, w in sizes)
            return [reader.builder.store(view, place, reader.read(update, index))]

        step = elementwise(
            scope, update.type.sizes, emit, label=group.label, location=node.location, sources=group.sources
        )
        scope.emit(step, static)
    scope.views[result] = view


def in_place(scope: Scope, x: Value, result: Value) -> View | None:
    """The memory of `x`, where `result` may overwrite it; None where it may not."""
    if (
        x in scope.expendable
        and result not in scope.static
        and scope.destinations.get(result) in (None, scope.views[x])
    ):
        return scope.views[x]
    return None


def store_value(scope: Scope, value: Value, into: View, *, label: str, node: Node | None, static: bool) -> None:
    """Steps that put `value` at `into`: a plain copy of bytes where both lie dense, else a kernel that computes it."""
    if 0 in value.type.sizes:
        return
    location = node.location if node is not None else UNKNOWN
    source = scope.view_of(value)
    if source is not None and source.is_row_major and into.is_row_major:
        if (source.buffer, source.offset) != (into.buffer, into.offset):
            scope.emit(copy(source, into, location), static)
        return

    def emit(reader: Reader, index: Index) -> Sequence[Store]:
        return [reader.builder.store(into, index, reader.read(value, index))]

    sources = (node.op,) if node is not None else ()
    scope.emit(elementwise(scope, value.type.sizes, emit, label=label, location=location, sources=sources), static)


def copy(source: View, into: View, location: Location = UNKNOWN) -> Copy:
    """A copy of all the bytes of dense views."""
    return Copy(
        Operand(source.buffer, source.byte_offset),
        Operand(into.buffer, into.byte_offset),
        into.elements * into.dtype.itemsize,
        location,
    )


def in_memory(scope: Scope, value: Value) -> View:
    """A dense view of `value`: where it lies already, or a copy made now."""
    view = strided_view(scope, value)
    if view is not None and view.is_row_major:
        return view
    static = value in scope.static
    view = scope.allocate_like(value.type, static)
    store_value(scope, value, view, label="copy", node=scope.producers.get(value), static=static)
    return view
