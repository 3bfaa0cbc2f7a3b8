"""A score as a page in Markdown: what was held, suite by suite and dtype by dtype, and every reason given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rlx.testing.conformance.kit import Result, Score
from rlx.version import __version__

_COLUMNS = ("passed", "failed", "expected failure", "unsupported")


def score_page(score: Score) -> str:
    """The page. It says how to make it again."""
    verdict = "conforms" if score.conforms else "does not conform"
    again = f"rlx conformance --device {score.device}{' --full' if score.full else ''} --seed {score.seed}"
    parts = [
        f"# Conformance of `{score.device}`",
        f"**{score.device} {verdict}**: {score.name}, RLX {__version__}, {len(score.results)} cases, "
        f"{sum(r.seconds for r in score.results):.0f} s.",
        f"Made by `{again} --write FILE.md`.",
        _table("suite", [(name, [r for r in score.results if r.suite == name]) for name in score.suites], total=True),
    ]
    dtypes = _by_dtype(score.results)
    if dtypes:
        parts += [
            "## Numerics by dtype",
            "The dtype of an op's first operand, and the f64 or complex numbers that the op's samples also have.",
            _table("dtype", dtypes),
        ]
    for status, title in (
        ("failed", "Failed"),
        ("expected failure", "Expected failures"),
        ("unsupported", "Unsupported"),
    ):
        found = [r for r in score.results if r.status == status]
        if found:
            parts += [f"## {title}", _reasons(found)]
    if score.stale:
        parts += ["## Lines of the backend's lists that match no case", "\n".join(f"- `{p}`" for p in score.stale)]
    return "\n\n".join(parts) + "\n"


def _table(what: str, rows: Sequence[tuple[str, list[Result]]], *, total: bool = False) -> str:
    if total:
        rows = [*rows, ("all", [r for _, results in rows for r in results])]
    lines = [f"| {what} | {' | '.join(_COLUMNS)} | time |", f"| --- |{' ---: |' * (len(_COLUMNS) + 1)}"]
    for name, results in rows:
        counts = [sum(r.status == status for r in results) for status in _COLUMNS]
        seconds = sum(r.seconds for r in results)
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {seconds:.2f} s |")
    return "\n".join(lines)


def _by_dtype(results: Iterable[Result]) -> list[tuple[str, list[Result]]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        match = re.fullmatch(r"numerics/.*\[([\w,]+)\]", result.id)
        if match:
            found.setdefault(match[1], []).append(result)
    return sorted(found.items())


def _reasons(results: Iterable[Result]) -> str:
    """Each reason once, with the cases that have it."""
    found: dict[str, list[str]] = {}
    for result in results:
        found.setdefault(" ".join(result.message.split()), []).append(result.id)
    return "\n".join(f"- {reason}: {', '.join(f'`{id}`' for id in ids)}" for reason, ids in found.items())
