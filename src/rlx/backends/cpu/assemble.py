"""Assemble an artefact from a lowered program: native code, the walker's tables, a JSON manifest.

The image of native code is position independent and holds each distinct kernel once, beside the walker; running it
needs no LLVM. There are no weights in an artefact, so that it depends on a graph's structure alone. Pure: any thread
may assemble.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from rlx.backends.cpu.linker import LinkedImage, link
from rlx.backends.cpu.records import Flattener, Tables, packed_pieces, place_persistent
from rlx.codegen.kernel import Kernel, TemplateKernel
from rlx.codegen.launch_report import launch_rows
from rlx.codegen.llvm.object import compile_together
from rlx.codegen.printer import kernel_identity
from rlx.codegen.program import Launch, LoweredProgram, Step, walk_steps
from rlx.codegen.target import Target
from rlx.driver import Artifact
from rlx.ir import TensorType
from rlx.options import Options, available_processors

#: Threads that emit code: each has a module of its own in memory.
MOST_THREADS = 8


def assemble(
    program: LoweredProgram,
    target: Target,
    options: Options,
    *,
    tuning: Sequence[Mapping[str, Any]] = (),
    untuned: int = 0,
    schedules: Mapping[str, str] | None = None,
) -> Artifact:
    """The artefact of a program whose kernels are made for `target`. Raises the code generator's errors.

    tuning: what was measured, for the report; untuned: how many kernels there was no time to measure.
    schedules: identity of a kernel that does not run the planner's schedule -> its own, in words.
    """
    functions, image = _native_code(program, target)
    pieces = packed_pieces(program)
    persistent, persistent_bytes, constants = place_persistent(program, pieces)
    tables = {}
    for name, steps in (("setup", program.setup), ("steps", program.steps)):
        flattener = Flattener(program, functions, persistent, tuple(pieces))
        flattener.add(steps)
        tables[name] = flattener.finish(debug=options.debug_memory)
    launches = [s for s in walk_steps((*program.setup, *program.steps)) if isinstance(s, Launch)]
    manifest: dict[str, Any] = {
        "name": program.name,
        "target": target.name,
        "precision": options.precision,
        "convolution": options.convolution,
        "inputs": _types(program.inputs),
        "outputs": _types(program.outputs),
        "parameters": _types(program.parameters),
        "in_inputs": program.in_inputs,
        "persistent_bytes": persistent_bytes,
        "pieces": list(pieces.values()),
        "scratch_bytes": max((s.kernel.scratch_bytes for s in launches), default=0),
        "image": {
            "code_bytes": image.code_bytes,
            "functions": image.functions,
            "externals": image.externals,
            "absolute": image.absolute,
        },
        "kernels": _kernel_names(functions),
        "tables": {name: _table_facts(t) for name, t in tables.items()},
        "untuned": untuned,
        "report": {**_report(program, functions, image, schedules or {}), "tuning": list(tuning)},
    }
    sections = {"image": image.data, "constants": constants}
    for name, table in tables.items():
        sections[f"{name}.records"] = table.records.tobytes()
        sections[f"{name}.relocations"] = table.relocations.tobytes()
    return Artifact("cpu", manifest, sections)


def _native_code(program: LoweredProgram, target: Target) -> tuple[dict[Kernel, int], LinkedImage]:
    """Emit each distinct kernel once, beside the walker; kernels that are equal share a function."""
    numbers: dict[str, int] = {}
    distinct: list[Kernel] = []
    functions: dict[Kernel, int] = {}
    for step in walk_steps((*program.setup, *program.steps)):
        if isinstance(step, Launch) and step.kernel not in functions:
            identity = kernel_identity(step.kernel)
            if identity not in numbers:
                numbers[identity] = len(distinct)
                distinct.append(step.kernel)
            functions[step.kernel] = numbers[identity]
    named = [(_function_name(i), kernel) for i, kernel in enumerate(distinct)]
    threads = min(available_processors(), MOST_THREADS)
    return functions, link(*compile_together(named, target, (_walker(target),), threads=threads))


def _function_name(number: int) -> str:
    return f"kernel_{number}"


def _kernel_names(functions: dict[Kernel, int]) -> list[str]:
    return [_function_name(i) for i in range(1 + max(functions.values(), default=-1))]


def _walker(target: Target) -> str:
    """The native runtime's LLVM text for the target's architecture."""
    text = resources.files("rlx.backends.cpu").joinpath("walker.ll").read_text()
    if target.triple.startswith("x86_64"):
        declaration, pause, futex = "declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()", "202"
    else:
        declaration, pause, futex = "declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)", "98"
    return text.replace("@PAUSE_DECLARATION@", declaration).replace("@PAUSE@", pause).replace("@FUTEX@", futex)


def _types(types: dict[str, TensorType]) -> list[list[Any]]:
    return [[name, t.dtype.name, list(t.sizes)] for name, t in types.items()]


def _table_facts(table: Tables) -> dict[str, Any]:
    return {
        "slots": table.slots,
        "arena_bytes": table.plan.size,
        "offsets": table.plan.offsets,
        "sizes": table.plan.sizes,
        "lower_bound": table.plan.lower_bound,
        "arena_map": table.arena_map,
        "labels": table.labels,
    }


def _report(
    program: LoweredProgram, functions: dict[Kernel, int], image: LinkedImage, schedules: Mapping[str, str]
) -> dict[str, Any]:
    own = {
        _function_name(number): schedules[kernel.identity]
        for kernel, number in functions.items()
        if isinstance(kernel, TemplateKernel) and kernel.identity in schedules
    }

    def rows(steps: Iterable[Step]) -> list[dict[str, Any]]:
        found = launch_rows(steps, lambda kernel: _function_name(functions[kernel]))
        return [{**row, "schedule": own.get(row["kernel"], "")} for row in found]

    return {
        "dispatch": [list(row) for row in program.dispatch],
        "setup": rows(program.setup),
        "steps": rows(program.steps),
        "code_bytes": image.code_bytes,
    }
