"""Loop axes: how an iteration space of several dimensions becomes few, long loops.

A kernel is built with one axis a dimension first. Axes are then split where a quotient by a constant would become
affine, and neighbours are merged where every address allows it and nothing else reads them. Each attempt builds the
kernel's expressions anew over other factors of the same space: the index arithmetic cancels by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlx.codegen.kernel import Accumulate, Apply, Assign, Const, Declare, Expr, Let, Load, Memory, Stmt, Store, Var
from rlx.codegen.lower.affine import ZERO, Affine, Index
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.view import row_major
from rlx.ir.dtypes import i64


@dataclass(frozen=True)
class Axis:
    """One loop: `extent` iterations of `var`; `bound` is the loop's end as an expression (smaller in a ragged tail)."""

    var: Var
    extent: int
    bound: Expr


def trivial_extents(sizes: Sequence[int]) -> tuple[int, ...]:
    """One axis a dimension, without those of size 1."""
    return tuple(n for n in sizes if n != 1)


def make_axes(
    builder: KernelBuilder, sizes: tuple[int, ...], extents: tuple[int, ...], prefix: str, chunk: int = 0
) -> tuple[tuple[Axis, ...], Index]:
    """Fresh axes with `extents` over the row-major space `sizes`, and the index of `sizes` that they run over.

    chunk: cut the last extent into pieces of this many iterations; the last piece may be shorter.
    """
    space = builder.space
    axes: list[Axis] = []
    parts: list[Affine] = []
    for place, n in enumerate(extents):
        if chunk and place == len(extents) - 1:
            pieces = -(-n // chunk)
            outer = space.axis(builder.name(prefix), pieces)
            inner = space.axis(builder.name(prefix), min(chunk, n))
            bound: Expr = Const(min(chunk, n), i64)
            if n % chunk and pieces > 1:
                left = space.expression(space.add(Affine(n), space.scale(outer, -chunk)))
                bound = Apply("min", (bound, left), i64)
            for part, extent, end in ((outer, pieces, Const(pieces, i64)), (inner, min(chunk, n), bound)):
                if part.terms:
                    axes.append(Axis(_variable(part), extent, end))
            parts.append(space.add(space.scale(outer, chunk), inner))
        elif n == 1:
            parts.append(ZERO)
        else:
            part = space.axis(builder.name(prefix), n)
            axes.append(Axis(_variable(part), n, Const(n, i64)))
            parts.append(part)
    if extents == trivial_extents(sizes):
        rest = iter(parts)
        return tuple(axes), tuple(ZERO if n == 1 else next(rest) for n in sizes)
    linear = space.dot(tuple(parts), row_major(extents))
    return tuple(axes), space.delinearize(linear, sizes)


def _variable(part: Affine) -> Var:
    ((atom, _),) = part.terms
    assert isinstance(atom, Var)
    return atom


# -- what expressions do with axes ---------------------------------------------------------------------------------


@dataclass
class Uses:
    """The addresses of a kernel, and the variables that anything but a plain address reads."""

    addresses: list[tuple[Memory, tuple[tuple[Expr, int], ...]]]
    pinned: set[Expr]
    applies: int = 0

    @staticmethod
    def of(statements: Iterable[Stmt]) -> Uses:
        uses = Uses([], set())
        seen: set[Expr] = set()
        stack: list[Expr] = []
        for statement in statements:
            if isinstance(statement, Store):
                uses._address(statement.memory, statement.index, stack)
                stack.append(statement.value)
                if statement.mask is not None:
                    stack.append(statement.mask)
            elif isinstance(statement, Let | Accumulate | Assign):
                stack.append(statement.value)
            elif isinstance(statement, Declare):
                stack.append(statement.init)
        while stack:
            e = stack.pop()
            if e in seen:
                continue
            seen.add(e)
            if isinstance(e, Var):
                uses.pinned.add(e)
            elif isinstance(e, Apply):
                uses.applies += 1
                stack.extend(e.args)
            elif isinstance(e, Load):
                uses._address(e.memory, e.index, stack)
                stack.extend(x for x in (e.mask, e.other) if x is not None)
        return uses

    def _address(self, memory: Memory, index: tuple[Expr, ...], stack: list[Expr]) -> None:
        terms: list[tuple[Expr, int]] = []
        for atom, stride in zip(index, memory.strides, strict=True):
            assert isinstance(stride, int)
            if isinstance(atom, Var):
                terms.append((atom, stride))
            else:
                stack.append(atom)
        self.addresses.append((memory, tuple(terms)))

    def stride(self, terms: tuple[tuple[Expr, int], ...], axis: Axis) -> int:
        """Elements that an address steps for one iteration of `axis`."""
        return sum(stride for atom, stride in terms if atom is axis.var)

    def mergeable(self, outer: Axis, inner: Axis) -> bool:
        """Whether the two loops are one: every address steps by inner.extent strides of `inner` for one of `outer`."""
        if outer.var in self.pinned or inner.var in self.pinned:
            return False
        step = inner.extent
        return all(self.stride(terms, outer) == self.stride(terms, inner) * step for _, terms in self.addresses)


def merged_extents(axes: Sequence[Axis], uses: Uses) -> tuple[int, ...]:
    """Extents after merging neighbours wherever `uses` allows."""
    result: list[int] = []
    for place, axis in enumerate(axes):
        # Merging with the neighbour suffices: a merged run is mergeable pairwise.
        if place and uses.mergeable(axes[place - 1], axis):
            result[-1] *= axis.extent
        else:
            result.append(axis.extent)
    return tuple(result)


def split_extents(axes: Sequence[Axis], builder: KernelBuilder) -> tuple[int, ...] | None:
    """Extents after splitting loops as the builder's space wishes; None where no wish can be met."""
    result: list[int] = []
    changed = False
    for axis in axes:
        rest = axis.extent
        parts: list[int] = []
        for inner in sorted(builder.space.splits.get(axis.var, ()), reverse=True):
            if 1 < inner < rest and rest % inner == 0:
                parts.append(rest // inner)
                rest = inner
                changed = True
        result += [*parts, rest]
    return tuple(result) if changed else None
