"""Compile a graph for the CPU: passes, lowering, memory plan, native code, one artefact.

This is the heavy half of the backend: it imports LLVM, and is itself imported only when something must be compiled.
Compiling is pure and may run in any thread. LLVM stays loaded after it, its memory does not stay resident.
"""

from __future__ import annotations

from collections.abc import Collection

from rlx.backends.cpu.assemble import assemble
from rlx.backends.cpu.conv import prefers_channels_last
from rlx.backends.cpu.host import resolve_target
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.backends.cpu.scheduled import ScheduledTemplates
from rlx.backends.cpu.tuning import Tuner
from rlx.codegen.llvm.residency import release_memory
from rlx.codegen.lower import lower
from rlx.codegen.lower.templates import Templates
from rlx.codegen.program import LoweredProgram
from rlx.codegen.target import PRESETS
from rlx.driver import Artifact, Device
from rlx.driver.backend import TuningRecords
from rlx.ir import Graph, verify
from rlx.options import Options
from rlx.passes.channels_last import channels_last
from rlx.passes.inline import dispatch_report
from rlx.passes.pipeline import optimize


def compile_graph(
    graph: Graph,
    device: Device,
    options: Options,
    *,
    donate: Collection[str] = (),
    records: TuningRecords | None = None,
) -> Artifact:
    """Compile `graph`, whose shapes are all known. Raises the errors of the stages, naming the model's node.

    A target that is named need not be this machine's; loading refuses what cannot run here.
    donate: names of inputs that runs may overwrite.
    records: measure schedules, keep them there, and use those that are there already.
    """
    native = options.target == "native"
    target = PRESETS[resolve_target("native", options.precision) if native else options.target]
    check = verify if options.verify else None
    optimized = optimize(graph, level=2 if options.optimize else 0, precision=options.precision, verify=check)
    if options.optimize:
        optimized = channels_last(optimized, prefers_channels_last)
        if check is not None:
            check(optimized)

    def lowered(templates: Templates) -> LoweredProgram:
        return lower(optimized, templates, fuse=options.optimize, dispatch=dispatch_report(graph), donate=donate)

    if records is None:
        artifact = assemble(lowered(CpuTemplates(target, options.convolution)), target, options)
    else:
        tuning = Tuner(lowered, target, device, options, records).tune()
        templates = ScheduledTemplates(target, options.convolution, tuning.schedules)
        program = lowered(templates)
        artifact = assemble(
            program, target, options, tuning=tuning.rows, untuned=tuning.left, schedules=templates.chosen
        )
    release_memory()
    return artifact
