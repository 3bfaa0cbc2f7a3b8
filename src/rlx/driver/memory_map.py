"""A memory plan as text: what is alive when the arena is fullest, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence

from rlx.driver.planner import Interval, MemoryPlan


def memory_map(plan: MemoryPlan, values: Sequence[Interval]) -> str:
    """The values alive at the step with the largest sum of sizes (the first of them), by offset, and the gaps between.

    values: those that were planned.
    """
    sized = [v for v in values if v.size]
    head = f"arena of {plan.size:,} bytes; lower bound {plan.lower_bound:,}; ratio {plan.ratio:.3f}"
    if not sized:
        return f"{head}\nno values"
    peak = max(sorted({v.start for v in sized}), key=lambda step: sum(v.size for v in sized if v.start <= step < v.end))
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
