"""The way from an optimised graph to a lowered program.

`lower` makes the buffers of inputs, parameters and outputs, decides what is static, lowers the graph's groups, and
orders the steps for peak memory,
and puts results where operands die.
Shapes must be static. Input, output and parameter memory is dense and row-major.
"""

from __future__ import annotations

from collections.abc import Collection

from rlx.codegen.lower.context import ProgramContext, Scope
from rlx.codegen.lower.control import finish
from rlx.codegen.lower.graph import lower_scope
from rlx.codegen.lower.inplace import share_memory
from rlx.codegen.lower.order import order_steps
from rlx.codegen.lower.setup import release_after_setup
from rlx.codegen.lower.templates import NoTemplates, Templates
from rlx.codegen.lower.view import dense
from rlx.codegen.program import LoweredProgram, Step, VirtualBuffer
from rlx.errors import LoweringError
from rlx.ir.graph import Graph
from rlx.passes.legalize import legalize


def lower(
    graph: Graph,
    templates: Templates | None = None,
    *,
    fuse: bool = True,
    dispatch: tuple[tuple[str, str, str], ...] = (),
    donate: Collection[str] = (),
) -> LoweredProgram:
    """`graph` as kernels over virtual buffers.

    graph: primitives alone, static shapes; usually what `rlx.passes.optimize` returns.
    templates: the backend's matrix products and convolutions; plain loops where it has none.
    fuse: False gives every primitive that computes a kernel of its own.
    dispatch: which composites went which way, handed through to the program.
    donate: names of inputs that the program may overwrite, and give outputs of the same type in.

    Raises LoweringError where a size is symbolic or an op has no rule; CustomCallNotCompiled for custom calls.
    """
    for value in (*graph.inputs, *(v for node in graph.nodes for v in node.outputs)):
        if not value.type.is_static:
            raise LoweringError(
                f"{value} has a symbolic size", hint="compile for given sizes: shapes={'name': (1, 128)}"
            )
    graph = legalize(graph)
    program = ProgramContext(templates or NoTemplates(), fuse)
    steps: list[Step] = []
    donated: dict[VirtualBuffer, Collection[int]] = {}
    scope = Scope(program, graph, steps)
    for place, value in enumerate(graph.inputs):
        buffer = program.buffer("input", value.type.nbytes, place)
        scope.views[value] = dense(buffer, value.type.dtype, value.type.sizes)
        if value.name in donate:
            donated[buffer] = {at for at, result in enumerate(graph.outputs) if result.type == value.type}
    for place, parameter in enumerate(graph.parameters):
        type = parameter.value.type
        scope.views[parameter.value] = dense(program.buffer("parameter", type.nbytes, place), type.dtype, type.sizes)
    results = []
    for place, value in enumerate(graph.outputs):
        buffer = program.buffer("output", value.type.nbytes, place)
        view = dense(buffer, value.type.dtype, value.type.sizes)
        results.append(view)
        scope.destinations.setdefault(value, view)
    scope.find_static({parameter.value for parameter in graph.parameters})
    lower_scope(scope)
    finish(scope, graph.outputs, results)
    ordered, shared = share_memory(order_steps(steps), donated) if fuse else (order_steps(steps), {})
    return LoweredProgram(
        name=graph.name,
        inputs=graph.input_types,
        outputs=graph.output_types,
        parameters={p.name: p.value.type for p in graph.parameters},
        setup=release_after_setup(program.setup, steps),
        steps=ordered,
        dispatch=dispatch,
        in_inputs={graph.output_names[at]: graph.inputs[place].name for at, place in shared.items()},
    )
