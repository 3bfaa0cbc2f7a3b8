"""Affine index arithmetic: where an element lies, as a sum of loop variables times constants.

An `Affine` is const + sum of coefficient * atom. An atom is a loop variable or an opaque i64 expression (a loaded
index, a quotient that does not come out even); each has a known inclusive range, kept by the `Space` of one kernel.
Quotients and remainders by constants, which reshapes bring, come out affine wherever the ranges prove it; where a
quotient would come out if a loop were split in two, the space notes the wish in `splits`, and the kernel may be built
again.

A remainder is always a - s * (a // s), so that re-merging what a reshape had split cancels by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rlx.codegen.kernel import Apply, Const, Expr, Var
from rlx.ir.dtypes import DType, bool_, i64


@dataclass(frozen=True, slots=True)
class Affine:
    """const + sum of coefficient * atom; terms in order of the atoms' creation, no coefficient 0."""

    const: int = 0
    terms: tuple[tuple[Expr, int], ...] = ()

    @property
    def is_const(self) -> bool:
        return not self.terms


Index = tuple[Affine, ...]
ZERO = Affine()


@dataclass
class Space:
    """The atoms of one kernel, their ranges and order, and the splits that would make quotients affine.

    splits: loop variable -> sizes at which an inner part should begin.
    """

    ranges: dict[Expr, tuple[int, int]] = field(default_factory=dict)
    order: dict[Expr, int] = field(default_factory=dict)
    splits: dict[Expr, set[int]] = field(default_factory=dict)
    axes: set[Expr] = field(default_factory=set)
    _quotients: dict[tuple[Affine, int], Expr] = field(default_factory=dict)
    _shifts: dict[Expr, int] = field(default_factory=dict)
    _wrapped: dict[Expr, Affine] = field(default_factory=dict)

    def axis(self, name: str, extent: int) -> Affine:
        """A fresh loop variable in [0, extent)."""
        if extent == 1:
            return ZERO
        var = Var(name)
        self.axes.add(var)
        return self.atom(var, 0, extent - 1)

    def atom(self, expression: Expr, lo: int, hi: int) -> Affine:
        """An expression in [lo, hi] as an atom of its own."""
        if lo == hi:
            return Affine(lo)
        found = self._wrapped.get(expression)
        if found is None:
            self.ranges[expression] = (lo, hi)
            self.order[expression] = len(self.order)
            found = self._wrapped[expression] = Affine(0, ((expression, 1),))
        return found

    # -- arithmetic ------------------------------------------------------------------------------------------------

    def add(self, *parts: Affine) -> Affine:
        const = 0
        terms: dict[Expr, int] = {}
        for part in parts:
            const += part.const
            for atom, c in part.terms:
                terms[atom] = terms.get(atom, 0) + c
        return self._make(const, terms)

    def scale(self, a: Affine, factor: int) -> Affine:
        if factor == 1:
            return a
        if factor == 0:
            return ZERO
        return Affine(a.const * factor, tuple((atom, c * factor) for atom, c in a.terms))

    def shift(self, a: Affine, by: int) -> Affine:
        return a if by == 0 else Affine(a.const + by, a.terms)

    def dot(self, index: Index, strides: tuple[int, ...], offset: int = 0) -> Affine:
        """offset + sum of stride * index."""
        const = offset
        terms: dict[Expr, int] = {}
        for a, s in zip(index, strides, strict=True):
            const += a.const * s
            for atom, c in a.terms:
                terms[atom] = terms.get(atom, 0) + c * s
        return self._make(const, terms)

    def _make(self, const: int, terms: dict[Expr, int]) -> Affine:
        order = self.order
        kept = [item for item in terms.items() if item[1]]
        if len(kept) > 1:
            kept.sort(key=lambda item: order[item[0]])
        return Affine(const, tuple(kept))

    def bounds(self, a: Affine) -> tuple[int, int]:
        """Inclusive range of values."""
        lo = hi = a.const
        for atom, c in a.terms:
            first, last = self.ranges[atom]
            lo += c * (first if c > 0 else last)
            hi += c * (last if c > 0 else first)
        return lo, hi

    def floordiv(self, a: Affine, by: int) -> Affine:
        """a // by, rounding down, for by > 0."""
        if by == 1:
            return a
        whole = {atom: c // by for atom, c in a.terms if c % by == 0}
        rest = Affine(a.const % by, tuple((atom, c) for atom, c in a.terms if c % by))
        quotient = self._make(a.const // by, whole)
        lo, hi = self.bounds(rest)
        if lo // by == hi // by:
            return self.shift(quotient, lo // by)
        for step in sorted({abs(c) for _, c in rest.terms if abs(c) > 1 and by % abs(c) == 0}, reverse=True):
            small = Affine(rest.const % step, tuple((atom, c) for atom, c in rest.terms if c % step))
            lo, hi = self.bounds(small)
            if lo >= 0 and hi < step:
                large = Affine(rest.const // step, tuple((atom, c // step) for atom, c in rest.terms if c % step == 0))
                return self.add(quotient, self.floordiv(large, by // step))
        return self.add(quotient, self._opaque_quotient(rest, by))

    def mod(self, a: Affine, by: int) -> Affine:
        """a - by * (a // by)."""
        return self.add(a, self.scale(self.floordiv(a, by), -by))

    def delinearize(self, a: Affine, sizes: tuple[int, ...]) -> Index:
        """The row-major index in `sizes` whose linear position is `a`, for a in [0, product of sizes)."""
        index: list[Affine] = [ZERO] * len(sizes)
        rest = a
        for i in range(len(sizes) - 1, -1, -1):
            if i == 0 or all(s == 1 for s in sizes[:i]):
                index[i] = rest if sizes[i] != 1 else ZERO
                break
            if sizes[i] != 1:
                quotient = self.floordiv(rest, sizes[i])
                index[i] = self.add(rest, self.scale(quotient, -sizes[i]))
                rest = quotient
        return tuple(index)

    def _opaque_quotient(self, rest: Affine, by: int) -> Affine:
        lo, hi = self.bounds(rest)
        key = (rest, by)
        expression = self._quotients.get(key)
        if expression is None:
            if len(rest.terms) == 1 and rest.const == 0 and rest.terms[0][1] == 1 and rest.terms[0][0] in self.axes:
                self.splits.setdefault(rest.terms[0][0], set()).add(by)
            # `div` truncates: shift the dividend so that it is never negative.
            shift = -(lo // by) if lo < 0 else 0
            dividend = self.expression(self.shift(rest, shift * by))
            expression = Apply("div", (dividend, Const(by, i64)), i64)
            self._quotients[key] = expression
            self._shifts[expression] = shift
        shift = self._shifts[expression]
        return self.shift(self.atom(expression, lo // by + shift, hi // by + shift), -shift)

    # -- expressions -----------------------------------------------------------------------------------------------

    def expression(self, a: Affine) -> Expr:
        """`a` as an i64 expression."""
        total: Expr | None = None
        for atom, c in a.terms:
            term = atom if c == 1 else Apply("mul", (atom, Const(c, i64)), i64)
            total = term if total is None else Apply("add", (total, term), i64)
        if total is None:
            return Const(a.const, i64)
        return total if a.const == 0 else Apply("add", (total, Const(a.const, i64)), i64)

    def within(self, a: Affine, lo: int, hi: int) -> Expr | bool:
        """Whether lo <= a < hi: a bool where the range tells, else a bool expression."""
        first, last = self.bounds(a)
        if last < lo or first >= hi:
            return False
        tests: list[Expr] = []
        if first < lo:
            tests.append(Apply("ge", (self.expression(a), Const(lo, i64)), bool_))
        if last >= hi:
            tests.append(Apply("lt", (self.expression(a), Const(hi, i64)), bool_))
        if not tests:
            return True
        return tests[0] if len(tests) == 1 else Apply("and", (tests[0], tests[1]), bool_)


def as_dtype(expression: Expr, dtype: DType) -> Expr:
    """`expression` converted; itself where it has the dtype, and a literal where it is one."""
    if expression.dtype is dtype:
        return expression
    return Apply("convert", (expression,), dtype)
