"""From the words of a command line to a compiled program: what `run`, `inspect` and `bench` begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import typer

from rlx.cli.feeds import check_names
from rlx.cli.terminal import progress
from rlx.errors import OpenShape
from rlx.frontends import Model, load
from rlx.ir import Dim, Graph, TensorType
from rlx.options import CONVOLUTIONS, PRECISIONS, Options
from rlx.runtime import CompiledGraph, CompiledModel, Session

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="An .onnx file, a Hugging Face directory, or RLX text (.rlx.txt).")
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=1,128", help="Sizes of an input that the model leaves open. Repeatable."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="Where to run; see `rlx devices`.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads that run the program. Default: every processor.")
]
PrecisionOption = Annotated[
    str, typer.Option("--precision", metavar="|".join(PRECISIONS), help="Numeric policy of products with weights.")
]
ConvolutionOption = Annotated[
    str, typer.Option("--convolution", metavar="|".join(CONVOLUTIONS), help="Numeric policy of convolutions.")
]
TuneOption = Annotated[
    bool, typer.Option("--tune", help="With measured schedules; measures those that `rlx tune` has not.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the random inputs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, for machines.")]


def open_session(device: str, threads: int | None, precision: str, convolution: str, *, tune: bool = False) -> Session:
    """A session as the options of a command describe it. Raises DeviceNotFound or OptionError."""
    options = Options(precision=precision, convolution=convolution, tune=tune)
    return Session(device, options if threads is None else replace(options, threads=threads))


def load_model(path: str) -> Model | Graph:
    """The model, with a progress bar where it is long in coming. Raises as `rlx.load`."""
    with progress("loading"):
        return load(path)


def inputs_of(model: Model | Graph) -> Mapping[str, TensorType]:
    """Names -> declared types, open dimensions as symbols."""
    return model.input_types if isinstance(model, Graph) else model.inputs


def outputs_of(model: Model | Graph) -> Mapping[str, TensorType]:
    """Names -> declared types, open dimensions as symbols."""
    return model.output_types if isinstance(model, Graph) else model.outputs


def open_inputs(model: Model | Graph, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Inputs with a dimension that neither the model nor `shapes` gives a size."""
    inputs = inputs_of(model)
    known = {d for name in shapes if name in inputs for d in inputs[name].shape if isinstance(d, Dim)}
    return [
        name
        for name, type in inputs.items()
        if name not in shapes and any(isinstance(d, Dim) and d not in known for d in type.shape)
    ]


def compile_model(session: Session, model: Model | Graph, shapes: Mapping[str, tuple[int, ...]]) -> CompiledGraph:
    """A program of fixed sizes. Raises UsageError for unknown names, OpenShape where sizes are missing."""
    check_names(shapes, inputs_of(model), "--shape")
    for name in open_inputs(model, shapes):
        raise open_shape(model, name)
    with progress("compiling"):
        program = session.compile(model, shapes)
    if isinstance(program, CompiledModel):
        raise OpenShape("the model's sizes stay open", hint="give a --shape for every input")
    return program


def open_shape(model: Model | Graph, name: str) -> OpenShape:
    """The error for an input whose sizes are open."""
    type = inputs_of(model)[name]
    example = ",".join("1" if isinstance(d, Dim) else str(d) for d in type.shape)
    return OpenShape(f"input {name!r} is {type}: its sizes are open", hint=f"for example --shape {name}={example}")
