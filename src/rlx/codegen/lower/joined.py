"""Joined products: contractions with one left operand as one kernel; or each by itself, where the backend has none.

A pair is two such products of which one's epilogue reads the other's sum: one epilogue, one result.
"""

from __future__ import annotations

from dataclasses import replace

from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.contraction import (
    Contraction,
    build_epilogue,
    fit_product,
    lower_contraction,
    place_operands,
    template_launch,
)
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.program import Launch, Operand
from rlx.passes.group import Group


def lower_joined(scope: Scope, group: Group) -> None:
    """The parts of a joined group; their constant operands are packed into one buffer in setup."""
    if not _by_template(scope, group):
        for part in group.parts:
            lower_contraction(scope, part)


def lower_paired(scope: Scope, group: Group) -> None:
    """The two parts of a pair, the one whose sum the other's epilogue reads last."""
    if not _by_template(scope, group):
        for part in reversed(group.parts):
            lower_contraction(scope, part)


def _by_template(scope: Scope, group: Group) -> bool:
    """Emit one kernel for all parts; False where it is not to be had."""
    products = [Contraction(part.nodes[0]) for part in group.parts]
    for product in products:
        place_operands(scope, product)
    second, ended = (products[1].node.output, group.parts[:1]) if group.kind == "paired" else (None, group.parts)
    views = [scope.allocate(part.outputs[0]) for part in ended]
    for part in group.parts[len(ended) :]:  # never stored: its spec alone counts
        type = part.outputs[0].type
        views.append(scope.scratch(type.dtype, type.sizes))
    fitted = [
        fit_product(scope, part, view, None if i else second)
        for i, (part, view) in enumerate(zip(group.parts, views, strict=True))
    ]
    rows, columns = [f.a for f in fitted], [f.b[1] for f in fitted if f.b is not None]
    if rows[0] is None or None in rows or len(columns) < len(fitted):
        return False
    builder = KernelBuilder()
    ends = [
        build_epilogue(scope, part, view, f.extents, builder, second).epilogue
        for part, view, f in zip(ended, views, fitted, strict=False)
    ]
    args = tuple(builder.args)
    epilogues = [replace(end, args=args) for end in ends if end is not None]
    specs = [f.spec(scope, product) for f, product in zip(fitted, products, strict=True)]
    kernels = scope.program.templates.joined(specs, epilogues)
    if kernels is None:
        return False
    packed = Operand(scope.program.buffer("persistent", kernels.packed_nbytes))
    for part, pack, offset, source in zip(group.parts, kernels.packs, kernels.offsets, columns, strict=True):
        place = Operand(packed.buffer, offset)
        location = part.nodes[0].location
        step = Launch(pack, (source, place), (source.buffer,), (packed.buffer,), location, ("pack",))
        scope.emit(step, static=True)
    scope.emit(template_launch(kernels.compute, (rows[0][1], packed), builder, group))
    for part, view in zip(ended, views, strict=False):
        scope.views[part.outputs[0]] = view
    return True
