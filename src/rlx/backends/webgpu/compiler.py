"""Compile a graph for WebGPU: passes, lowering, memory plan, WGSL.

The artefact holds the distinct shaders' text, a program of JSON steps and the constants; no weights and nothing of the
driver. Compiling needs the device's features alone and may run in any thread.
"""

from __future__ import annotations

import json
from typing import Any

from rlx.backends.webgpu.gpu import ALIGNMENT
from rlx.backends.webgpu.plan import Planner, place_persistent, walk_steps
from rlx.backends.webgpu.templates import WebGpuTemplates
from rlx.codegen.lower import lower
from rlx.codegen.printer import kernel_identity
from rlx.codegen.program import Launch, LoweredProgram
from rlx.codegen.wgsl import WgslTarget
from rlx.driver import Artifact, Device
from rlx.ir import Graph, TensorType, verify
from rlx.options import Options
from rlx.passes.inline import dispatch_report
from rlx.passes.pipeline import optimize


def compile_graph(graph: Graph, device: Device, options: Options) -> Artifact:
    """Compile `graph`, whose shapes are all known. Raises the errors of the stages, naming the model's node."""
    target = _target(device)
    optimized = optimize(graph, level=2 if options.optimize else 0, verify=verify if options.verify else None)
    program = lower(optimized, WebGpuTemplates(target), fuse=options.optimize, dispatch=dispatch_report(graph))
    places, persistent_bytes, constants = place_persistent(program)
    shaders: dict[str, int] = {}
    lists = {}
    for name, steps in (("setup", program.setup), ("steps", program.steps)):
        planner = Planner(target, places, shaders)
        lists[name] = planner.plan(steps, debug=options.debug_memory)
    manifest: dict[str, Any] = {
        "name": program.name,
        "int64": target.int64,
        "max_binding_bytes": target.max_binding_bytes,
        "max_buffer_bytes": target.max_buffer_bytes,
        "inputs": _types(program.inputs),
        "outputs": _types(program.outputs),
        "parameters": _types(program.parameters),
        "persistent_bytes": persistent_bytes,
        "lists": lists,
        "report": _report(program, shaders),
    }
    return Artifact(device.kind, manifest, {"wgsl": json.dumps(list(shaders)).encode(), "constants": constants})


def _target(device: Device) -> WgslTarget:
    features = device.properties.features
    return WgslTarget(
        int64=bool(features.get("shader-int64")),
        max_bindings=int(features["max-storage-buffers-per-shader-stage"]),
        max_binding_bytes=int(features["max-storage-buffer-binding-size"]) // ALIGNMENT * ALIGNMENT,
        max_buffer_bytes=int(features["max-buffer-size"]) // ALIGNMENT * ALIGNMENT,
        workgroup_bytes=int(features["max-compute-workgroup-storage-size"]),
    )


def _types(types: dict[str, TensorType]) -> list[list[Any]]:
    return [[name, t.dtype.name, list(t.sizes)] for name, t in types.items()]


def _report(program: LoweredProgram, shaders: dict[str, int]) -> dict[str, Any]:
    def rows(steps: Any) -> list[dict[str, Any]]:
        return [
            {
                "kernel": kernel_identity(s.kernel)[:8],
                "label": s.kernel.label,
                "ops": list(s.sources),
                "flops": s.kernel.cost.flops,
                "bytes": s.kernel.cost.bytes,
                "location": str(s.location),
            }
            for s in walk_steps(steps)
            if isinstance(s, Launch)
        ]

    return {
        "dispatch": [list(row) for row in program.dispatch],
        "setup": rows(program.setup),
        "steps": rows(program.steps),
        "code_bytes": sum(len(source) for source in shaders),
        "shaders": len(shaders),
    }
