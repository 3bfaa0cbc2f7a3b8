"""`rlx inspect`: what a model is, and what the compiler makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from rlx.cli.drawing import HtmlOption, SvgOption, write_drawing
from rlx.cli.feeds import check_names, read_shapes
from rlx.cli.program import (
    ConvolutionOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    PrecisionOption,
    ShapeOption,
    ThreadsOption,
    TuneOption,
    compile_model,
    inputs_of,
    load_model,
    open_inputs,
    open_session,
    open_shape,
    outputs_of,
)
from rlx.cli.terminal import count, print_json, print_note, print_table, progress, results, seconds
from rlx.frontends import Model
from rlx.ir import Graph, TensorType, print_graph
from rlx.ir.specialize import bind_dims, specialize
from rlx.runtime import CompiledGraph
from rlx.runtime.page import report_page


class Section(StrEnum):
    """The parts of the report."""

    interface = "interface"
    ops = "ops"
    graph = "graph"
    dispatch = "dispatch"
    fusion = "fusion"
    memory = "memory"


#: Sections that need the graph, and those that need the compiled program as well.
_NEED_GRAPH = {Section.ops, Section.graph}
_NEED_PROGRAM = {Section.dispatch, Section.fusion, Section.memory}


def inspect(
    model: ModelArgument,
    shape: ShapeOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    precision: PrecisionOption = "f32",
    convolution: ConvolutionOption = "direct",
    tune: TuneOption = False,
    show: Annotated[list[Section] | None, typer.Option("--show", help="Only this section. Repeatable.")] = None,
    svg: SvgOption = None,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show inputs, outputs, op counts, the graph's text, fused groups and the memory map."""
    wanted = set(show or Section)
    shapes = read_shapes(shape or [])
    loaded = load_model(model)
    check_names(shapes, inputs_of(loaded), "--shape")
    still_open = open_inputs(loaded, shapes)
    if still_open and (svg or html or (show and wanted - {Section.interface})):
        raise open_shape(loaded, still_open[0])
    graph = None if still_open else _specialize(loaded, shapes)
    program = None
    if graph is not None and (svg or html or wanted & _NEED_PROGRAM):
        program = compile_model(open_session(device, threads, precision, convolution, tune=tune), graph, {})
    if program is not None and svg is not None:
        write_drawing(svg, program.report.memory.svg())
    if program is not None and html is not None:
        write_drawing(html, report_page(model, program.report))
    if as_json:
        print_json({"model": model, **_document(loaded, graph, program, wanted)})
        return
    if Section.interface in wanted:
        _print_interface("inputs", graph.input_types if graph else inputs_of(loaded))
        _print_interface("outputs", graph.output_types if graph else outputs_of(loaded))
    if graph is not None:
        _print_graph(graph, wanted)
    if program is not None:
        _print_program(program, wanted)
    if still_open:
        print_note(f"{open_shape(loaded, still_open[0]).hint} shows the graph and the program as well")


def _specialize(model: Model | Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    if isinstance(model, Graph):
        return specialize(model, bind_dims(model, shapes))
    with progress("importing"):
        return model.specialize(shapes)


def _ops(graph: Graph) -> Counter[str]:
    return Counter(node.op for _, node in graph.walk())


def _document(
    model: Model | Graph, graph: Graph | None, program: CompiledGraph | None, wanted: set[Section]
) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if Section.interface in wanted:
        inputs, outputs = (inputs_of(model), outputs_of(model)) if graph is None else _closed(graph)
        document["inputs"] = {name: str(type) for name, type in inputs.items()}
        document["outputs"] = {name: str(type) for name, type in outputs.items()}
    if graph is not None:
        document["parameters"] = {
            "count": len(graph.parameters),
            "bytes": sum(p.value.type.nbytes for p in graph.parameters),
        }
        if Section.ops in wanted:
            document["ops"] = dict(_ops(graph).most_common())
        if Section.graph in wanted:
            document["graph"] = print_graph(graph)
    if program is not None:
        report = program.report
        if Section.dispatch in wanted:
            document["dispatch"] = [{"op": op, "where": where, "way": way} for op, where, way in report.dispatch]
        if Section.fusion in wanted:
            document["fusion"] = [
                {
                    "kernel": s.kernel,
                    "label": s.label,
                    "ops": s.ops,
                    "flops": s.flops,
                    "bytes": s.bytes,
                    "schedule": s.schedule,
                }
                for s in report.steps
            ]
        if Section.memory in wanted:
            memory = report.memory
            document["memory"] = {
                "arena_bytes": memory.arena_bytes,
                "lower_bound": memory.lower_bound,
                "ratio": memory.ratio,
                "persistent_bytes": memory.persistent_bytes,
                "scratch_bytes": memory.scratch_bytes,
                "map": [
                    dict(zip(("value", "first", "end", "offset", "bytes"), row, strict=True)) for row in memory.map
                ],
            }
    return document


def _closed(graph: Graph) -> tuple[Mapping[str, TensorType], Mapping[str, TensorType]]:
    return graph.input_types, graph.output_types


def _print_interface(title: str, types: Mapping[str, TensorType]) -> None:
    print_table(title, ("name", "type"), list(types.items()))


def _print_graph(graph: Graph, wanted: set[Section]) -> None:
    if Section.ops in wanted:
        ops = _ops(graph)
        total = sum(p.value.type.nbytes for p in graph.parameters)
        title = f"{ops.total()} ops, {len(graph.parameters)} parameters of {count(total)} bytes"
        print_table(title, ("op", ">count"), ops.most_common())
    if Section.graph in wanted:
        results().print(print_graph(graph), markup=False)


def _print_program(program: CompiledGraph, wanted: set[Section]) -> None:
    report = program.report
    if Section.dispatch in wanted:
        ways = Counter((op, way) for op, _, way in report.dispatch)
        print_table("composites", ("op", "way", ">count"), [(*key, n) for key, n in sorted(ways.items())])
    if Section.fusion in wanted:
        rows = [
            (i, s.kernel, s.label, ", ".join(f"{op} x{n}" if n > 1 else op for op, n in Counter(s.ops).items()))
            for i, s in enumerate(report.steps)
        ]
        title = f"{len(rows)} launches, {len(report.setup)} at load; {report.cache} in {seconds(report.seconds)}"
        columns = (">step", "kernel", "computes", "fused ops")
        if any(s.schedule for s in report.steps):
            columns = (*columns, "tuned to")
            rows = [(*row, s.schedule) for row, s in zip(rows, report.steps, strict=True)]
        print_table(title, columns, rows)
    if Section.memory in wanted:
        memory = report.memory
        title = (
            f"arena {count(memory.arena_bytes)} bytes, {memory.ratio:.3f} times its lower bound; "
            f"persistent {count(memory.persistent_bytes)}, scratch {count(memory.scratch_bytes)}"
        )
        rows = [(value, first, end, count(offset), count(size)) for value, first, end, offset, size in memory.map]
        print_table(title, ("value", ">first step", ">end", ">offset", ">bytes"), rows)
