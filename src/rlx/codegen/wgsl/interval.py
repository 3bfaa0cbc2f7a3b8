"""Which i64 expressions fit into i32: interval arithmetic over loop indices, constants and what is made of them.

Kernel IR counts in i64, WGSL in i32. An expression is narrow when its value, and that of each of its parts, is known to
lie within i32: then it is computed there, exactly. What is loaded from memory, or kept in a mutable variable, is not
known, and is computed in i64.
"""

from __future__ import annotations

from collections.abc import Mapping

from rlx.codegen.kernel import Apply, Const, Expr, Load, Var
from rlx.ir.dtypes import i64

Interval = tuple[int, int]
_LEAST, _MOST = -(1 << 31), (1 << 31) - 1


def interval_of(e: Expr, variables: Mapping[str, Interval], memo: dict[int, Interval | None]) -> Interval | None:
    """The values that an i64 expression may take, where they are known to fit into i32; None otherwise.

    variables: intervals of variables, by name; those without one are unknown. memo: by identity, for this call's scope.
    """
    if e.dtype is not i64 or isinstance(e, Load):
        return None
    if isinstance(e, Const):
        value = int(e.value.real)
        return _fit((value, value))
    if isinstance(e, Var):
        return variables.get(e.name)
    if id(e) not in memo:
        memo[id(e)] = _fit(_apply(e, variables, memo))
    return memo[id(e)]


def _fit(interval: Interval | None) -> Interval | None:
    return interval if interval is not None and interval[0] >= _LEAST and interval[1] <= _MOST else None


def _apply(e: Apply, variables: Mapping[str, Interval], memo: dict[int, Interval | None]) -> Interval | None:
    if e.op == "convert":
        source = e.args[0].dtype
        if source.kind == "bool":
            return (0, 1)
        if source.is_integer and source.bits <= 32:
            half = 1 << (source.bits - 1)
            return (0, 2 * half - 1) if source.kind == "uint" else (-half, half - 1)
        return None
    operands = e.args[1:] if e.op == "select" else e.args
    known = [interval_of(a, variables, memo) for a in operands]
    if any(k is None for k in known):
        return None
    ranges = [k for k in known if k is not None]
    return _combine(e.op, ranges)


def _combine(op: str, ranges: list[Interval]) -> Interval | None:
    (a, b) = ranges[0]
    (c, d) = ranges[1] if len(ranges) > 1 else (0, 0)
    match op:
        case "add":
            return (a + c, b + d)
        case "sub":
            return (a - d, b - c)
        case "neg":
            return (-b, -a)
        case "mul":
            products = (a * c, a * d, b * c, b * d)
            return (min(products), max(products))
        case "div" if c > 0 and a >= 0:
            return (a // d, b // c)
        case "div" if c > 0:
            return (min(a, 0), max(b, 0))
        case "rem" if c == d and a >= 0 and a // c == b // c:
            return (a % c, b % c)
        case "rem" if c > 0:
            return (max(a, 1 - d) if a < 0 else 0, min(b, d - 1) if b > 0 else 0)
        case "min":
            return (min(a, c), min(b, d))
        case "max":
            return (max(a, c), max(b, d))
        case "select":
            return (min(a, c), max(b, d))
        case "clamp":
            low, (x, y), high = ranges
            return (min(max(low[0], x), high[0]), min(max(low[1], y), high[1]))
    return None
