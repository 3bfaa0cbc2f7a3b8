"""A memory plan for people: what is alive when the arena is fullest, as text, and the whole plan as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from rlx.driver.memory_plan import Interval, MemoryPlan


def memory_map(plan: MemoryPlan, values: Sequence[Interval]) -> str:
    """The values alive at the step with the largest sum of sizes (the first of them), by offset, and the gaps between.

    values: those that were planned.
    """
    sized = [v for v in values if v.size]
    head = _head(plan)
    if not sized:
        return f"{head}\nno values"
    peak = _peak(sized)
    alive = sorted((v for v in sized if v.start <= peak < v.end), key=lambda v: plan.offsets[v.name])
    lines = [
        head,
        f"peak at step {peak}: {len(alive)} of {len(values)} values alive, {sum(v.size for v in alive):,} bytes",
        f"{'offset':>14} {'bytes':>14} {'share':>6}  {'alive':<12} value",
    ]

    def row(offset: int, size: int, life: str, name: str) -> str:
        return f"{offset:>14,} {size:>14,} {size / plan.size:>6.1%}  {life:<12} {name}"

    end = 0
    for value in alive:
        offset = plan.offsets[value.name]
        if offset - end >= plan.alignment:
            lines.append(row(end, offset - end, "", "(free)"))
        lines.append(row(offset, value.size, f"{value.start}..{value.end}", value.name))
        end = offset + value.size
    if plan.size - end >= plan.alignment:
        lines.append(row(end, plan.size - end, "", "(free)"))
    return "\n".join(lines)


#: The picture in pixels: of the whole, and of the margins around the arena.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 640, 110, 20, 50, 40
_STYLE = (
    "text{font:13px sans-serif;fill:#333}rect.arena{fill:#f4f4f4;stroke:#999}rect.value{fill:#9db8d2;stroke:#fff}"
    "rect.peak{fill:#d9822b;stroke:#fff}line{stroke:#a00;stroke-dasharray:4 3}"
)


def memory_map_svg(plan: MemoryPlan, values: Sequence[Interval]) -> str:
    """The plan as an SVG document: steps to the right, addresses upward, a rectangle a value.

    values: those that were planned. A rectangle's title, which browsers show under the pointer, says name, bytes,
    offset and life. Values alive at the peak (as in `memory_map`) have the class `peak`; a dashed line stands there.
    """
    sized = [v for v in values if v.size]
    first = min((v.start for v in sized), default=0)
    steps = max((v.end for v in sized), default=1) - first
    across = (_WIDTH - _LEFT - _RIGHT) / steps
    up = (_HEIGHT - _TOP - _BOTTOM) / max(plan.size, 1)

    def box(kind: str, start: int, end: int, offset: int, size: int, title: str) -> str:
        x, y = _LEFT + (start - first) * across, _HEIGHT - _BOTTOM - (offset + size) * up
        place = f'x="{x:.2f}" y="{y:.2f}" width="{(end - start) * across:.2f}" height="{size * up:.2f}"'
        return f'<rect class="{kind}" {place}><title>{_text(title)}</title></rect>'

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        f"<style>{_STYLE}</style>",
        f'<text x="{_LEFT}" y="20">{_head(plan)}</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 14}">step {first}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 14}" text-anchor="end">step {first + steps}</text>',
        f'<text x="{_LEFT - 8}" y="{_HEIGHT - _BOTTOM}" text-anchor="end">0</text>',
        f'<text x="{_LEFT - 8}" y="{_TOP + 10}" text-anchor="end">{plan.size:,}</text>',
        box("arena", first, first + steps, 0, plan.size, "the arena"),
    ]
    if sized:
        peak = _peak(sized)
        alive = [v for v in sized if v.start <= peak < v.end]
        for v in sized:
            offset = plan.offsets[v.name]
            title = f"{v.name}: {v.size:,} bytes at {offset:,}, alive in steps {v.start}..{v.end}"
            kind = "value peak" if v.start <= peak < v.end else "value"
            lines.append(box(kind, v.start, v.end, offset, v.size, title))
        x = _LEFT + (peak + 0.5 - first) * across
        lines += [
            f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{_TOP - 4}" y2="{_HEIGHT - _BOTTOM}"/>',
            f'<text x="{_LEFT}" y="38">peak at step {peak}: {len(alive)} of {len(values)} values alive, '
            f"{sum(v.size for v in alive):,} bytes</text>",
        ]
    return "\n".join([*lines, "</svg>", ""])


def _text(name: str) -> str:
    """Escaped, and without the control characters that XML forbids."""
    return escape("".join(c if c.isprintable() else "?" for c in name))


def _head(plan: MemoryPlan) -> str:
    return f"arena of {plan.size:,} bytes; lower bound {plan.lower_bound:,}; ratio {plan.ratio:.3f}"


def _peak(sized: Sequence[Interval]) -> int:
    """The first step at which the sum of sizes is largest."""
    return max(sorted({v.start for v in sized}), key=lambda step: sum(v.size for v in sized if v.start <= step < v.end))
