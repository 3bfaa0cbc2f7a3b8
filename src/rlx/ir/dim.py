"""Symbolic dimensions: sizes known by name, with bounds and exact integer arithmetic.

`Dim("batch", 1, 8)` is a named size between 1 and 8. Dims are closed under + - * // % with ints and Dims. Expressions
are kept as canonical sums of products, so equal expressions compare and hash equal; a result that has no symbol left
is a plain int. `//` and `%` floor, as Python's do, and take the divisor to be different from zero, as whoever divides
by a size does; what cannot be divided exactly stays as a quotient of canonical parts.

Two symbols are the same size where name and bounds agree. `<`, `<=`, `>`, `>=` answer where the bounds decide for
every size, and raise IRError where they do not; `==` asks whether the expressions are the same, never whether they
might be. Dims are immutable; threads share them freely.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rlx.errors import IRError
from rlx.ir.lexer import name_or_quote, quote


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: str
    lo: int
    hi: int | None

    def __str__(self) -> str:
        return name_or_quote(self.name) if self.name != "mod" else quote(self.name)


@dataclass(frozen=True, slots=True)
class _Quotient:
    """`num // den` or `num % den`, which nothing simplifies."""

    kind: str
    num: int | Dim
    den: int | Dim

    def __str__(self) -> str:
        return f"{_operand(self.num)} {'mod' if self.kind == '%' else '//'} {_operand(self.den)}"


def _operand(size: int | Dim) -> str:
    simple = isinstance(size, int) or size.symbol is not None
    return str(size) if simple else f"({size})"


_Atom = _Symbol | _Quotient
#: A product of atoms, each with its power, in the order of their text.
_Product = tuple[tuple[_Atom, int], ...]
_Terms = dict[_Product, int]


class Dim:
    """A symbolic size: a name with bounds, or an expression over such names.

    name: how texts and bindings call it. lo, hi: bounds, both included; hi None is no bound.
    Raises IRError for an empty name or bounds that hold no size.
    """

    __slots__ = ("_hash", "_terms", "_text")

    def __init__(self, name: str, lo: int = 0, hi: int | None = None) -> None:
        if not name:
            raise IRError("a symbolic dimension needs a name")
        if lo < 0 or (hi is not None and hi < lo):
            raise IRError(f"dimension {name!r} has bounds [{lo}, {hi}], which hold no size")
        self._set(((((_Symbol(name, lo, hi), 1),), 1),))

    def _set(self, terms: tuple[tuple[_Product, int], ...]) -> None:
        self._terms = terms
        self._hash = hash(terms)
        self._text = ""

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def symbol(self) -> str | None:
        """The name, where this is one symbol alone; else None."""
        if len(self._terms) == 1:
            product, coefficient = self._terms[0]
            if coefficient == 1 and len(product) == 1 and product[0][1] == 1 and isinstance(product[0][0], _Symbol):
                return product[0][0].name
        return None

    @property
    def symbols(self) -> tuple[Dim, ...]:
        """The symbols it is made of, by name, once each (twice where one name has two bounds)."""
        found: dict[_Symbol, None] = {}
        _collect(self, found)
        ordered = sorted(found, key=lambda s: (s.name, s.lo, -1 if s.hi is None else s.hi))
        return tuple(Dim(s.name, s.lo, s.hi) for s in ordered)

    @property
    def lo(self) -> int | None:
        """The least size it can have, as interval arithmetic finds it; None is no bound."""
        return _finite(_interval(self)[0])

    @property
    def hi(self) -> int | None:
        """The greatest size it can have, as interval arithmetic finds it; None is no bound."""
        return _finite(_interval(self)[1])

    def __str__(self) -> str:
        if not self._text:
            self._text = _print(self._terms)
        return self._text

    __repr__ = __str__

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore, (self._terms,))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self._terms == other._terms

    def __hash__(self) -> int:
        return self._hash

    # -- sizes -----------------------------------------------------------------------------------------------------

    def evaluate(self, bindings: Mapping[str, int]) -> int:
        """The size for `bindings` (name -> size).

        Raises IRError where a symbol is not bound, where its size is outside the bounds, or where the divisor of a
        quotient becomes zero.
        """
        size = self.substitute(bindings)
        if isinstance(size, Dim):
            missing = ", ".join(repr(d.symbol) for d in size.symbols)
            raise IRError(f"dimension '{self}' needs a size for {missing}")
        return size

    def substitute(self, bindings: Mapping[str, int | Dim]) -> int | Dim:
        """This size with some symbols replaced. Raises as `evaluate`, less unbound symbols."""
        total: int | Dim = 0
        for product, coefficient in self._terms:
            term: int | Dim = coefficient
            for atom, power in product:
                value = _substitute(atom, bindings)
                for _ in range(power):
                    term = term * value
            total = total + term
        return total

    # -- arithmetic ------------------------------------------------------------------------------------------------

    def __add__(self, other: int | Dim) -> int | Dim:
        return _combine(self, other, 1)

    __radd__ = __add__

    def __neg__(self) -> int | Dim:
        return _make({product: -c for product, c in self._terms})

    def __sub__(self, other: int | Dim) -> int | Dim:
        return _combine(self, other, -1)

    def __rsub__(self, other: int) -> int | Dim:
        return _combine(-self, other, 1)

    def __mul__(self, other: int | Dim) -> int | Dim:
        if not isinstance(other, int | Dim):
            return NotImplemented
        result: _Terms = {}
        for p, c in self._terms:
            for q, d in _terms(other).items():
                product = _multiply(p, q)
                result[product] = result.get(product, 0) + c * d
        return _make(result)

    __rmul__ = __mul__

    def __floordiv__(self, other: int | Dim) -> int | Dim:
        return _divide(self, other)[0] if isinstance(other, int | Dim) else NotImplemented

    def __rfloordiv__(self, other: int) -> int | Dim:
        return _divide(other, self)[0]

    def __mod__(self, other: int | Dim) -> int | Dim:
        return _divide(self, other)[1] if isinstance(other, int | Dim) else NotImplemented

    def __rmod__(self, other: int) -> int | Dim:
        return _divide(other, self)[1]

    # -- order -----------------------------------------------------------------------------------------------------

    def __le__(self, other: int | Dim) -> bool:
        return _ordered(other - self, 0, f"{self} <= {other}")

    def __lt__(self, other: int | Dim) -> bool:
        return _ordered(other - self, 1, f"{self} < {other}")

    def __ge__(self, other: int | Dim) -> bool:
        return _ordered(self - other, 0, f"{self} >= {other}")

    def __gt__(self, other: int | Dim) -> bool:
        return _ordered(self - other, 1, f"{self} > {other}")


def symbols_of(sizes: Iterable[object]) -> tuple[Dim, ...]:
    """All symbols in `sizes` (what is no Dim is passed over), sorted by name."""
    found = {symbol: None for size in sizes if isinstance(size, Dim) for symbol in size.symbols}
    return tuple(sorted(found, key=lambda d: (d.symbol or "", d.lo or 0)))


# -- canonical sums of products ------------------------------------------------------------------------------------


def _restore(terms: tuple[tuple[_Product, int], ...]) -> Dim:
    dim = Dim.__new__(Dim)
    dim._set(terms)
    return dim


def _order(product: _Product) -> tuple[int, tuple[str, ...]]:
    """Graded lexicographic: longer products first. Terms print in it, and long division ends because of it."""
    factors = tuple(str(atom) for atom, power in product for _ in range(power))
    return -len(factors), factors


def _make(terms: _Terms) -> int | Dim:
    kept = {product: c for product, c in terms.items() if c}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return _restore(tuple((p, kept[p]) for p in sorted(kept, key=_order)))


def _terms(size: int | Dim) -> _Terms:
    return dict(size._terms) if isinstance(size, Dim) else {(): int(size)}


def _multiply(p: _Product, q: _Product) -> _Product:
    powers = dict(p)
    for atom, power in q:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: str(item[0])))


def _combine(x: int | Dim, y: object, sign: int) -> int | Dim:
    if not isinstance(y, int | Dim):
        return NotImplemented
    result = _terms(x)
    for product, c in _terms(y).items():
        result[product] = result.get(product, 0) + sign * c
    return _make(result)


def _divide(num: int | Dim, den: int | Dim) -> tuple[int | Dim, int | Dim]:
    """Quotient and remainder, floored: exact where that can be seen, else with a quotient atom."""
    if isinstance(den, int):
        if den == 0:
            raise IRError(f"dimension '{num}' is divided by zero")
        return _divide_by_int(num, den)
    whole: _Terms = {}
    rest = num
    lead, lead_coefficient = den._terms[0]
    while isinstance(rest, Dim):
        # One step of long division: take out the first term that the divisor's leading term divides.
        for product, c in rest._terms:
            factor = _cancel(product, lead)
            if factor is not None and c % lead_coefficient == 0:
                whole[factor] = whole.get(factor, 0) + c // lead_coefficient
                rest = rest - _make({factor: c // lead_coefficient}) * den
                break
        else:
            break
    if rest == 0:
        return _make(whole), 0
    (lo, hi), (least, _) = _interval(rest), _interval(den)
    if lo >= 0 and hi < least:
        return _make(whole), rest
    return _make(whole) + _quotient("//", rest, den), _quotient("%", rest, den)


def _divide_by_int(num: int | Dim, den: int) -> tuple[int | Dim, int | Dim]:
    if isinstance(num, int):
        return num // den, num % den
    if den < 0:
        quotient, remainder = _divide_by_int(-num, -den)
        return quotient, -remainder
    whole = {p: c // den for p, c in num._terms}
    rest = {p: c % den for p, c in num._terms}
    left = _make(rest)
    lo, hi = _interval(left)
    if lo >= 0 and hi < den:
        return _make(whole), left
    # (g*a + g*q + s) / (g*d) with 0 <= s < g floors to (a + q) / d and leaves g * ((a + q) % d) + s.
    g = math.gcd(den, *(c for p, c in rest.items() if p != ()))
    inner = _make({p: c // g for p, c in rest.items()})
    part = rest.get((), 0) % g
    reduced = den // g
    if reduced == 1:
        return _make(whole) + inner, part
    return _make(whole) + _quotient("//", inner, reduced), g * _quotient("%", inner, reduced) + part


def _quotient(kind: str, num: int | Dim, den: int | Dim) -> Dim:
    return _restore(((((_Quotient(kind, num, den), 1),), 1),))


def _cancel(product: _Product, divisor: _Product) -> _Product | None:
    powers = dict(product)
    for atom, power in divisor:
        left = powers.get(atom, 0) - power
        if left < 0:
            return None
        powers[atom] = left
    return tuple((atom, power) for atom, power in powers.items() if power)


def _substitute(atom: _Atom, bindings: Mapping[str, int | Dim]) -> int | Dim:
    if isinstance(atom, _Symbol):
        value = bindings.get(atom.name)
        if value is None:
            return Dim(atom.name, atom.lo, atom.hi)
        if isinstance(value, int) and (value < atom.lo or (atom.hi is not None and value > atom.hi)):
            above = "" if atom.hi is None else f" and at most {atom.hi}"
            raise IRError(f"dimension '{atom}' cannot be {value}: it is at least {atom.lo}{above}")
        return value
    num = atom.num.substitute(bindings) if isinstance(atom.num, Dim) else atom.num
    den = atom.den.substitute(bindings) if isinstance(atom.den, Dim) else atom.den
    return _divide(num, den)[0 if atom.kind == "//" else 1]


def _collect(size: int | Dim, found: dict[_Symbol, None]) -> None:
    for product in _terms(size):
        for atom, _ in product:
            if isinstance(atom, _Symbol):
                found[atom] = None
            else:
                _collect(atom.num, found)
                _collect(atom.den, found)


# -- bounds --------------------------------------------------------------------------------------------------------


def _finite(bound: float) -> int | None:
    return None if math.isinf(bound) else int(bound)


def _interval(size: int | Dim) -> tuple[float, float]:
    """Bounds of a size, as ints or infinities: interval arithmetic over its terms."""
    if isinstance(size, int):
        return size, size
    lo: float = 0
    hi: float = 0
    for product, coefficient in size._terms:
        bounds: tuple[float, float] = (coefficient, coefficient)
        for atom, power in product:
            for _ in range(power):
                bounds = _span(_times(x, y) for x in bounds for y in _atom_interval(atom))
        lo, hi = lo + bounds[0], hi + bounds[1]
    return lo, hi


def _atom_interval(atom: _Atom) -> tuple[float, float]:
    if isinstance(atom, _Symbol):
        return atom.lo, math.inf if atom.hi is None else atom.hi
    num, den = _interval(atom.num), _interval(atom.den)
    den = (max(den[0], 1), den[1]) if den[0] >= 0 else den
    if den[0] < 0:
        return -math.inf, math.inf
    if atom.kind == "//":
        return _span(_floor(n, d) for n in num for d in den)
    return 0, min(den[1] - 1, num[1]) if num[0] >= 0 else den[1] - 1


def _span(corners: Iterable[float]) -> tuple[float, float]:
    values = list(corners)
    return min(values), max(values)


def _times(x: float, y: float) -> float:
    return 0 if x == 0 or y == 0 else x * y


def _floor(n: float, d: float) -> float:
    if math.isinf(n):
        return n
    if math.isinf(d):
        return 0 if n >= 0 else -1
    return n // d


def _ordered(difference: int | Dim, least: int, question: str) -> bool:
    """Whether `difference >= least` for every size. Raises IRError where the sizes decide."""
    lo, hi = _interval(difference)
    if lo >= least:
        return True
    if hi < least:
        return False
    raise IRError(
        f"whether {question} depends on the sizes",
        hint="give the dimension tighter bounds, or compile for fixed sizes",
    )


# -- text ----------------------------------------------------------------------------------------------------------


def _print(terms: tuple[tuple[_Product, int], ...]) -> str:
    """Positive terms first, the constant last."""
    text = ""
    for product, coefficient in sorted(terms, key=lambda term: (not term[0], term[1] < 0)):
        alone = coefficient in (1, -1) and len(product) == 1 and product[0][1] == 1 and len(terms) == 1
        factors = [
            f"({atom})" if isinstance(atom, _Quotient) and not (alone and coefficient == 1) else str(atom)
            for atom, power in product
            for _ in range(power)
        ]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        if text:
            text += " - " if coefficient < 0 else " + "
        elif coefficient < 0:
            text = "-"
        text += "*".join(factors)
    return text
