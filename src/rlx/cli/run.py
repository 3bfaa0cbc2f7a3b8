"""`rlx run`: one run of a model, on given or random inputs."""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from rlx.cli.feeds import check_names, complete, read_arrays, read_shapes
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
    inputs_of,
    load_model,
    open_session,
)
from rlx.cli.terminal import print_json, print_note, print_table, progress, seconds
from rlx.errors import UsageError


def run(
    model: ModelArgument,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=FILE.npy", help="The array of an input; random where none. Repeatable."),
    ] = None,
    shape: ShapeOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    precision: PrecisionOption = "f32",
    convolution: ConvolutionOption = "direct",
    tune: TuneOption = False,
    output: Annotated[Path | None, typer.Option("--output", metavar="DIR", help="Save each output as .npy.")] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Run a model once and show its outputs."""
    given, shapes = read_arrays(inputs or []), read_shapes(shape or [])
    session = open_session(device, threads, precision, convolution, tune=tune)
    loaded = load_model(model)
    check_names(given, inputs_of(loaded), "--input")
    program = compile_model(session, loaded, {**{name: f.array.shape for name, f in given.items()}, **shapes})
    feeds = complete(given, program.inputs, seed)
    start = time.perf_counter()
    with progress("running"):
        results = program.run({name: feed.array for name, feed in feeds.items()})
    took = time.perf_counter() - start
    saved = _save(output, results) if output else {}
    if as_json:
        print_json(
            {
                "model": model,
                "device": str(session.device),
                "threads": session.options.threads,
                "compile": {"seconds": program.report.seconds, "cache": program.report.cache},
                "run_seconds": took,
                "inputs": {n: {"type": str(program.inputs[n]), "from": f.origin} for n, f in feeds.items()},
                "outputs": {n: {**_summary(a), "file": saved.get(n)} for n, a in results.items()},
            }
        )
        return
    print_table("inputs", ("name", "type", "from"), [(n, program.inputs[n], f.origin) for n, f in feeds.items()])
    rows = [(n, program.outputs[n], *_figures(a)) for n, a in results.items()]
    print_table("outputs", ("name", "type", ">least", ">mean", ">greatest", ">not finite"), rows)
    for file in saved.values():
        print_note(f"saved {file}")
    origin = {"compiled": "compiled", "memory": "from memory", "disk": "from the cache"}[program.report.cache]
    print_note(f"{session.device}: program {origin} in {seconds(program.report.seconds)}, one run {seconds(took)}")


def _save(directory: Path, results: dict[str, np.ndarray]) -> dict[str, str]:
    """One file an output, each moved into place whole. Raises UsageError where the directory cannot be written."""
    saved: dict[str, str] = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, array in results.items():
            stem = re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "output"
            while (path := directory / f"{stem}.npy").as_posix() in saved.values():
                stem += "_"
            handle, partial = tempfile.mkstemp(dir=directory, prefix=".writing-")
            try:
                with os.fdopen(handle, "wb") as file:
                    np.save(file, array, allow_pickle=False)
                Path(partial).replace(path)
            except BaseException:
                Path(partial).unlink()
                raise
            saved[name] = path.as_posix()
    except OSError as error:
        raise UsageError(f"--output {str(directory)!r} cannot be written: {error.strerror or error}") from None
    return saved


def _summary(array: np.ndarray) -> dict[str, Any]:
    least, mean, greatest, strange = _statistics(array)
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "least": least,
        "mean": mean,
        "greatest": greatest,
        "not_finite": strange,
    }


def _figures(array: np.ndarray) -> tuple[str, ...]:
    least, mean, greatest, strange = _statistics(array)
    return *("-" if v is None else f"{v:.6g}" for v in (least, mean, greatest)), str(strange)


def _statistics(array: np.ndarray) -> tuple[float | None, float | None, float | None, int]:
    """Least, mean and greatest of the finite values (real parts), None where there are none; and how many are not."""
    values = array.real.astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    strange = values.size - finite.size
    if not finite.size:
        return None, None, None, strange
    return float(finite.min()), float(finite.mean()), float(finite.max()), strange
