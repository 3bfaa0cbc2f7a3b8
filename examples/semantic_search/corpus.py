"""The text that the demo searches: this project's own documentation, in passages of a few sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Words a passage should reach before the next paragraph starts a new one.
_ENOUGH = 30


@dataclass(frozen=True)
class Passage:
    """A piece of a file: where it begins, under which heading, and its text on one line."""

    file: str
    line: int
    heading: str
    text: str

    @property
    def content(self) -> str:
        """What is embedded: the text with its heading, which says what it is about."""
        return f"{self.heading}: {self.text}" if self.heading else self.text


def read_passages(root: Path) -> list[Passage]:
    """All passages of the Markdown files in `root` and `root`/docs, and of the modules' own first words."""
    passages: list[Passage] = []
    for path in sorted([*root.glob("*.md"), *(root / "docs").glob("*.md")]):
        passages += _markdown(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
    for path in sorted((root / "src").rglob("*.py")):
        passages += _docstring(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
    return passages


def _markdown(file: str, text: str) -> Iterator[Passage]:
    """Paragraphs and items under one heading, joined until they hold enough words; code and tables are left out."""
    heading, gathered, start, fenced = "", [], 0, False
    for number, line in enumerate([*text.splitlines(), "# "], 1):
        if line.startswith("```"):
            fenced = not fenced
            continue
        title = re.match(r"#+ (.*)", line)
        boundary = not line.strip() or line.startswith("- ")
        full = boundary and len(" ".join(gathered).split()) >= _ENOUGH
        if gathered and not fenced and (title or full):
            yield Passage(file, start, heading, _plain(" ".join(gathered)))
            gathered = []
        if title and not fenced:
            heading = _plain(title[1])
        elif line.strip() and not fenced and not line.startswith(("|", "    ", "<")):
            start = start if gathered else number
            gathered.append(line.strip())


def _docstring(file: str, text: str) -> Iterator[Passage]:
    """The paragraphs of a module's docstring, joined until they hold enough words."""
    found = re.match(r'(?:#.*\n)*"""(.*?)"""', text, re.DOTALL)
    if found is None:
        return
    heading = file.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    gathered: list[str] = []
    for paragraph in found[1].split("\n\n"):
        gathered.append(_plain(" ".join(paragraph.split())))
        if len(" ".join(gathered).split()) >= _ENOUGH:
            yield Passage(file, 1, heading, " ".join(gathered))
            gathered = []
    if gathered:
        yield Passage(file, 1, heading, " ".join(gathered))


def _plain(text: str) -> str:
    """Markdown without its marks."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").replace("**", "")
