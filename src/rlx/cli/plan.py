"""`rlx plan`: a memory plan for values given as a file, certified."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from rlx.cli.drawing import SvgOption, write_drawing
from rlx.cli.program import JsonOption
from rlx.cli.terminal import count, print_json, print_table, progress, results, seconds
from rlx.driver import certify, memory_map, memory_map_svg, plan_memory
from rlx.driver.plan_file import read_intervals
from rlx.errors import UsageError


def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="Columns id, lower, upper, size; half-open lives.")],
    budget: Annotated[
        float, typer.Option("--budget", min=0.0, help="Nominal seconds of search; 0 keeps to the heuristics.")
    ] = 20.0,
    alignment: Annotated[int, typer.Option("--alignment", min=1, help="Every offset is a multiple of it.")] = 1,
    svg: SvgOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give values offsets in one arena, check the plan independently, and show what is alive at the peak."""
    try:
        values = read_intervals(file)
    except OSError as error:
        raise UsageError(f"{str(file)!r} cannot be read: {error.strerror or error}") from None
    start = time.perf_counter()
    with progress("planning"):
        found = plan_memory(values, alignment=alignment, budget_s=budget)
    took = time.perf_counter() - start
    certify(found, values)
    if svg is not None:
        write_drawing(svg, memory_map_svg(found, values))
    if as_json:
        print_json(
            {
                "file": str(file),
                "values": len(values),
                "alignment": alignment,
                "size": found.size,
                "lower_bound": found.lower_bound,
                "ratio": found.ratio,
                "certified": True,
                "seconds": took,
                "offsets": dict(found.offsets),
            }
        )
        return
    rows = [
        ("values", count(len(values))),
        ("arena", f"{count(found.size)} bytes"),
        ("lower bound", f"{count(found.lower_bound)} bytes"),
        ("ratio", f"{found.ratio:.4f}"),
        ("certificate", "valid"),
        ("planned in", seconds(took)),
    ]
    print_table(str(file), ("", ">"), rows)
    results().print(memory_map(found, values), markup=False)
