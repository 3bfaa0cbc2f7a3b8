"""Pictures and pages that commands write beside their results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlx.errors import UsageError

SvgOption = Annotated[Path | None, typer.Option("--svg", help="Draw the memory plan into this .svg file.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write the whole report into this .html file.")]


def write_drawing(file: Path, document: str) -> None:
    """Write an SVG or HTML document. Raises UsageError where the file cannot be written."""
    try:
        file.write_text(document, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{str(file)!r} cannot be written: {error.strerror or error}") from None
