"""Stable sorting: every row's positions are merge-sorted by their keys, then all operands are gathered in that order.

Bottom-up merges go back and forth between two arrays of positions. NaN of every kind is one key above all numbers,
zeros of either sign are one key; descending order reverses the comparison, which keeps equal keys in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlx.codegen.kernel import (
    Apply,
    Assign,
    Const,
    Cost,
    Declare,
    Expr,
    Let,
    Load,
    Loop,
    Memory,
    Stmt,
    Store,
    Var,
    While,
)
from rlx.codegen.lower.affine import Affine, as_dtype
from rlx.codegen.lower.axes import make_axes
from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.nest import Nest
from rlx.codegen.lower.reader import Reader
from rlx.codegen.lower.view import row_major
from rlx.ir.dtypes import bool_, i32, i64
from rlx.passes.group import Group


def lower_sort(scope: Scope, group: Group) -> None:
    """One kernel; rows are the grid."""
    node = group.nodes[-1]
    static = node.outputs[0] in scope.static
    views = [scope.allocate(v) for v in node.outputs]
    scope.views.update(zip(node.outputs, views, strict=True))
    shape = node.outputs[0].type.sizes
    if 0 in shape:
        return
    along: Any = node.attrs["dimension"]
    keys: Any = node.attrs["num_keys"]
    n = shape[along]
    rows = tuple(s for d, s in enumerate(shape) if d != along)
    count = math.prod(rows)

    builder = KernelBuilder()
    reader = Reader(scope, builder)
    nest = Nest(builder)
    row_axes, row = make_axes(builder, rows, tuple(s for s in rows if s != 1), "i")
    index, grid = nest.grid(row_axes)
    linear = builder.space.expression(builder.space.dot(row, row_major(rows)))
    base = nest.bind("base", linear)
    orders = []
    for _ in range(2):
        view = scope.scratch(i32, (count, n), static)
        orders.append(builder.memory(view, (n, 1), 0, writable=True))
    first, second = orders

    def place(position: Expr) -> tuple[Affine, ...]:
        at = builder.space.atom(position, 0, n - 1)
        return (*row[:along], at, *row[along:])

    def less(left: Expr, right: Expr) -> Expr:
        """Whether the element at position `left` must come before the one at `right`."""
        if node.attrs["descending"]:
            left, right = right, left
        result: Expr | None = None
        for value in reversed(node.inputs[:keys]):
            a, b = (_comparable(reader.read(value, place(p))) for p in (left, right))
            before, equal = _compare(a, b)
            result = before if result is None else _or(before, _and(equal, result))
        assert result is not None
        return result

    step = builder.var("j")
    nest.add(
        Loop(step, Const(n, i64), (Store(first, (base, step), as_dtype(step, i32)),), "vector"),
    )
    passes = max(0, math.ceil(math.log2(n)))
    if passes:
        width = builder.var("width")
        double = Assign(width, Apply("mul", (width, Const(2, i64)), i64))
        twice = (
            *_merge_pass(builder, base, first, second, width, n, less),
            double,
            *_merge_pass(builder, base, second, first, width, n, less),
            double,
        )
        nest.add(Declare(width, Const(1, i64)))
        nest.add(Loop(builder.var("p"), Const((passes + 1) // 2, i64), twice, "serial"))
    out = builder.space.axis(builder.name("o"), n)
    out_index = (*row[:along], out, *row[along:])
    position = builder.space.expression(out)
    source = as_dtype(Load(first, (base, position)), i64)
    stores = [
        builder.store(view, out_index, reader.read(value, place(source)))
        for view, value in zip(views, node.inputs, strict=True)
    ]
    nest.kept_inside |= set(orders)
    _out_loop(nest, position, n, stores)
    work = float(count * n * max(passes, 1))
    launch = builder.launch(
        group.label,
        index,
        grid,
        tuple(nest.body),
        cost=Cost(4 * work, 8 * work),
        location=node.location,
        sources=group.sources,
    )
    scope.emit(launch, static)


def _out_loop(nest: Nest, position: Expr, n: int, stores: Sequence[Stmt]) -> None:
    if isinstance(position, Var):
        nest.add(Loop(position, Const(n, i64), tuple(stores), "vector"))
    else:
        nest.add(*stores)


def _merge_pass(builder: KernelBuilder, base: Expr, source: Memory, into: Memory, width: Var, n: int, less):
    """Merge neighbouring runs of `width` positions of `source` into runs twice as long."""
    lo, middle, hi = builder.var("lo"), builder.var("mid"), builder.var("hi")
    i, j, k = builder.var("i_"), builder.var("j_"), builder.var("k")
    a, b, take = builder.var("a_", i64), builder.var("b_", i64), builder.var("take", bool_)
    end = Const(n, i64)
    zero, one = Const(0, i64), Const(1, i64)
    left_open = Apply("lt", (i, middle), bool_)
    right_open = Apply("lt", (j, hi), bool_)
    took = as_dtype(take, i64)
    body: tuple[Stmt, ...] = (
        Let(a, as_dtype(Load(source, (base, i), left_open, Const(0, i32)), i64)),
        Let(b, as_dtype(Load(source, (base, j), right_open, Const(0, i32)), i64)),
        Let(take, _and(left_open, _or(_not(right_open), _not(less(b, a))))),
        Store(into, (base, Apply("add", (lo, k), i64)), as_dtype(Apply("select", (take, a, b), i64), i32)),
        Assign(i, Apply("add", (i, took), i64)),
        Assign(j, Apply("add", (j, Apply("sub", (one, took), i64)), i64)),
    )
    run = (
        Let(middle, Apply("min", (Apply("add", (lo, width), i64), end), i64)),
        Let(hi, Apply("min", (Apply("add", (middle, width), i64), end), i64)),
        Declare(i, lo),
        Declare(j, middle),
        Loop(k, Apply("sub", (hi, lo), i64), body, "serial"),
        Assign(lo, hi),
    )
    return (Declare(lo, zero), While(Apply("lt", (lo, end), bool_), run))


def _comparable(value: Expr) -> Expr:
    return as_dtype(value, i32) if value.dtype is bool_ else value


def _compare(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """Whether a comes before b in ascending order, and whether they are one key."""
    before = Apply("lt", (a, b), bool_)
    equal = Apply("eq", (a, b), bool_)
    if a.dtype.is_float:
        a_nan, b_nan = Apply("ne", (a, a), bool_), Apply("ne", (b, b), bool_)
        return _or(before, _and(b_nan, _not(a_nan))), _or(equal, _and(a_nan, b_nan))
    return before, equal


def _and(a: Expr, b: Expr) -> Expr:
    return Apply("and", (a, b), bool_)


def _or(a: Expr, b: Expr) -> Expr:
    return Apply("or", (a, b), bool_)


def _not(a: Expr) -> Expr:
    return Apply("not", (a,), bool_)
