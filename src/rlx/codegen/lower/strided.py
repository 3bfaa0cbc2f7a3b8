"""Strided views of values that shape ops make of something in memory: what templates read without copies."""

from __future__ import annotations

from rlx.codegen.kernel import Expr, Load, Var
from rlx.codegen.lower.affine import Affine
from rlx.codegen.lower.axes import Axis, make_axes, trivial_extents
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.reader import Reader, Values
from rlx.codegen.lower.view import View
from rlx.codegen.program import VirtualBuffer
from rlx.errors import LoweringError
from rlx.ir.graph import Value

#: Ops that move no element: a chain of them over memory is a strided view, if its index arithmetic stays affine.
VIEW_OPS = frozenset({"reshape", "transpose", "broadcast_in_dim", "slice", "rev"})


def strided_view(values: Values, value: Value) -> View | None:
    """`value` as a view with one stride a dimension; None where it is computed or its index is not affine."""
    base = base_of(values, value)
    if base is None:
        return None
    view = values.view_of(value)
    if view is not None:
        return view
    builder = KernelBuilder()
    sizes = value.type.sizes
    axes, index = make_axes(builder, sizes, trivial_extents(sizes), "i")
    load = Reader(values, builder).read(value, index)
    place = address(load, builder)
    if place is None:
        return None
    strides = dict(place.terms)
    if not all(isinstance(atom, Var) for atom in strides):
        return None
    by_axis = iter(axes)
    return View(
        builder.operands[0].buffer,
        value.type.dtype,
        sizes,
        tuple(0 if n == 1 else strides.get(next(by_axis).var, 0) for n in sizes),
        place.const,
    )


def base_of(values: Values, value: Value) -> Value | None:
    """The value in memory that a chain of view ops ends in; None where something on the way computes."""
    while values.view_of(value) is None:
        node = values.producers.get(value)
        if node is None or node.op not in VIEW_OPS:
            return None
        value = node.inputs[0]
    return value


def address(load: Expr, builder: KernelBuilder) -> Affine | None:
    """Elements from the start of the buffer, for an unmasked load through the builder's only argument."""
    if not isinstance(load, Load) or load.mask is not None:
        return None
    memory = load.memory
    if not isinstance(memory.offset, int):
        raise LoweringError("a view with a run-time offset cannot be taken as a strided view")
    operand = builder.operands[builder.args.index(memory)]
    terms: list[tuple[Expr, int]] = []
    for atom, stride in zip(load.index, memory.strides, strict=True):
        if not isinstance(stride, int):
            return None
        terms.append((atom, stride))
    return Affine(operand.byte_offset // memory.dtype.itemsize + memory.offset, tuple(terms))


def buffer_of(load: Load, builder: KernelBuilder) -> VirtualBuffer:
    """The buffer that `load` reads."""
    return builder.operands[builder.args.index(load.memory)].buffer


def strides_along(place: Affine, axes: tuple[Axis, ...]) -> tuple[int, ...] | None:
    """The address's stride along each of `axes`; None where it has other terms."""
    strides = {axis.var: 0 for axis in axes}
    for atom, c in place.terms:
        if not isinstance(atom, Var) or atom not in strides:
            return None
        strides[atom] = c
    return tuple(strides.values())
