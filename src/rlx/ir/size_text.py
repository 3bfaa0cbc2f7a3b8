"""Sizes in the text form, read: `batch`, `2*seq + 1`, `(seq + 1) // 2`, `seq mod 4`."""

from __future__ import annotations

from collections.abc import Mapping

from rlx.ir.dim import Dim
from rlx.ir.lexer import Tokens, name_or_quote


def parse_size(tokens: Tokens, symbols: Mapping[str, Dim]) -> int | Dim:
    """Read one size expression from `tokens`. Raises TextError for bad syntax or a symbol not in `symbols`."""
    total = _parse_product(tokens, symbols)
    while tokens.peek().text in ("+", "-"):
        if tokens.take().text == "+":
            total = total + _parse_product(tokens, symbols)
        else:
            total = total - _parse_product(tokens, symbols)
    return total


def parse_dim(text: str, symbols: Mapping[str, Dim]) -> int | Dim:
    """The size that `str` printed as `text`. Raises TextError, as `parse_size`, also where text is left over."""
    tokens = Tokens(text)
    size = parse_size(tokens, symbols)
    if tokens.peek().kind != "end":
        tokens.fail(f"expected the end of the size, found {tokens.describe(tokens.peek())}")
    return size


def _parse_product(tokens: Tokens, symbols: Mapping[str, Dim]) -> int | Dim:
    size = _parse_factor(tokens, symbols)
    while True:
        if tokens.accept("*"):
            size = size * _parse_factor(tokens, symbols)
        elif tokens.peek().text in ("//", "mod"):
            by_mod = tokens.take().text == "mod"
            at = tokens.peek()
            divisor = _parse_factor(tokens, symbols)
            if divisor == 0:
                tokens.fail("a size is divided by zero", at)
            size = size % divisor if by_mod else size // divisor
        else:
            return size


def _parse_factor(tokens: Tokens, symbols: Mapping[str, Dim]) -> int | Dim:
    token = tokens.peek()
    if token.kind == "int":
        return int(tokens.take().text, 0)
    if tokens.accept("-"):
        return -_parse_factor(tokens, symbols)
    if tokens.accept("("):
        size = parse_size(tokens, symbols)
        tokens.expect(")")
        return size
    name = tokens.word("a size")
    if name not in symbols:
        tokens.fail(f"no dimension is named {name!r}", token, hint="declare it: dim " + name_or_quote(name))
    return symbols[name]
