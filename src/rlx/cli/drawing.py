"""Pictures and pages that commands write beside their results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlx.errors import UsageError

SvgOption = Annotated[Path | None, typer.Option("--svg", help="Draw the memory plan into this .svg file.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write the whole report into this .html file.")]
#: A file of such a name would not open as what it is.
_OTHER_KINDS = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf"}


def write_drawing(file: Path, document: str) -> None:
    """Write an SVG or HTML document. Raises UsageError where the file cannot be written, or is named as a picture of
    another kind.
    """
    if file.suffix.lower() in _OTHER_KINDS:
        raise UsageError(f"{str(file)!r} is named as another kind of file", hint="pictures are SVG: name it .svg")
    try:
        file.write_text(document, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{str(file)!r} cannot be written: {error.strerror or error}") from None
