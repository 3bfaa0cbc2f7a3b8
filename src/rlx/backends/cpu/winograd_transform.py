"""Minimal filtering: the transforms of Winograd's convolutions with kernels of 3 x 3, exact, and as vector code.

F(m x m, 3 x 3) computes m x m neighbouring outputs from (m + 2) x (m + 2) inputs as

    Y = A^T [ (G g G^T) * (B^T d B) ] A        (* element by element; Winograd 1980; Lavin & Gray 2016)

with (m + 2)^2 multiplications a channel in the place of 9 m^2: 16 for 36 where m is 2, 36 for 144 where m is 4. The
matrices come from interpolation at m + 1 points and infinity (Toom-Cook), in exact fractions. The points decide how far
rounding errors grow. All that are used here, and all entries of A and B, are exact in f32. Points come in pairs of
opposite sign, whose rows and columns differ in signs only: sums of the equal part and of the other one serve both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from llvmlite import ir

from rlx.codegen.llvm.values import ValueEmitter

Matrix = tuple[tuple[Fraction, ...], ...]

_TAPS = 3


@dataclass(frozen=True)
class Filtering:
    """F(outputs x outputs, 3 x 3) by interpolation at `points`, as many as outputs + 1, and at infinity."""

    outputs: int
    points: tuple[Fraction, ...]

    @property
    def size(self) -> int:
        """Inputs of a tile along one dimension."""
        return self.outputs + _TAPS - 1

    @property
    def positions(self) -> int:
        """Elements of a transformed tile."""
        return self.size**2

    @cached_property
    def input(self) -> Matrix:
        """B^T, size x size."""
        rows = [_product([q for q in self.points if q != p], self.size) for p in self.points]
        return (*rows, _product(self.points, self.size))

    @cached_property
    def kernel(self) -> Matrix:
        """G, size x 3."""
        rows = []
        for p in self.points:
            scale = Fraction(1)
            for q in self.points:
                scale *= p - q if q != p else 1
            rows.append(tuple(p**k / scale for k in range(_TAPS)))
        return (*rows, (Fraction(0), Fraction(0), Fraction(1)))

    @cached_property
    def output(self) -> Matrix:
        """A^T, outputs x size."""
        last = self.outputs - 1
        return tuple((*(p**i for p in self.points), Fraction(int(i == last))) for i in range(self.outputs))


#: Points of F(4 x 4) with the least root mean square error of those with few bits (measured: docs/backends.md).
FILTERINGS = {
    2: Filtering(2, tuple(map(Fraction, ("0", "1", "-1")))),
    4: Filtering(4, tuple(map(Fraction, ("0", "5/8", "-5/8", "3/2", "-3/2")))),
}


def _product(roots: Sequence[Fraction], size: int) -> tuple[Fraction, ...]:
    """Coefficients of the product of (x - root), the constant first, zeros behind."""
    result = [Fraction(1)]
    for root in roots:
        result = [a - root * b for a, b in zip([Fraction(0), *result], [*result, Fraction(0)], strict=True)]
    return tuple(result + [Fraction(0)] * (size - len(result)))


def both_ways(e: ValueEmitter, matrix: Matrix, square: Sequence[Sequence[ir.Value]]) -> list[list[ir.Value]]:
    """matrix @ square @ matrix^T, each element a value of floating-point lanes."""
    columns = [apply(e, matrix, column) for column in zip(*square, strict=True)]
    return [apply(e, matrix, row) for row in zip(*columns, strict=True)]


def apply(e: ValueEmitter, matrix: Matrix, values: Sequence[ir.Value]) -> list[ir.Value]:
    """matrix @ values. The order of each sum depends on the matrix alone."""
    b = e.builder
    columns, values = list(zip(*matrix, strict=True)), list(values)
    for j, k in _pairs(columns):
        total, difference = b.fadd(values[j], values[k]), b.fsub(values[j], values[k])
        both = list(zip(columns[j], columns[k], strict=True))
        columns[j] = tuple(x if x == y else Fraction(0) for x, y in both)
        columns[k] = tuple(x if x != y else Fraction(0) for x, y in both)
        values[j], values[k] = total, difference
    rows = list(zip(*columns, strict=True))
    partner = dict(_pairs(rows))
    results: dict[int, ir.Value] = {}
    for i, row in enumerate(rows):
        if i in partner:
            other = rows[partner[i]]
            same = _dot(e, [x if x == y else Fraction(0) for x, y in zip(row, other, strict=True)], values)
            turned = _dot(e, [x if x != y else Fraction(0) for x, y in zip(row, other, strict=True)], values)
            results[i], results[partner[i]] = b.fadd(same, turned), b.fsub(same, turned)
        elif i not in results:
            results[i] = _dot(e, row, values)
    return [results[i] for i in range(len(rows))]


def _pairs(vectors: Sequence[Sequence[Fraction]]) -> list[tuple[int, int]]:
    """Neighbours that differ in the signs of some entries and have others in common."""
    found = []
    for i in range(len(vectors) - 1):
        both = list(zip(vectors[i], vectors[i + 1], strict=True))
        alike = [x == y for x, y in both if x or y]
        if all(abs(x) == abs(y) for x, y in both) and any(alike) and not all(alike):
            found.append((i, i + 1))
    return found


def _dot(e: ValueEmitter, weights: Sequence[Fraction], values: Sequence[ir.Value]) -> ir.Value:
    """The sum of weights times values, weights of one first."""
    terms = [(w, v) for w, v in zip(weights, values, strict=True) if w]
    terms.sort(key=lambda term: (term[0] != 1, abs(term[0]) == 1))
    weight, value = terms[0]
    result = value if weight == 1 else e.times(value, float(weight))
    for weight, value in terms[1:]:
        if abs(weight) == 1:
            result = e.builder.fadd(result, value) if weight == 1 else e.builder.fsub(result, value)
        else:
            result = e.fma(value, e.const(value.type, float(weight)), result)
    return result
