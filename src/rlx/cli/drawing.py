"""Drawings that commands write beside their results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlx.errors import UsageError

SvgOption = Annotated[Path | None, typer.Option("--svg", help="Draw the memory plan into this .svg file.")]


def write_drawing(file: Path, svg: str) -> None:
    """Write an SVG document. Raises UsageError where the file cannot be written."""
    try:
        file.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{str(file)!r} cannot be written: {error.strerror or error}") from None
