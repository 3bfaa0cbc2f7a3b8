"""A compiled program as one HTML page, complete in itself: no script, no network, pictures inline.

What it runs on, the memory plan as a picture, how composites were compiled, every launch with the ops fused into it;
and where it was measured, the roofline and each launch's share of its own limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from rlx.runtime.report import Report
from rlx.runtime.roofline import Roofline
from rlx.runtime.roofline_chart import roofline_svg

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.2em 0.7em; border-bottom: 1px solid #ddd; vertical-align: top; }
th { position: sticky; top: 0; background: #fff; }
td.number, th.number { text-align: right; white-space: nowrap; }
svg { max-width: 100%; height: auto; border: 1px solid #ddd; }
"""


def report_page(title: str, report: Report, roofline: Roofline | None = None) -> str:
    """The page. title: the model's name, as its reader knows it."""
    memory = report.memory
    facts = [
        ("launches", f"{len(report.steps)} of {len({s.kernel for s in report.steps})} distinct kernels"),
        ("setup", f"{len(report.setup)} launches, when weights are bound"),
        ("arena", f"{memory.arena_bytes:,} bytes, {memory.ratio:.3f} times the lower bound"),
        ("persistent", f"{memory.persistent_bytes:,} bytes"),
        ("scratch", f"{memory.scratch_bytes:,} bytes, all threads"),
        ("artefact", f"{report.cache}, in {report.seconds:.3f} s"),
    ]
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head>',
        f"<body><h1>{escape(title)}</h1>",
        _table(("", ""), facts),
    ]
    if roofline is not None:
        parts += [
            "<h2>Kernels beside their limits</h2>",
            f"<p>All launches take {roofline.seconds * 1e3:.3f} ms; at their limits they would take "
            f"{roofline.least * 1e3:.3f} ms. The launch with most time to win stands first.</p>",
            roofline_svg(roofline),
            _table(("step", "kernel", "µs", "lost µs", "of limit", "limit", "ops", "from"), _shares(roofline)),
        ]
    if memory.map:
        parts += ["<h2>Memory</h2>", memory.svg()]
    ways = Counter((op, way) for op, _, way in report.dispatch)
    if ways:
        rows = [(op, way, count) for (op, way), count in sorted(ways.items())]
        parts += ["<h2>Composites</h2>", _table(("op", "compiled", "times"), rows)]
    launches = [
        (i, s.kernel, s.label, f"{s.flops:,.0f}", f"{s.bytes:,.0f}", " ".join(s.ops), s.location)
        for i, s in enumerate(report.steps)
    ]
    columns = ("step", "kernel", "label", "operations", "bytes", "ops", "from")
    parts += ["<h2>Launches</h2>", _table(columns, launches), "</body></html>", ""]
    return "\n".join(parts)


def _shares(roofline: Roofline) -> Iterable[Sequence[object]]:
    for k in roofline.kernels:
        times = f"{k.seconds * 1e6:.1f}", f"{k.lost * 1e6:.1f}", f"{k.share:.0%}"
        yield (k.step, k.report.kernel, *times, k.bound, " ".join(k.report.ops), k.report.location)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Cells that begin with a digit stand to the right."""
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    lines = ["<table>", *([f"<tr>{head}</tr>"] if any(columns) else [])]
    for row in rows:
        texts = [escape(str(cell)) for cell in row]
        cells = "".join(f'<td class="number">{t}</td>' if t[:1].isdigit() else f"<td>{t}</td>" for t in texts)
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</table>"])
