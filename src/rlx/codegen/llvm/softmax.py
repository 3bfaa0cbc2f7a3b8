"""Finds what a kernel computes of softmax, whose maximum and exponentials may be cheaper than any.

A maximum that keeps NaN takes five instructions on x86, one that does not a single one. Softmax subtracts a row's
maximum m from each of the row's elements x, and divides all that it stores by the sum of exp(x - m). Where an element
is NaN so is its difference, whatever m is; then the sum is, and every result. Where none is, the maximum without NaN
has the same value but for the sign of zero, which exp does not see.

The exponentials, which nobody sees before they are divided, are those of `exponential.exp` with `brief`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rlx.codegen.kernel import (
    Accumulate,
    Apply,
    Assign,
    Const,
    Expr,
    If,
    Let,
    Loop,
    LoopKernel,
    Stmt,
    Store,
    Var,
    While,
)
from rlx.codegen.llvm.body import expressions, statements


@dataclass(frozen=True)
class SoftmaxParts:
    """maxima: names of the variables that accumulate a maximum, for this use alone. exps: the exponentials."""

    maxima: frozenset[str] = frozenset()
    exps: tuple[Apply, ...] = ()


def softmax_parts(kernel: LoopKernel) -> SoftmaxParts:
    """The kernel's softmaxes."""
    lets = {s.var.name: s.value for s in kernel.body if isinstance(s, Let)}

    def meaning(expr: Expr) -> Expr:
        while isinstance(expr, Var) and expr.name in lets:
            expr = lets[expr.name]
        return expr

    maxima = {s.var.name: (loop, s.value) for loop, s in _accumulated(kernel.body, "max")}
    sums: dict[str, Accumulate] = {}  # of a maximum: the sum that is NaN where an element is
    for loop, stmt in _accumulated(kernel.body, "add"):
        match stmt.value:
            case Apply(op="exp", args=(Apply(op="sub", args=(x, top)),)):
                name = getattr(meaning(top), "name", "")
                if name in maxima and maxima[name][1] is x and _same_places(maxima[name][0], loop):
                    sums[name] = stmt

    def is_variable(name: str) -> Callable[[Expr], bool]:
        return lambda expr: getattr(meaning(expr), "name", "") == name

    found = {
        name: stmt
        for name, stmt in sums.items()
        if _all_divided(kernel, is_variable(stmt.var.name)) and _only_within_exp(kernel.body, is_variable(name))
    }
    return SoftmaxParts(frozenset(found), tuple(s.value for s in found.values() if isinstance(s.value, Apply)))


def _accumulated(body: Sequence[Stmt], op: str) -> Iterator[tuple[Loop, Accumulate]]:
    """Accumulations with `op` in the vector loops of the body, each the only one into its variable."""
    found = [
        (loop, s)
        for loop in body
        if isinstance(loop, Loop) and loop.kind == "vector"
        for s in loop.body
        if isinstance(s, Accumulate) and s.op == op
    ]
    names = [s.var.name for s in statements(body) if isinstance(s, Accumulate)]
    return ((loop, s) for loop, s in found if names.count(s.var.name) == 1)


def _same_places(a: Loop, b: Loop) -> bool:
    same_extent = isinstance(a.extent, Const) and isinstance(b.extent, Const) and a.extent.value == b.extent.value
    return a.var.name == b.var.name and same_extent


def _all_divided(kernel: LoopKernel, is_sum: Callable[[Expr], bool]) -> bool:
    """Whether all that the kernel gives is NaN where the sum is, and nothing is decided on the way."""

    def divided(expr: Expr) -> bool:
        match expr:
            case Apply(op="div", args=(_, total)) if is_sum(total):
                return True
            case Apply(op="add" | "sub" | "mul" | "div" | "neg" | "convert", args=args) if expr.dtype.is_float:
                return any(divided(a) for a in args)
        return False

    given = {m.name for m in kernel.args}
    every = list(statements(kernel.body))
    stores = [s for s in every if isinstance(s, Store) and s.memory.name in given]
    return all(divided(s.value) for s in stores) and not any(isinstance(s, If | While | Assign) for s in every)


def _only_within_exp(body: Sequence[Stmt], is_top: Callable[[Expr], bool]) -> bool:
    """Whether the maximum is only subtracted, and exp taken of the differences."""

    def below(expr: Expr) -> bool:
        return isinstance(expr, Apply) and expr.op == "sub" and not is_top(expr.args[0]) and is_top(expr.args[1])

    for stmt in statements(body):
        values = (stmt.value,) if isinstance(stmt, Store | Accumulate) else ()
        if any(is_top(v) or below(v) for v in values) or (isinstance(stmt, Let) and below(stmt.value)):
            return False
    for expr in expressions(body):
        if isinstance(expr, Apply) and not below(expr) and any(is_top(a) for a in expr.args):
            return False
        if isinstance(expr, Apply) and expr.op != "exp" and any(below(a) for a in expr.args):
            return False
    return True
