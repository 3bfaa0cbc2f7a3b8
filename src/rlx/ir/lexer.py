"""Tokens of the text form, each with the line and column it began at.

Shared by the graph parser (`rlx.ir.text`) and the size parser (`rlx.ir.dim`). Blanks and line ends separate tokens and
mean nothing else; a comment runs from `;` to the end of its line. Every complaint is a TextError that carries the
line, the column and the line's text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal, NoReturn

from rlx.errors import TextError

Kind = Literal["name", "string", "value", "int", "float", "punct", "end"]

_TOKEN = re.compile(
    r"""
    (?P<blank>[ \t\r\n]+|;[^\n]*)
  | (?P<value>%(?:[A-Za-z0-9_.]+|"(?:[^"\\\n]|\\.)*")(?:\#[0-9]+)?)
  | (?P<float>[0-9]+\.[0-9]*(?:e[+-]?[0-9]+)?|[0-9]+e[+-]?[0-9]+)
  | (?P<int>0x[0-9a-f]+|[0-9]+)
  | (?P<name>[A-Za-z_][A-Za-z0-9_.]*)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<punct>//|->|[-+*%(){}\[\],:=])
    """,
    re.VERBOSE,
)

#: What prints without quotes.
PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def quote(text: str) -> str:
    """`text` as a string token; ASCII alone, so that any encoding of the file carries it."""
    return json.dumps(text)


def unquote(token: str) -> str:
    """The text of a string token. Raises ValueError for a bad escape."""
    return json.loads(token)


def name_or_quote(name: str) -> str:
    """`name` as it prints: bare where it is a plain name, else quoted."""
    return name if PLAIN_NAME.fullmatch(name) else quote(name)


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its kind, its text as written, and where it began (offset in characters)."""

    kind: Kind
    text: str
    offset: int


class Tokens:
    """A cursor over the tokens of one text. `origin` is the file's name, for messages."""

    def __init__(self, text: str, origin: str = "") -> None:
        self._text = text
        self._origin = origin
        self._next = self._scan(0)

    def peek(self) -> Token:
        """The next token, not taken; kind "end" at the end of the text."""
        return self._next

    def take(self) -> Token:
        """The next token, taken."""
        token = self._next
        if token.kind != "end":
            self._next = self._scan(token.offset + len(token.text))
        return token

    def accept(self, text: str) -> bool:
        """Take the next token where it is the punctuation or name `text`."""
        if self._next.text == text and self._next.kind in ("punct", "name"):
            self.take()
            return True
        return False

    def expect(self, text: str, what: str = "") -> Token:
        """Take the punctuation or name `text`. Raises TextError where something else stands there."""
        token = self._next
        if token.text != text or token.kind not in ("punct", "name"):
            self.fail(f"expected {text!r}{f' {what}' if what else ''}, found {self.describe(token)}")
        return self.take()

    def expect_kind(self, kind: Kind, what: str) -> Token:
        """Take a token of `kind`. Raises TextError where another stands there."""
        if self._next.kind != kind:
            self.fail(f"expected {what}, found {self.describe(self._next)}")
        return self.take()

    def word(self, what: str) -> str:
        """Take a plain or quoted name."""
        if self._next.kind == "string":
            return self.string(what)
        return self.expect_kind("name", what).text

    def string(self, what: str) -> str:
        """Take a string token, unquoted."""
        token = self.expect_kind("string", what)
        try:
            return unquote(token.text)
        except ValueError:
            self.fail("bad escape in a string", token)

    @staticmethod
    def describe(token: Token) -> str:
        if token.kind == "end":
            return "the end of the text"
        return repr(token.text if len(token.text) <= 40 else token.text[:37] + "...")

    def fail(self, message: str, token: Token | None = None, hint: str | None = None) -> NoReturn:
        """Raise TextError at `token` (default: the next one)."""
        offset = (token or self._next).offset
        self._fail_at(message, offset, hint)

    def place(self, token: Token) -> tuple[int, int]:
        """1-based line and column of a token."""
        before = self._text[: token.offset]
        return before.count("\n") + 1, token.offset - (before.rfind("\n") + 1) + 1

    def _fail_at(self, message: str, offset: int, hint: str | None) -> NoReturn:
        line, column = self.place(Token("end", "", offset))
        text = self._text.split("\n")[line - 1].rstrip("\r")
        shown = text if len(text) <= 160 else text[:157] + "..."
        origin = f"{self._origin}, " if self._origin else ""
        pointer = f"\n  {' ' * (column - 1)}^" if column <= 160 else ""
        raise TextError(f"{origin}line {line}, column {column}: {message}", where=f"{shown}{pointer}", hint=hint)

    def _scan(self, offset: int) -> Token:
        while offset < len(self._text):
            match = _TOKEN.match(self._text, offset)
            if match is None:
                self._fail_at(f"unexpected character {self._text[offset]!r}", offset, None)
            if match.lastgroup != "blank":
                return Token(match.lastgroup, match.group(), offset)  # type: ignore[arg-type]  # the pattern's groups
            offset = match.end()
        return Token("end", "", len(self._text))
