"""`rlx bench`: how long a run takes, alone or beside onnxruntime on the same inputs.

Both are warmed up, then take turns in short rounds with a pause between, so that what else the machine does falls on
both alike, and one's idle threads do not slow the other. Medians and quartiles are of single runs over all rounds. The
answers are compared before anything is timed.

With `--roofline` the program also runs kernel by kernel, and each kernel is shown beside its own limit, the one with
most time to win first; `--svg` and `--png` draw them, `--html` writes them and the program's report as a page.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from rlx.backends.cpu.ceiling import measure_ceilings
from rlx.cli.drawing import HtmlOption, write_drawing
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
    TuneOption,
    compile_model,
    load_model,
    open_session,
)
from rlx.cli.raster import pillow, write_png
from rlx.cli.roofline import print_roofline, roofline_document
from rlx.cli.terminal import print_json, print_note, print_table, progress, seconds
from rlx.driver import Ceilings
from rlx.errors import MissingExtra, UsageError
from rlx.runtime import CompiledGraph
from rlx.runtime.page import report_page
from rlx.runtime.roofline import measure_roofline
from rlx.runtime.roofline_chart import roofline_svg

_ROUNDS = 10
_PAUSE = 0.02

Run = Callable[[], Mapping[str, np.ndarray]]


class Peer(StrEnum):
    """What RLX can be measured against."""

    onnxruntime = "onnxruntime"


@dataclass(frozen=True)
class Timing:
    """Seconds of single runs: their median and quartiles, over `runs` runs."""

    name: str
    median: float
    low: float
    high: float
    runs: int


def bench(
    model: ModelArgument,
    against: Annotated[Peer | None, typer.Option("--against", help="A peer to run beside RLX.")] = None,
    shape: ShapeOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    precision: PrecisionOption = "f32",
    convolution: ConvolutionOption = "direct",
    tune: TuneOption = False,
    budget: Annotated[float, typer.Option("--seconds", min=0.1, help="Time to spend measuring each.")] = 2.0,
    roofline: Annotated[bool, typer.Option("--roofline", help="Show each kernel beside its own limit.")] = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw the roofline into this .svg file.")] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Draw the roofline into this .png file.")] = None,
    html: HtmlOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Time runs of a model on random inputs, with the share of this machine's ceilings."""
    by_kernel = roofline or any(file is not None for file in (svg, png, html))
    if png is not None:
        pillow()  # a missing package is told before anything is measured
    if against is not None and not model.endswith(".onnx"):
        raise UsageError(f"--against {against.value} needs an .onnx file, {model!r} is none")
    session = open_session(device, threads, precision, convolution, tune=tune)
    if by_kernel and session.device.kind != "cpu":
        raise UsageError(f"--roofline needs a device whose ceilings can be measured: the cpu, not {session.device}")
    program = compile_model(session, load_model(model), read_shapes(shape or []))
    feeds = {name: feed.array for name, feed in complete({}, program.inputs, seed).items()}
    runs: dict[str, Run] = {"rlx": lambda: program.run(feeds)}
    if against is not None:
        runs[against.value] = _onnxruntime(model, session.options.threads, feeds)
    with progress("measuring"):
        difference = greatest_difference(runs) if against is not None else None
        timings = measure(runs, budget)
        ceilings = measure_ceilings(session.options.threads) if session.device.kind == "cpu" else None
        lines = measure_roofline(program, feeds, ceilings) if ceilings is not None and by_kernel else None
    document = _document(program, timings, ceilings, difference)
    if lines is not None:
        document["roofline"] = roofline_document(lines)
        if svg is not None:
            write_drawing(svg, roofline_svg(lines))
        if png is not None:
            write_png(png, roofline_svg(lines))
        if html is not None:
            write_drawing(html, report_page(model, program.report, lines))
    if as_json:
        print_json({"model": model, "device": str(session.device), "threads": session.options.threads, **document})
        return
    fastest = timings[0].median
    rows = [
        (t.name, seconds(t.median), f"{seconds(t.low)} to {seconds(t.high)}", f"{t.median / fastest:.2f}", t.runs)
        for t in timings
    ]
    print_table(f"{session.options.threads} threads", ("", ">median", ">quartiles", ">to rlx", ">runs"), rows)
    if difference is not None:
        print_note(f"greatest difference between the answers, relative to each output's scale: {difference:.2g}")
    if ceilings is not None:
        print_note(
            f"ceilings now: {_products(ceilings)}, {ceilings.read_bytes / 1e9:.1f} GB/s read; "
            f"rlx runs at {document['share_of_ceiling']:.0%} of what they allow"
        )
    if lines is not None:
        print_roofline(lines)


def measure(runs: Mapping[str, Run], budget: float) -> list[Timing]:
    """Time every run for about `budget` seconds, in turns; the order of the result is that of `runs`."""
    each = {name: max(1, round(budget / _ROUNDS / _warm_up(run))) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS):
        for name, run in runs.items():
            time.sleep(_PAUSE)
            run()
            samples[name] += [_once(run) for _ in range(each[name])]
    return [_timing(name, taken) for name, taken in samples.items()]


def _once(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _warm_up(run: Run) -> float:
    run()
    return min(_once(run) for _ in range(3))


def _timing(name: str, taken: Sequence[float]) -> Timing:
    low, median, high = np.quantile(taken, (0.25, 0.5, 0.75))
    return Timing(name, float(median), float(low), float(high), len(taken))


def greatest_difference(runs: Mapping[str, Run]) -> float:
    """The greatest difference of any output between the first run and the others, relative to the output's scale.

    Infinite where one is NaN, or another infinity, and the other is not.
    """
    first, *others = (run() for run in runs.values())
    worst = 0.0
    for other in others:
        for name, array in first.items():
            one, two = array.astype(np.float64), other[name].astype(np.float64)
            scale = float(np.abs(one).max(initial=1e-30, where=np.isfinite(one)))
            alike = (one == two) | (np.isnan(one) & np.isnan(two))
            with np.errstate(invalid="ignore"):
                gap = np.abs(np.where(alike, 0, one - two)).max(initial=0)
            worst = max(worst, math.inf if math.isnan(gap) else float(gap) / scale)
    return worst


def _document(
    program: CompiledGraph, timings: Sequence[Timing], ceilings: Ceilings | None, difference: float | None
) -> dict[str, Any]:
    median = timings[0].median
    document: dict[str, Any] = {
        "timings": [
            {
                "name": t.name,
                "median": t.median,
                "low": t.low,
                "high": t.high,
                "runs": t.runs,
                "ratio": t.median / median,
            }
            for t in timings
        ],
        "difference": difference,
    }
    if ceilings is not None:
        steps = program.report.steps
        arithmetic = sum(s.flops / ceilings.arithmetic(s.factors) for s in steps)
        least = max(arithmetic, sum(s.bytes for s in steps) / ceilings.rate(sum(s.bytes for s in steps)))
        document["ceilings"] = {
            "flops": {"f32": ceilings.flops, **ceilings.products},
            "read_bytes": ceilings.read_bytes,
            "copy_bytes": ceilings.copy_bytes,
        }
        document["share_of_ceiling"] = least / median
    return document


def _onnxruntime(model: str, threads: int, feeds: Mapping[str, np.ndarray]) -> Run:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise MissingExtra(
            "comparing needs the package 'onnxruntime', which is not installed", hint="pip install onnxruntime"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _products(ceilings: Ceilings) -> str:
    rates = {"f32": ceilings.flops, **ceilings.products}
    return ", ".join(f"{rate / 1e9:.0f} {'GOP' if name == 'i8' else 'GFLOP'}/s {name}" for name, rate in rates.items())
