"""Compile a graph for WebGPU: passes, lowering, memory plan, WGSL.

The artefact holds the distinct shaders' text, a program of JSON steps and the constants; no weights and nothing of the
driver. Compiling needs the device's features alone and may run in any thread.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from rlx.backends.webgpu.gpu import ALIGNMENT
from rlx.backends.webgpu.partition import partition
from rlx.backends.webgpu.plan import Planner, place_persistent
from rlx.backends.webgpu.templates import WebGpuTemplates
from rlx.codegen.launch_report import launch_rows
from rlx.codegen.lower import lower
from rlx.codegen.printer import kernel_identity
from rlx.codegen.program import LoweredProgram, Step
from rlx.codegen.wgsl import WgslTarget
from rlx.driver import Artifact, Device
from rlx.errors import BindingLimit, CustomCallNotCompiled, RLXError, UnsupportedKernel
from rlx.ir import Graph, Node, TensorType, Value, fingerprint, print_graph, verify
from rlx.options import Options
from rlx.passes.inline import dispatch_report
from rlx.passes.pipeline import optimize

#: What says that the device cannot run something that the host can.
REFUSALS = (UnsupportedKernel, BindingLimit, CustomCallNotCompiled)
Dispatch = Sequence[tuple[str, str, str]]

#: Mesa's adapter leaves a shader's loops, silently, after so many turns in all.
_TURNS_IN_SOFTWARE = 65535


def compile_graph(graph: Graph, device: Device, options: Options, *, donate: Collection[str] = ()) -> Artifact:
    """Compile `graph`, whose shapes are all known. Raises the errors of the stages, naming the model's node.

    donate: names of inputs that runs may overwrite; a program in parts, some of them the host's, overwrites none.
    With `options.host_fallback`, what the device cannot express is left to the host, each op by itself.
    """
    check = verify if options.verify else None
    optimized = optimize(graph, level=2 if options.optimize else 0, precision=options.precision, verify=check)
    dispatch = dispatch_report(graph)
    try:
        manifest, sections = _compile(optimized, device, options, dispatch, donate)
    except REFUSALS as error:
        if not options.host_fallback:
            way = "Options(host_fallback=True) lets the host run what the device cannot"
            hint = f"{error.hint}; {way}" if error.hint else way
            raise type(error)(error.message, where=error.where, hint=hint) from error
        manifest, sections = _compile_in_parts(optimized, device, options, dispatch, error)
    return Artifact(device.kind, manifest, sections)


def _compile(
    graph: Graph, device: Device, options: Options, dispatch: Dispatch = (), donate: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(manifest, sections) of a graph in primitives, all of it for the device.

    Where a fused kernel has too many arguments, or binds too much and cannot be divided, primitives get a kernel each.
    """
    target = _target(device)
    templates = WebGpuTemplates(target)
    try:
        return _planned(
            lower(graph, templates, fuse=options.optimize, dispatch=dispatch, donate=donate), target, options
        )
    except (BindingLimit, UnsupportedKernel) as refused:
        if not options.optimize:
            raise
        try:
            return _planned(lower(graph, templates, fuse=False, dispatch=dispatch, donate=donate), target, options)
        except REFUSALS:
            raise refused from None


def _planned(program: LoweredProgram, target: WgslTarget, options: Options) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(manifest, sections) of a lowered program."""
    places, persistent_bytes, constants = place_persistent(program)
    shaders: dict[str, int] = {}
    within: set[int] = set()
    lists = {}
    for name, steps in (("setup", program.setup), ("steps", program.steps)):
        planner = Planner(target, places, shaders, within)
        lists[name] = planner.plan(steps, debug=options.debug_memory)
    manifest: dict[str, Any] = {
        "name": program.name,
        "int64": target.int64,
        "max_binding_bytes": target.max_binding_bytes,
        "max_buffer_bytes": target.max_buffer_bytes,
        "inputs": _types(program.inputs),
        "outputs": _types(program.outputs),
        "in_inputs": program.in_inputs,
        "parameters": _types(program.parameters),
        "persistent_bytes": persistent_bytes,
        "within": sorted(within),
        "lists": lists,
        "report": _report(program, shaders),
    }
    return manifest, {"wgsl": json.dumps(list(shaders)).encode(), "constants": constants}


def _compile_in_parts(
    graph: Graph, device: Device, options: Options, dispatch: Dispatch, refused: RLXError
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """As `_compile`, where the device refused the whole: nodes that it refuses alone are the host's."""
    on_host = _refused_nodes(graph, device, options)
    if not on_host:
        raise refused
    rows, sections, steps, between = [], {}, [], {}
    setup: list[Any] = []
    for number, part in enumerate(partition(graph, on_host)):
        if part.on_host:
            operations = [n.op for n in part.graph.nodes if n in on_host or n.inputs]
            manifest: dict[str, Any] = {
                "label": f"host: {', '.join(operations)}",
                "parameters": _types({p.name: p.value.type for p in part.graph.parameters}),
            }
            made = {"graph": print_graph(part.graph).encode()}
            moved = sum(v.type.nbytes for v in (*part.graph.inputs, *part.graph.outputs))
            (setup if part.once else steps).append(
                {
                    "kernel": "host", "label": manifest["label"], "ops": operations, "flops": 0.0, "bytes": moved,
                    "location": str(part.graph.nodes[-1].location),
                }
            )  # fmt: skip
        else:
            manifest, made = _compile(part.graph, device, options)
            setup += manifest["report"]["setup"]
            (setup if part.once else steps).extend(manifest["report"]["steps"])
        row = {"on_host": part.on_host, "once": part.once, "inputs": part.inputs, "outputs": part.outputs}
        rows.append(row | {"manifest": manifest})
        sections |= {f"{number}.{name}": data for name, data in made.items()}
        between |= {n: v.type for n, v in zip(part.outputs, part.graph.outputs, strict=True) if n.startswith("value")}
    dispatched = [*map(list, dispatch), *([n.op, str(n.location), "host"] for n in on_host)]
    return {
        "name": graph.name,
        "inputs": _types(graph.input_types),
        "outputs": _types(graph.output_types),
        "parameters": _types({p.name: p.value.type for p in graph.parameters}),
        "parts": rows,
        "between": _types(between),
        "report": {"dispatch": dispatched, "setup": setup, "steps": steps, "target": "wgsl and the host"},
    }, sections


def _refused_nodes(graph: Graph, device: Device, options: Options) -> dict[Node, RLXError]:
    """Nodes that the device refuses when they stand alone, with what it says, in the graph's order."""
    known: dict[str, RLXError | None] = {}
    found: dict[Node, RLXError] = {}
    for node in graph.nodes:
        inputs = tuple(Value(v.type, f"x{i}") for i, v in enumerate(node.inputs))
        outputs = tuple(Value(v.type) for v in node.outputs)
        alone = Node(node.op, inputs, outputs, node.attrs, node.regions)
        names = tuple(f"y{i}" for i in range(len(outputs)))
        single = Graph("one node", inputs, (), (alone,), outputs, names)
        key = fingerprint(single)
        if key not in known:
            try:
                _compile(single, device, options)
                known[key] = None
            except REFUSALS as error:
                known[key] = error
        error = known[key]
        if error is not None:
            found[node] = error
    return found


def _target(device: Device) -> WgslTarget:
    features = device.properties.features
    return WgslTarget(
        int64=bool(features.get("shader-int64")),
        max_bindings=int(features["max-storage-buffers-per-shader-stage"]),
        max_binding_bytes=int(features["max-storage-buffer-binding-size"]) // ALIGNMENT * ALIGNMENT,
        max_buffer_bytes=int(features["max-buffer-size"]) // ALIGNMENT * ALIGNMENT,
        workgroup_bytes=int(features["max-compute-workgroup-storage-size"]),
        max_turns=_TURNS_IN_SOFTWARE if features["adapter"] == "CPU" else 0,
    )


def _types(types: dict[str, TensorType]) -> list[list[Any]]:
    return [[name, t.dtype.name, list(t.sizes)] for name, t in types.items()]


def _report(program: LoweredProgram, shaders: dict[str, int]) -> dict[str, Any]:
    def rows(steps: Sequence[Step]) -> list[dict[str, Any]]:
        return launch_rows(steps, lambda kernel: kernel_identity(kernel)[:8])

    return {
        "dispatch": [list(row) for row in program.dispatch],
        "setup": rows(program.setup),
        "steps": rows(program.steps),
        "code_bytes": sum(len(source) for source in shaders),
        "shaders": len(shaders),
    }
