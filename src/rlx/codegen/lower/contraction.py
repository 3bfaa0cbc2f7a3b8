"""Contractions: dot_general as a template's matrix product with an epilogue, or as plain loops.

Every operand reaches the template as it lies in memory. Dimensions are kept apart only where some view needs them
apart: neighbours are merged within their group (batch, m, n, k) wherever all the addresses that run over them allow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlx.codegen.kernel import Apply, Expr, Load, Memory, Store, Var
from rlx.codegen.lower.accumulation import accumulated, accumulator_of
from rlx.codegen.lower.affine import Index, as_dtype
from rlx.codegen.lower.axes import Axis, Uses, make_axes, split_extents, trivial_extents
from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.forward import carry_forward
from rlx.codegen.lower.inplace import in_place_operands
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.reader import Reader
from rlx.codegen.lower.rows import Reduction, row_kernel
from rlx.codegen.lower.stores import in_memory
from rlx.codegen.lower.strided import address, base_of, buffer_of, strides_along
from rlx.codegen.lower.templates import Epilogue, MatmulKernels, MatmulSpec
from rlx.codegen.lower.view import View
from rlx.codegen.program import Launch, Operand, VirtualBuffer
from rlx.ir.graph import Node, Value
from rlx.passes.group import Group

Extents = tuple[int, ...]


@dataclass(frozen=True)
class Contraction:
    """A dot_general by groups of dimensions: which dimensions of x, y and the result each group takes."""

    node: Node

    def __post_init__(self) -> None:
        assert self.node.op == "dot_general"

    @property
    def _attrs(self) -> Any:
        return self.node.attrs

    @property
    def x(self) -> Value:
        return self.node.inputs[0]

    @property
    def y(self) -> Value:
        return self.node.inputs[1]

    @property
    def batch(self) -> Extents:
        return tuple(self.x.type.sizes[d] for d in self._attrs["lhs_batch"])

    @property
    def k(self) -> Extents:
        return tuple(self.x.type.sizes[d] for d in self._attrs["lhs_contract"])

    @property
    def m(self) -> Extents:
        return tuple(self.x.type.sizes[d] for d in self.free(self.x, "lhs"))

    @property
    def n(self) -> Extents:
        return tuple(self.y.type.sizes[d] for d in self.free(self.y, "rhs"))

    def free(self, value: Value, side: str) -> tuple[int, ...]:
        taken = (*self._attrs[f"{side}_contract"], *self._attrs[f"{side}_batch"])
        return tuple(d for d in range(value.type.rank) if d not in taken)

    def operand_index(self, side: str, batch: Index, free: Index, k: Index) -> Index:
        """The index of an operand's element."""
        value = self.x if side == "lhs" else self.y
        index: dict[int, Any] = {}
        index.update(zip(self._attrs[f"{side}_batch"], batch, strict=True))
        index.update(zip(self.free(value, side), free, strict=True))
        index.update(zip(self._attrs[f"{side}_contract"], k, strict=True))
        return tuple(index[d] for d in range(value.type.rank))


def lower_contraction(scope: Scope, group: Group) -> None:
    """A product and what follows it, as one kernel; the constant operand is packed in setup where that helps."""
    product = Contraction(group.nodes[0])
    (output,) = group.outputs
    place_operands(scope, product)
    view = scope.allocate(output)
    if 0 not in output.type.sizes:
        if 0 in product.k or not _by_template(scope, group, product, output, view):
            _by_loops(scope, group, product, output, view)
    scope.views[output] = view


def place_operands(scope: Scope, product: Contraction) -> None:
    """See to it that both operands lie in memory."""
    for value in dict.fromkeys((product.x, product.y)):
        if base_of(scope, value) is None:
            scope.views[value] = in_memory(scope, value)


# -- template ------------------------------------------------------------------------------------------------------


@dataclass
class _Side:
    """One operand, or the epilogue, built over axes of its groups."""

    builder: KernelBuilder
    axes: tuple[tuple[Axis, ...], ...]
    uses: Uses
    load: Expr | None = None
    epilogue: Epilogue | None = None


@dataclass
class _Extents:
    """Extents of each group's axes."""

    batch: Extents
    m: Extents
    n: Extents
    k: Extents

    def of(self, groups: str) -> tuple[Extents, ...]:
        return tuple({"b": self.batch, "m": self.m, "n": self.n, "k": self.k}[g] for g in groups)

    def replaced(self, groups: str, parts: Sequence[Extents]) -> _Extents:
        new = {"b": self.batch, "m": self.m, "n": self.n, "k": self.k, **dict(zip(groups, parts, strict=True))}
        return _Extents(new["b"], new["m"], new["n"], new["k"])


_GROUPS = {"a": "bmk", "b": "bkn", "epilogue": "bmn"}


@dataclass(frozen=True)
class Fitted:
    """A product over the fewest axes that suit its operands and its epilogue.

    a, b: how an operand lies; None where its address is not affine in the axes.
    """

    extents: _Extents
    a: tuple[Memory, Operand] | None
    b: tuple[Memory, Operand] | None
    end: _Side

    @property
    def epilogue(self) -> Epilogue:
        assert self.end.epilogue is not None
        return self.end.epilogue

    def spec(self, scope: Scope, product: Contraction) -> MatmulSpec:
        """The product as templates take it; both operands lie well."""
        assert self.a is not None
        assert self.b is not None
        a_static, b_static = product.x in scope.static, product.y in scope.static
        return MatmulSpec(
            a_dtype=product.x.type.dtype,
            b_dtype=product.y.type.dtype,
            acc_dtype=accumulator_of(product.x.type.dtype, product.node.output.type.dtype),
            batch=self.extents.batch,
            m=self.extents.m,
            n=self.extents.n,
            k=self.extents.k,
            a=self.a[0],
            b=self.b[0],
            a_constant=a_static and not b_static,
            b_constant=b_static and not a_static,
        )


def fit_product(scope: Scope, group: Group, view: View, second: Value | None = None) -> Fitted:
    """Choose the axes of the group's product, whose result goes to `view`; `second` as in `build_epilogue`."""
    product = Contraction(group.nodes[0])
    sizes = sizes_of(product)
    extents = _Extents(*(trivial_extents(e) for e in (product.batch, product.m, product.n, product.k)))

    def build(extents: _Extents) -> dict[str, _Side]:
        return {
            "a": _operand(scope, product, "lhs", sizes, extents),
            "b": _operand(scope, product, "rhs", sizes, extents),
            "epilogue": build_epilogue(scope, group, view, extents, KernelBuilder(), second),
        }

    sides = build(extents)
    for _ in range(3):
        finer = _finer(sides, extents)
        if finer is None:
            break
        extents = finer
        sides = build(extents)
    merged = _merged(sides, extents)
    if merged != extents:
        extents = merged
        sides = build(extents)
    a, b = (_operand_memory(sides[name], name) for name in ("a", "b"))
    return Fitted(extents, a, b, sides["epilogue"])


def sizes_of(product: Contraction) -> _Extents:
    """The sizes of each group's dimensions."""
    return _Extents(product.batch, product.m, product.n, product.k)


def _by_template(scope: Scope, group: Group, product: Contraction, output: Value, view: View) -> bool:
    """Emit the template's kernels; False where there are none to be had."""
    found = fit_product(scope, group, view)
    if found.a is None or found.b is None:
        return _with_copies(scope, group, product, output, view, found.a is None, found.b is None)
    spec = found.spec(scope, product)
    kernels = scope.program.templates.matmul(spec, found.epilogue)
    if kernels is None:
        return False
    _launch(scope, group, kernels, spec, (found.a[1], found.b[1]), found.end, output in scope.static)
    return True


def _with_copies(
    scope: Scope, group: Group, product: Contraction, output: Value, view: View, copy_x: bool, copy_y: bool
) -> bool:
    """Make dense copies of operands whose views stay crooked, and try again."""
    for value, wanted in ((product.x, copy_x), (product.y, copy_y)):
        if wanted:
            scope.views[value] = in_memory(scope, value)
    return _by_template(scope, group, product, output, view)


def _operand(scope: Scope, product: Contraction, side: str, sizes: _Extents, extents: _Extents) -> _Side:
    groups = _GROUPS["a" if side == "lhs" else "b"]
    builder = KernelBuilder()
    built = [make_axes(builder, s, e, g) for g, s, e in zip(groups, sizes.of(groups), extents.of(groups), strict=True)]
    index = dict(zip(groups, (i for _, i in built), strict=True))
    free = index["m" if side == "lhs" else "n"]
    value = product.x if side == "lhs" else product.y
    load = Reader(scope, builder).read(value, product.operand_index(side, index["b"], free, index["k"]))
    uses = Uses.of([Store(Memory("none", value.type.dtype, ()), (), load)])
    return _Side(builder, tuple(axes for axes, _ in built), uses, load=load)


def build_epilogue(
    scope: Scope, group: Group, view: View, extents: _Extents, builder: KernelBuilder, second: Value | None = None
) -> _Side:
    """What follows the group's product, up to the store to `view`; its memories are the builder's so far.

    second: the result of another product, of the same type, that is read at the place of the first's sum.
    """
    product = Contraction(group.nodes[0])
    (output,) = group.outputs
    sizes = sizes_of(product)
    groups = _GROUPS["epilogue"]
    built = [make_axes(builder, s, e, g) for g, s, e in zip(groups, sizes.of(groups), extents.of(groups), strict=True)]
    at = sum((i for _, i in built), ())
    result = product.node.output
    acc = Var("acc", accumulator_of(product.x.type.dtype, result.type.dtype))
    reader = Reader(scope, builder)
    finished = as_dtype(acc, result.type.dtype)
    reader.here[result] = lambda index: finished if index == at else None
    other = None
    if second is not None:
        other = Var("second", acc.dtype)
        beside = as_dtype(other, second.type.dtype)
        reader.here[second] = lambda index: beside if index == at else None
    index = {result: at}
    carry_forward(reader, group.nodes[1:], index)
    store = builder.store(view, index[output], reader.read(output, index[output]))
    axes = tuple(axes for axes, _ in built)
    uses = Uses.of([store])
    variables = tuple(a.var for part in axes for a in part)
    epilogue = Epilogue(acc, variables, (store,), tuple(builder.args), float(uses.applies), other)
    return _Side(builder, axes, uses, epilogue=epilogue)


def _finer(sides: dict[str, _Side], extents: _Extents) -> _Extents | None:
    """Extents after the splits that any side wishes for, one group at a time; None where there are none."""
    for name, side in sides.items():
        groups = _GROUPS[name]
        for g, axes in zip(groups, side.axes, strict=True):
            split = split_extents(axes, side.builder)
            if split is not None:
                return extents.replaced(g, (split,))
    return None


def _merged(sides: dict[str, _Side], extents: _Extents) -> _Extents:
    """Extents after merging neighbours of a group wherever every side that has the group allows it."""
    for g in "bmnk":
        (current,) = extents.of(g)
        joins = [True] * max(len(current) - 1, 0)
        for name, side in sides.items():
            if g not in _GROUPS[name]:
                continue
            axes = side.axes[_GROUPS[name].index(g)]
            for i in range(len(joins)):
                joins[i] &= side.uses.mergeable(axes[i], axes[i + 1])
        merged = list(current[:1])
        for n, join in zip(current[1:], joins, strict=True):
            if join:
                merged[-1] *= n
            else:
                merged.append(n)
        extents = extents.replaced(g, (tuple(merged),))
    return extents


def _operand_memory(side: _Side, name: str) -> tuple[Memory, Operand] | None:
    """The operand as the spec wants it; None where its address is not affine in the axes."""
    load = side.load
    assert load is not None
    place = address(load, side.builder)
    if place is None or not isinstance(load, Load):
        return None
    strides = strides_along(place, tuple(a for part in side.axes for a in part))
    if strides is None or place.const < 0:
        return None
    memory = Memory(f"spec_{name}", load.dtype, strides)
    return memory, Operand(buffer_of(load, side.builder), place.const * load.dtype.itemsize)


def _launch(
    scope: Scope,
    group: Group,
    kernels: MatmulKernels,
    spec: MatmulSpec,
    operands: tuple[Operand, Operand],
    end: _Side,
    static: bool,
) -> None:
    a, b = operands
    if kernels.pack is not None:
        source = a if spec.a_constant else b
        packed = Operand(scope.program.buffer("persistent", kernels.packed_nbytes))
        location = group.nodes[0].location
        scope.emit(
            Launch(kernels.pack, (source, packed), (source.buffer,), (packed.buffer,), location, ("pack",)), static=True
        )
        a, b = (packed, b) if spec.a_constant else (a, packed)
    step = template_launch(kernels.compute, (a, b), end.builder, group)
    if kernels.in_place and end.epilogue is not None:
        args, axes = step.kernel.args, [axis for part in end.axes for axis in part]
        step = replace(step, in_place=in_place_operands(end.epilogue.stores, axes, args, step.operands))
    scope.emit(step, static)


def template_launch(kernel: Any, inputs: tuple[Operand, ...], epilogue: KernelBuilder, group: Group) -> Launch:
    """A template's kernel on its inputs and its epilogue's operands."""
    reads: dict[VirtualBuffer, None] = {operand.buffer: None for operand in inputs}
    writes: dict[VirtualBuffer, None] = {}
    for memory, operand in zip(epilogue.args, epilogue.operands, strict=True):
        (writes if memory.writable else reads)[operand.buffer] = None
    operands = (*inputs, *epilogue.operands)
    return Launch(kernel, operands, tuple(reads), tuple(writes), group.nodes[0].location, group.sources)


# -- plain loops ---------------------------------------------------------------------------------------------------


def _by_loops(scope: Scope, group: Group, product: Contraction, output: Value, view: View) -> None:
    result = product.node.output
    acc = accumulator_of(product.x.type.dtype, result.type.dtype)
    batch, m = len(product.batch), len(product.m)

    def term(reader: Reader, row: Index, at: Index) -> Expr:
        left = reader.read(product.x, product.operand_index("lhs", row[:batch], row[batch : batch + m], at))
        right = reader.read(product.y, product.operand_index("rhs", row[:batch], row[batch + m :], at))
        return Apply("mul", (as_dtype(left, acc), as_dtype(right, acc)), acc)

    reduction = Reduction(result, "add", acc, term, lambda e: as_dtype(e, result.type.dtype))
    rows = (*product.batch, *product.m, *product.n)
    launch = row_kernel(
        scope,
        accumulated(group, reduction, rows, product.k, output, view),
        label=group.label,
        location=group.nodes[0].location,
        sources=group.sources,
    )
    scope.emit(launch, output in scope.static)
