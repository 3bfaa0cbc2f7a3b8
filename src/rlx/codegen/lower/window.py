"""Windows as expressions: which element of the operand a place in a window sees, and under which mask."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rlx.codegen.kernel import Apply, Const, Expr, Load
from rlx.codegen.lower.affine import Affine, Index, as_dtype
from rlx.codegen.lower.identity import accumulator_dtype, identity
from rlx.ir.dtypes import bool_, i64
from rlx.ir.graph import Node

if TYPE_CHECKING:
    from rlx.codegen.lower.reader import Reader

#: reduce_window ops and how they combine.
WINDOW_COMBINERS = {"reduce_window_sum": "add", "reduce_window_max": "max", "reduce_window_min": "min"}


def window_terms(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Iterator[Expr]:
    """Every term of one output element, in row-major order of the window."""
    window: Any = node.attrs["window"]
    for place in itertools.product(*(range(n) for n in window)):
        yield window_term(reader, node, index, tuple(Affine(p) for p in place), mask)


def window_term(reader: Reader, node: Node, index: Index, place: Index, mask: Expr | None) -> Expr:
    """The term at `place` in the window of the output element `index`; the identity where the window sees padding."""
    attrs: Any = node.attrs
    x = node.inputs[0]
    combine = WINDOW_COMBINERS[node.op]
    dtype = accumulator_dtype(combine, x.type.dtype)
    space = reader.space
    inner, inside = seen_at(
        reader,
        tuple(
            space.shift(space.add(space.scale(a, s), space.scale(p, d)), -lo)
            for a, p, s, d, (lo, _) in zip(
                index, place, attrs["strides"], attrs["window_dilation"], attrs["padding"], strict=True
            )
        ),
        x.type.sizes,
        attrs["base_dilation"],
    )
    fill = identity(combine, dtype)
    if inside is False:
        return fill
    if inside is True:
        return as_dtype(reader.read(x, inner, mask), dtype)
    value = reader.read(x, inner, inside if mask is None else Apply("and", (mask, inside), bool_))
    if isinstance(value, Load) and combine == "add" and value.mask is not None and value.other is None:
        return as_dtype(value, dtype)
    return Apply("select", (inside, as_dtype(value, dtype), fill), dtype)


def seen_at(
    reader: Reader, positions: Index, sizes: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Index, Expr | bool]:
    """Indices of the operand that dilated, padded positions fall on, and whether they fall on an element at all."""
    space = reader.space
    inner: list[Affine] = []
    inside: Expr | bool = True
    for position, n, step in zip(positions, sizes, dilation, strict=True):
        place = space.floordiv(position, step)
        tests = [space.within(place, 0, n)]
        if step > 1:
            rest = space.add(position, space.scale(place, -step))
            if not rest.is_const:
                tests.append(Apply("eq", (space.expression(rest), Const(0, i64)), bool_))
            elif rest.const:
                tests.append(False)
        for test in tests:
            if test is False:
                return positions, False
            if test is not True:
                inside = test if inside is True else Apply("and", (inside, test), bool_)  # type: ignore[arg-type]
        inner.append(place)
    return tuple(inner), inside
