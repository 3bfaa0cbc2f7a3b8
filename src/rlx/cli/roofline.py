"""What `rlx bench --roofline` shows: kernels beside their limits, equal kernels as one line."""

from __future__ import annotations

from typing import Any

from rlx.cli.terminal import print_note, print_table, seconds
from rlx.runtime.roofline import KernelShare, Roofline

_SHOWN = 20


def print_roofline(roofline: Roofline) -> None:
    """A line a distinct kernel: launches, their time, what was lost to the limit, the share of it, the ops within."""
    alike: dict[str, list[KernelShare]] = {}
    for kernel in roofline.kernels:
        alike.setdefault(kernel.report.kernel, []).append(kernel)
    groups = sorted(alike.values(), key=lambda group: -sum(k.lost for k in group))
    rows = []
    for group in groups[:_SHOWN]:
        taken, least = sum(k.seconds for k in group), sum(k.least for k in group)
        first = group[0].report
        rows.append(
            (
                first.kernel,
                sum(k.launches for k in group),
                seconds(taken),
                seconds(sum(k.lost for k in group)),
                f"{least / taken:.0%}",
                group[0].bound,
                " ".join(first.ops),
            )
        )
    columns = ("kernel", ">launches", ">time", ">lost", ">of limit", "limit", "ops")
    print_table("kernels beside their limits, worst loss first", columns, rows)
    if len(groups) > _SHOWN:
        print_note(f"{len(groups) - _SHOWN} more kernels lose less; --json lists every launch")
    levels = "".join(f", {level.name} {level.read_bytes / 1e9:.0f} GB/s" for level in roofline.ceilings.levels)
    print_note(f"all kernels: {seconds(roofline.seconds)}, at their limits {seconds(roofline.least)}{levels}")


def roofline_document(roofline: Roofline) -> dict[str, Any]:
    """The same for machines, a row a launch."""
    return {
        "seconds": roofline.seconds,
        "least_seconds": roofline.least,
        "levels": [
            {"name": level.name, "capacity": level.capacity, "read_bytes": level.read_bytes}
            for level in roofline.ceilings.levels
        ],
        "kernels": [
            {
                "step": k.step,
                "kernel": k.report.kernel,
                "label": k.report.label,
                "ops": list(k.report.ops),
                "location": k.report.location,
                "launches": k.launches,
                "seconds": k.seconds,
                "least_seconds": k.least,
                "bound": k.bound,
            }
            for k in roofline.kernels
        ],
    }
