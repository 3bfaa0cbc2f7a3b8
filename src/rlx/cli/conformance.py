"""`rlx conformance`: is a device what a device promises to be? The score as a table, one JSON document, or a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlx.cli.exit_codes import ExitCode
from rlx.cli.program import DeviceOption, JsonOption
from rlx.cli.terminal import print_json, print_note, print_table, progress, seconds
from rlx.driver import Device
from rlx.errors import UsageError
from rlx.testing.conformance import Result, Score, conform, score_page

SuiteOption = Annotated[
    list[str] | None, typer.Option("--suite", metavar="NAME", help="Run this suite alone. Repeatable.")
]
FullOption = Annotated[bool, typer.Option("--full", help="Numerics of every op, dtype and sample, not of a few.")]
WriteOption = Annotated[
    Path | None, typer.Option("--write", metavar="FILE.md", help="Write the score as a Markdown page too.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of all content and of the random queue graphs.")]


def conformance(
    device: DeviceOption = "cpu",
    suite: SuiteOption = None,
    full: FullOption = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    write: WriteOption = None,
) -> None:
    """Run the conformance kit on a device. Ends with 1 where the device does not conform."""
    with progress("conformance"):
        score = conform(Device(device), suites=suite or (), full=full, seed=seed)
    if write is not None:
        _write(write, score_page(score))
    if as_json:
        print_json(score.document())
    else:
        _print_score(score)
    if not score.conforms:
        raise typer.Exit(ExitCode.FAILED)


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the page {str(path)!r}: {error.strerror}") from error


def _print_score(score: Score) -> None:
    def row(name: str, suite: str | None, of: list[Result]) -> tuple[object, ...]:
        counts = (
            score.count("passed", suite),
            score.count("failed", suite),
            score.count("expected failure", suite),
            score.count("unsupported", suite),
        )
        return (name, *counts, seconds(sum(r.seconds for r in of)))

    rows = [row(s, s, [r for r in score.results if r.suite == s]) for s in score.suites]
    rows.append(row("all", None, list(score.results)))
    columns = ("suite", ">passed", ">failed", ">expected failures", ">unsupported", ">time")
    print_table(f"conformance of {score.device} ({score.name})", columns, rows)
    for status, title in (
        ("failed", "failed"),
        ("expected failure", "expected failures"),
        ("unsupported", "unsupported"),
    ):
        found = [(r.id, r.message) for r in score.results if r.status == status]
        if found:
            print_table(title, ("case", "why"), found)
    for pattern in score.stale:
        print_note(f"the backend's lists name {pattern!r}, which no case matches")
    print_note(f"{score.device} conforms" if score.conforms else f"{score.device} does not conform")
