"""What was measured, as a page: medians, spread, fastest runs, ratios, and shares of the machine's ceilings."""

from __future__ import annotations

from collections.abc import Sequence

from cell import Cell
from interleave import DISTURBED, UNSTEADY
from results import Results
from workload import Workload


def write_report(results: Results, workloads: Sequence[Workload]) -> str:
    """The page, in Markdown: the workloads' cells in this order, as far as they were measured."""
    cells = [
        (workload, results.cells[workload.name, threads])
        for workload in workloads
        for threads in workload.threads
        if (workload.name, threads) in results.cells
    ]
    lines = [
        "# Benchmarks",
        "",
        "Made by `make bench`; do not edit. Timings are of one machine, shared with others: trust ratios before times.",
        "",
        *_taken([cell for _, cell in cells]),
        "- Each time is the median over several processes of the median run in each; the spread is the least and the "
        f"greatest of these medians. Systems took turns. A process beside which other work took more than {DISTURBED} "
        "of a processor was run again, and the least disturbed run counts; rounds were added while RLX's processes, or "
        f"the best peer's, lay more than {UNSTEADY:.0%} apart. All compute in f32 where a title does not name another "
        "dtype; answers were compared before timing.",
        "- *fastest*: the same from the fastest run of each system, which other guests of the machine disturb least.",
        "- *to RLX*: the system's time over RLX's; above 1 means that RLX is faster.",
        "- *of limit*: the least time that the arithmetic or the bytes need at the best ceilings measured in the same "
        "rounds, whichever is longer, as a share of the time taken.",
        "",
        "| workload | threads | RLX ms | best peer | its ms | RLX / peer | fastest | of limit | fastest |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for workload, cell in cells:
        least = _least(workload, cell)
        lines.append(
            f"| {workload.title} | {cell.threads} | {_ms(cell.median('RLX'))} | {cell.best_peer} "
            f"| {_ms(cell.median(cell.best_peer))} | **{cell.ratio:.2f}** | {cell.fastest_ratio:.2f} "
            f"| {least / cell.median('RLX'):.0%} | {least / cell.fastest('RLX'):.0%} |"
        )
    for workload, cell in cells:
        lines += ["", *_table(workload, cell)]
    if results.startup is not None:
        lines += [
            "",
            "## Starting",
            "",
            "*pack* is the part of *compile* in which a program gets its weights; *ready* is load and compile without "
            "it.",
            results.startup.rstrip(),
        ]
    if results.memory is not None:
        lines += [
            "",
            "## Memory",
            "",
            "Above what importing takes: the peak of loading up to the first answer, and of the runs after it. "
            "*planned* is what RLX's plan says beforehand. RLX imports its compiler when it first compiles, peers all "
            "that they have at once: *in all* compares whole processes.",
            results.memory.rstrip(),
        ]
    return "\n".join([*lines, ""])


def _taken(cells: Sequence[Cell]) -> list[str]:
    """When and of what; a revision for each group of cells, the most recent last."""
    days = sorted({day for cell in cells for day in cell.dates})
    machines = dict.fromkeys(f"- {cell.taken['machine']}\n- {cell.taken['versions']}" for cell in cells)
    revisions = dict.fromkeys(cell.taken["revision"] for cell in cells)
    return [
        *machines,
        f"- Measured {' to '.join(dict.fromkeys([days[0], days[-1]])) if days else 'nothing'}; RLX's code as of "
        f"{' and '.join(revisions)}.",
    ]


def _table(work: Workload, cell: Cell) -> list[str]:
    own, least = cell.median("RLX"), _least(work, cell)
    plural = "s" if cell.threads > 1 else ""
    lines = [
        f"## {work.title}, {cell.threads} thread{plural}",
        "",
        f"Ceilings: {cell.best_ceilings.arithmetic(work.factors) / 1e9:.0f} GFLOP/s {work.factors}, "
        f"{_byte_rate(work, cell) / 1e9:.1f} GB/s {'copied' if work.streams else 'read'}. Work: {work.flops / 1e9:.3g} "
        f"GFLOP, {work.nbytes / 1e6:.3g} MB; at the limit {_ms(least)} ms. Answers agree within "
        f"{max(cell.differences.values()):.1g}. Processes a system: {len(cell.samples['RLX'])}; beside the most "
        f"disturbed one, other work took {cell.others:.2f} of a processor.",
        "",
        "| system | median ms | spread ms | fastest ms | to RLX | of limit |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for system, samples in cell.samples.items():
        median, medians = cell.median(system), [sample.median for sample in samples]
        lines.append(
            f"| {system} | {_ms(median)} | {_ms(min(medians))} to {_ms(max(medians))} | {_ms(cell.fastest(system))} "
            f"| {median / own:.2f} | {least / median:.0%} |"
        )
    lines += [f"| {system} | not measured: {why} | | | | |" for system, why in cell.missing.items()]
    return [*lines, "", work.note] if work.note else lines


def _least(work: Workload, cell: Cell) -> float:
    """Seconds at the ceilings."""
    return max(work.flops / cell.best_ceilings.arithmetic(work.factors), work.nbytes / _byte_rate(work, cell))


def _byte_rate(work: Workload, cell: Cell) -> float:
    ceilings = cell.best_ceilings
    if work.streams and ceilings.copy_bytes:
        return ceilings.copy_bytes
    return ceilings.rate(work.nbytes)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"
