"""What `rlx` writes: tables for people on a terminal, one JSON document for machines.

Results go to standard output; progress, notes and errors to standard error, so that a pipe carries results alone. With
`--json` standard output holds exactly one document, `{"error": ...}` where the command fails.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rlx.errors import RLXError

#: Seconds that work may take before a progress bar appears.
PATIENCE = 1.0
_FILE_WIDTH = 200


def results() -> Console:
    """Where results go. Made anew, so that a redirected standard output is honoured; a file gets long lines."""
    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    return console


def notes() -> Console:
    """Where everything else goes."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document. Numbers that JSON cannot hold (NaN, infinities) become null."""
    print(json.dumps(_finite(document), indent=2, ensure_ascii=False))  # noqa: T201  # this is the command's output


def print_error(error: RLXError, *, as_json: bool) -> None:
    """The error without a traceback: class and code, then where and what to do."""
    if as_json:
        parts = {"type": type(error).__name__, "code": error.code, "message": error.message}
        print_json({"error": {**parts, "where": error.where, "hint": error.hint}})
        return
    console = notes()
    console.print(f"[bold red]{type(error).__name__}[/] [dim]\\[{error.code}][/]: {escape(error.message)}")
    if error.where:
        console.print(f"  [dim]{escape(error.where)}[/]")
    if error.hint:
        console.print(f"  {escape(error.hint)}")


def print_note(text: str) -> None:
    """A remark that is no part of the result."""
    notes().print(f"[dim]{escape(text)}[/]")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table with a title. Columns whose name begins with '>' are right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    results().print(table)
    results().print()


@contextmanager
def progress(what: str) -> Iterator[None]:
    """A bar on standard error while the body runs, once that has taken over a second; none where nobody watches."""
    console = notes()
    if not console.is_terminal:
        yield
        return
    bar = Progress(TextColumn(what), BarColumn(), TimeElapsedColumn(), console=console, transient=True)
    bar.add_task(what, total=None)
    timer = threading.Timer(PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


def seconds(value: float) -> str:
    """A duration with three figures and the unit that fits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def size(value: float) -> str:
    """A number of bytes with three figures and the unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def count(value: float) -> str:
    """A whole number with separators."""
    return f"{int(value):,}"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
