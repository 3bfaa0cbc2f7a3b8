"""`rlx tune`: measure which schedules a model's kernels run fastest under here, and keep what was found.

The winners are compiled into the program that every later compilation with `tune=True` finds in the cache. The program
is then run beside the untuned one, in turns, on the same random inputs: their answers must be the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer

from rlx.cli.bench import Timing, measure
from rlx.cli.feeds import complete, read_shapes
from rlx.cli.program import (
    ConvolutionOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    PrecisionOption,
    SeedOption,
    ShapeOption,
    ThreadsOption,
    compile_model,
    load_model,
    open_session,
)
from rlx.cli.terminal import print_json, print_note, print_table, progress, seconds
from rlx.errors import TunedAnswerDiffers
from rlx.runtime import Session

#: Seconds that the whole program is measured for, each way.
_WHOLE_S = 1.0


def tune(
    model: ModelArgument,
    shape: ShapeOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    precision: PrecisionOption = "f32",
    convolution: ConvolutionOption = "direct",
    budget: Annotated[float, typer.Option("--seconds", min=0.1, help="About how long to measure kernels.")] = 60.0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Choose the fastest schedule of each kernel by measuring, for this machine and so many threads."""
    plain = open_session(device, threads, precision, convolution)
    tuned = Session(plain.device, replace(plain.options, tune=True, tune_seconds=budget))
    loaded, shapes = load_model(model), read_shapes(shape or [])
    before, after = compile_model(plain, loaded, shapes), compile_model(tuned, loaded, shapes)
    feeds = {name: feed.array for name, feed in complete({}, before.inputs, seed).items()}
    with progress("measuring"):
        _compare(before.run(feeds), after.run(feeds))
        whole = measure({"default": lambda: before.run(feeds), "tuned": lambda: after.run(feeds)}, _WHOLE_S)
    rows: Sequence[Mapping[str, Any]] = after.report.data["tuning"]
    if as_json:
        timings = {t.name: {"median": t.median, "low": t.low, "high": t.high, "runs": t.runs} for t in whole}
        print_json(
            {"model": model, "threads": plain.options.threads, "kernels": rows, "program": timings, **_totals(rows)}
        )
        return
    _print(rows, whole, plain.options.threads)


def _compare(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> None:
    """Raises TunedAnswerDiffers, which no schedule may lead to."""
    for name, array in before.items():
        if array.tobytes() != after[name].tobytes():
            raise TunedAnswerDiffers(
                f"the tuned program gives another {name!r} than the untuned one",
                hint="this is a defect of RLX: please report it, and compile without tune=True",
            )


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of all measured launches of a run, before and after."""
    measured = [row for row in rows if row["measured"]]
    ways = ("default_seconds", "best_seconds")
    return {way: sum(row["launches"] * row[way] for row in measured) for way in ways}


def _print(rows: Sequence[Mapping[str, Any]], whole: Sequence[Timing], threads: int) -> None:
    measured = [row for row in rows if row["measured"]]
    table = [
        (
            f"{row['label']} {row['sizes']}",
            " ".join(row["ops"]),
            row["launches"],
            seconds(row["default_seconds"]),
            seconds(row["best_seconds"]),
            _gain(row["default_seconds"], row["best_seconds"]),
            row["best"] if row["best"] != row["default"] else "",
        )
        for row in sorted(measured, key=lambda row: -row["launches"] * row["default_seconds"])
    ]
    columns = ("kernel", "ops", ">launches", ">default", ">best", ">gain", "instead of the default")
    print_table(f"kernels on {threads} threads, a launch", columns, table)
    if len(rows) > len(measured):
        print_note(f"{len(rows) - len(measured)} kernels with too little work, or no time left, keep the default")
    default, tuned = whole
    pairs = [(t.name, seconds(t.median), f"{seconds(t.low)} to {seconds(t.high)}", t.runs) for t in (default, tuned)]
    print_table("the whole program", ("", ">median", ">quartiles", ">runs"), pairs)
    print_note(f"the same bits, in {tuned.median / default.median:.2f} of the time")


def _gain(default: float, best: float) -> str:
    return f"{default / best - 1:.0%}"
