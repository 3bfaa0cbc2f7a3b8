"""Convolutions: conv_general as a template's kernel with an epilogue, or as plain loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlx.codegen.kernel import Apply, Expr, Memory, Var
from rlx.codegen.lower.accumulation import accumulated, accumulator_of
from rlx.codegen.lower.affine import Affine, Index, as_dtype
from rlx.codegen.lower.axes import Axis, make_axes
from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.contraction import template_launch
from rlx.codegen.lower.forward import carry_forward
from rlx.codegen.lower.identity import identity
from rlx.codegen.lower.inplace import in_place_operands
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.reader import Reader
from rlx.codegen.lower.rows import Reduction, row_kernel
from rlx.codegen.lower.stores import in_memory
from rlx.codegen.lower.strided import strided_view
from rlx.codegen.lower.templates import ConvSpec, Epilogue
from rlx.codegen.lower.view import View
from rlx.codegen.lower.window import seen_at
from rlx.codegen.program import Launch, Operand
from rlx.ir.graph import Value
from rlx.passes.group import Group


def lower_convolution(scope: Scope, group: Group) -> None:
    """A convolution and what follows it, as one kernel; constant weights are packed in setup.

    A template sees the operands as they lie; if it does not take them so, it is asked once more for dense copies.
    """
    node = group.nodes[0]
    (output,) = group.outputs
    for value in dict.fromkeys(node.inputs):
        found = strided_view(scope, value)
        scope.views[value] = found if found is not None and found.offset >= 0 else in_memory(scope, value)
    view = scope.allocate(output)
    if 0 not in output.type.sizes and not _by_template(scope, group, output, view):
        crooked = [value for value in dict.fromkeys(node.inputs) if not scope.views[value].is_row_major]
        for value in crooked:
            scope.views[value] = in_memory(scope, value)
        if not crooked or not _by_template(scope, group, output, view):
            _by_loops(scope, group, output, view)
    scope.views[output] = view


def _by_template(scope: Scope, group: Group, output: Value, view: View) -> bool:
    node = group.nodes[0]
    attrs: Any = node.attrs
    x, w = node.inputs
    result = node.output
    x_view, w_view = scope.views[x], scope.views[w]
    static = output in scope.static
    spec = ConvSpec(
        x_dtype=x.type.dtype,
        w_dtype=w.type.dtype,
        acc_dtype=accumulator_of(x.type.dtype, result.type.dtype),
        batch=x.type.sizes[0],
        channels=x.type.sizes[1],
        features=w.type.sizes[0],
        size=x.type.sizes[2:],
        kernel=w.type.sizes[2:],
        out=result.type.sizes[2:],
        strides=attrs["strides"],
        padding=attrs["padding"],
        lhs_dilation=attrs["lhs_dilation"],
        rhs_dilation=attrs["rhs_dilation"],
        groups=attrs["groups"],
        x=Memory("spec_x", x.type.dtype, x_view.strides),
        w=Memory("spec_w", w.type.dtype, w_view.strides),
        w_constant=w in scope.static and x not in scope.static,
    )
    builder = KernelBuilder()
    epilogue, axes = _epilogue(scope, group, output, view, builder)
    kernels = scope.program.templates.conv(spec, epilogue)
    if kernels is None:
        return False
    weights = Operand(w_view.buffer, w_view.byte_offset)
    if kernels.pack is not None:
        packed = Operand(scope.program.buffer("persistent", kernels.packed_nbytes))
        step = Launch(kernels.pack, (weights, packed), (weights.buffer,), (packed.buffer,), node.location, ("pack",))
        scope.emit(step, static=True)
        weights = packed
    image = Operand(x_view.buffer, x_view.byte_offset)
    step = template_launch(kernels.compute, (image, weights), builder, group)
    if kernels.in_place:
        step = replace(step, in_place=in_place_operands(epilogue.stores, axes, step.kernel.args, step.operands))
    scope.emit(step, static)
    return True


def _epilogue(
    scope: Scope, group: Group, output: Value, view: View, builder: KernelBuilder
) -> tuple[Epilogue, tuple[Axis, ...]]:
    """The epilogue over one variable an output dimension, those of size 1 included; and the others' axes."""
    node = group.nodes[0]
    result = node.output
    sizes = result.type.sizes
    axes, at = make_axes(builder, sizes, tuple(n for n in sizes if n != 1), "o")
    by_axis = iter(axes)
    index = tuple(Var(builder.name("u")) if n == 1 else next(by_axis).var for n in sizes)
    acc = Var("acc", accumulator_of(node.inputs[0].type.dtype, result.type.dtype))
    reader = Reader(scope, builder)
    finished = as_dtype(acc, result.type.dtype)
    reader.here[result] = lambda asked: finished if asked == at else None
    known = {result: at}
    carry_forward(reader, group.nodes[1:], known)
    store = builder.store(view, known[output], reader.read(output, known[output]))
    return Epilogue(acc, index, (store,), tuple(builder.args), float(len(group.nodes) - 1)), axes


def _by_loops(scope: Scope, group: Group, output: Value, view: View) -> None:
    node = group.nodes[0]
    attrs: Any = node.attrs
    x, w = node.inputs
    result = node.output
    acc = accumulator_of(x.type.dtype, result.type.dtype)
    features, depth = w.type.sizes[:2]
    per_group = features // attrs["groups"]

    def term(reader: Reader, row: Index, at: Index) -> Expr:
        space = reader.space
        group_index = space.floordiv(row[1], per_group)
        channel = space.add(at[0], space.scale(group_index, depth))
        positions: list[Affine] = [
            space.shift(space.add(space.scale(o, s), space.scale(p, d)), -lo)
            for o, p, s, d, (lo, _) in zip(
                row[2:], at[1:], attrs["strides"], attrs["rhs_dilation"], attrs["padding"], strict=True
            )
        ]
        inner, inside = seen_at(reader, tuple(positions), x.type.sizes[2:], attrs["lhs_dilation"])
        weight = as_dtype(reader.read(w, (row[1], *at)), acc)
        if inside is False:
            return identity("add", acc)
        value = as_dtype(reader.read(x, (row[0], channel, *inner), None if inside is True else inside), acc)
        return Apply("mul", (value, weight), acc)

    reduction = Reduction(result, "add", acc, term, lambda e: as_dtype(e, result.type.dtype))
    launch = row_kernel(
        scope,
        accumulated(group, reduction, result.type.sizes, w.type.sizes[1:], output, view),
        label=group.label,
        location=node.location,
        sources=group.sources,
    )
    scope.emit(launch, output in scope.static)
