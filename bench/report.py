"""What was measured, as a page: medians, spread, ratios, and shares of the machine's ceilings."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

from interleave import Cell

from rlx.backends.cpu.host import cpu_name, supported_targets

_PACKAGES = ("rlx", "onnxruntime", "openvino", "torch", "jax", "numba", "numpy", "llvmlite")


@dataclass(frozen=True)
class Startup:
    """Medians in seconds: `import rlx`; load and compile with an empty cache, and from the cache; the first run.

    packing: of the warm load, giving the program its weights.
    """

    imports: float
    cold: float
    warm: float
    packing: float
    first_run: float


def write_report(cells: Sequence[Cell], startup: Startup | None, memory: str | None, *, rounds: int) -> str:
    """The page, in Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `make bench`; do not edit. Timings are of one machine, shared with others: trust ratios before times.",
        "",
        f"- {datetime.now(UTC):%Y-%m-%d}, {cpu_name()}, {os.cpu_count()} processors, {supported_targets()[0]}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        f"- {', '.join(_versions())}",
        f"- Load average at the end: {os.getloadavg()[0]:.1f}; alone, the measurements make at most the threads.",
        f"- Each time is the median over {rounds} processes of the median run in each; the spread is the least and the "
        "greatest of these medians. Systems took turns. All compute in f32 where a title does not name another dtype; "
        "answers were compared before timing.",
        "- *to RLX*: the system's time over RLX's; above 1 means that RLX is faster.",
        "- *of limit*: the least time that the arithmetic or the bytes need at the ceilings measured beside it, "
        "whichever is longer, as a share of the time taken.",
        "",
        "| workload | threads | RLX ms | best peer | its ms | RLX / peer | of limit |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for cell in cells:
        own = cell.median("RLX")
        lines.append(
            f"| {cell.workload.title} | {cell.threads} | {_ms(own)} | {cell.best_peer} "
            f"| {_ms(cell.median(cell.best_peer))} | **{cell.ratio:.2f}** | {_least(cell) / own:.0%} |"
        )
    for cell in cells:
        lines += ["", *_table(cell)]
    if startup is not None:
        lines += [
            "",
            "## Starting",
            "",
            "| MiniLM (1, 128), every thread | seconds |",
            "| --- | ---: |",
            f"| `import rlx` | {startup.imports:.3f} |",
            f"| load and compile, empty cache | {startup.cold:.2f} |",
            f"| load and compile, second process | {startup.warm:.3f} |",
            f"| of these, packing the weights | {startup.packing:.3f} |",
            f"| first run of the second process | {startup.first_run:.4f} |",
        ]
    if memory is not None:
        lines += [
            "",
            "## Memory",
            "",
            "Above what importing takes: the peak of loading up to the first answer, and of the runs after it. "
            "*planned* is what RLX's plan says beforehand.",
            memory.rstrip(),
        ]
    return "\n".join([*lines, ""])


def _table(cell: Cell) -> list[str]:
    work, own = cell.workload, cell.median("RLX")
    plural = "s" if cell.threads > 1 else ""
    lines = [
        f"## {work.title}, {cell.threads} thread{plural}",
        "",
        f"Ceilings: {cell.ceilings.arithmetic(work.factors) / 1e9:.0f} GFLOP/s {work.factors}, "
        f"{_byte_rate(cell) / 1e9:.1f} GB/s {'copied' if work.streams else 'read'}. Work: "
        f"{work.flops / 1e9:.3g} GFLOP, {work.nbytes / 1e6:.3g} MB; at the limit {_ms(_least(cell))} ms. Answers agree "
        f"within {max(cell.differences.values()):.1g}.",
        "",
        "| system | median ms | spread ms | to RLX | of limit |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for system, taken in cell.samples.items():
        median = cell.median(system)
        lines.append(
            f"| {system} | {_ms(median)} | {_ms(min(taken))} to {_ms(max(taken))} "
            f"| {median / own:.2f} | {_least(cell) / median:.0%} |"
        )
    lines += [f"| {system} | not measured: {why} | | | |" for system, why in cell.missing.items()]
    return [*lines, "", work.note] if work.note else lines


def _least(cell: Cell) -> float:
    work, ceilings = cell.workload, cell.ceilings
    return max(work.flops / ceilings.arithmetic(work.factors), work.nbytes / _byte_rate(cell))


def _byte_rate(cell: Cell) -> float:
    ceilings = cell.ceilings
    if cell.workload.streams and ceilings.copy_bytes:
        return ceilings.copy_bytes
    return ceilings.rate(cell.workload.nbytes)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"


def _versions() -> list[str]:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return found
