"""One loop kernel as one WGSL compute shader.

A kernel of a known form (`nests`) is divided among invocations as `schedule` says: lanes side by side, long rows by
workgroups. Of any other, an invocation takes one index of the grid, and its loops run in sequence. Where there are more
workgroups than a dimension may count, they are laid out in rows.

Every argument is a storage buffer of its own, bound for reading and writing, as one buffer (the arena) may stand behind
several of them. Names are given in order of appearance, so equal kernels give equal text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlx.codegen.kernel import Const, LoopKernel, Store, While
from rlx.codegen.wgsl.body import BodyEmitter
from rlx.codegen.wgsl.library import functions_for
from rlx.codegen.wgsl.nests import Form, form_of
from rlx.codegen.wgsl.schedule import ALONE, Schedule, schedule
from rlx.codegen.wgsl.types import WgslTarget, storage_type
from rlx.codegen.wgsl.walk import iterations, within
from rlx.codegen.wgsl.workgroup import WorkgroupEmitter
from rlx.errors import UnsupportedKernel

#: Workgroups in one row of the dispatch; WebGPU allows 65535 a dimension.
_ROW = 32768
#: Turns of a kernel's own loops that stand in one turn of the shader's, at most, where the device counts them.
_MOST_UNROLLED = 32


@dataclass(frozen=True)
class Shader:
    """source: WGSL, entry point `main`. bindings: storage buffers 0 to bindings - 1. workgroups: of one dispatch.

    scratch: bytes of a further buffer, bound behind the others, whose content means nothing before and after; or 0.
    """

    source: str
    bindings: int
    workgroups: tuple[int, int]
    scratch: int = 0


def emit_kernel(kernel: LoopKernel, target: WgslTarget, bases: Sequence[int] | None = None) -> Shader:
    """The shader of a kernel whose grid is known.

    bases: elements from the start of each binding to the start of its argument; binding offsets are coarser than
        elements.
    Raises UnsupportedKernel for what WGSL, or the target, cannot express.
    """
    if not isinstance(kernel.grid, Const) or kernel.sizes:
        raise UnsupportedKernel(f"kernel {kernel.label} has sizes known only at run time, WGSL needs them now")
    if len(kernel.args) > target.max_bindings:
        raise UnsupportedKernel(
            f"kernel {kernel.label} has {len(kernel.args)} arguments, the device binds {target.max_bindings}",
            hint="run the model on a device that binds more",
        )
    grid, form = int(kernel.grid.value.real), form_of(kernel)
    items = grid * (form.lanes if form is not None else 1)
    layout = schedule(form, items) if form is not None else Schedule(ALONE, 1, True)
    if items >= 1 << 31 or items * layout.sharers >= 1 << 31:
        raise UnsupportedKernel(f"kernel {kernel.label} has a grid of {items}, above 2**31")
    spills = form is None and len(kernel.args) < target.max_bindings
    emitter = BodyEmitter(target, lanes=grid if spills else 0)
    emitter.unroll = _unrolled(kernel, _turns(kernel, form, layout), target)
    if form is not None and not target.max_turns:
        emitter.abreast = _abreast(form, layout)
    declarations = []
    stored = {s.memory.name for s in within(kernel.body) if isinstance(s, Store)}
    for i, memory in enumerate(kernel.args):
        packed = storage_type(memory.dtype, target, written=memory.name in stored)
        emitter.bind_memory(memory, f"a{i}", atomic="atomic" in packed, base=bases[i] if bases else 0)
        declarations.append(f"@group(0) @binding({i}) var<storage, read_write> a{i}: array<{packed}>;")
    groups = -(-items // layout.items)
    group, columns, rows = workgroup_grid(groups)
    if form is None:
        emitter.line(f"let flat = i32({group} * {ALONE}u + local);")
        emitter.line(f"if (flat >= {grid}) {{ return; }}")
        emitter.bind_index(kernel.index, "flat", max(grid, 1))
        emitter.body(kernel.body)
    else:
        together = WorkgroupEmitter(kernel, form, layout, emitter)
        together.emit(group, groups)
        declarations += together.declarations
    if emitter.scratch:
        declarations.append(f"@group(0) @binding({len(kernel.args)}) var<storage, read_write> scratch: array<u32>;")
    source = module_source(declarations, emitter.lines, layout.invocations)
    return Shader(source, len(kernel.args), (columns, rows), 4 * emitter.scratch * grid)


def _turns(kernel: LoopKernel, form: Form | None, layout: Schedule) -> int:
    """Turns of loops that one invocation takes; estimated where some are not known before it runs."""
    if form is not None:
        return sum(-(-n.turns // layout.sharers) * (1 + iterations(n.body)) + 32 for n in form.nests)
    turns = iterations(kernel.body)
    if any(isinstance(s, While) for s in within(kernel.body)):
        # A sort: each of its steps costs four operations.
        assert isinstance(kernel.grid, Const)
        turns = max(turns, int(kernel.cost.flops / 4 / max(kernel.grid.value.real, 1)))
    return turns


def _abreast(form: Form, layout: Schedule) -> int:
    """How many turns of a shared loop to have under way at once: memory is far."""
    turns = max((n.turns // layout.sharers for n in form.nests), default=1)
    return 8 if turns >= 32 else 4 if turns >= 4 else 1


def _unrolled(kernel: LoopKernel, turns: int, target: WgslTarget) -> int:
    """How often innermost loops are unrolled. Raises UnsupportedKernel where the device would still leave them."""
    if not target.max_turns or turns <= target.max_turns // 2:
        return 1
    times = -(-turns // (target.max_turns // 2))
    if times > _MOST_UNROLLED:
        raise UnsupportedKernel(
            f"an invocation of kernel {kernel.label} takes about {turns} turns of loops, the device's shaders stop "
            f"after {target.max_turns}",
            hint="run the model on another device, or in smaller pieces",
        )
    return times


def workgroup_grid(groups: int) -> tuple[str, int, int]:
    """(a workgroup's number as an expression, columns, rows of the dispatch); numbers past `groups` occur."""
    rows = -(-groups // _ROW)
    return ("wg.x", groups, 1) if rows <= 1 else (f"(wg.y * {_ROW}u + wg.x)", _ROW, rows)


def module_source(declarations: Sequence[str], lines: Sequence[str], workgroup: int) -> str:
    """A whole shader: what its body needs, and the body, which sees `wg` and `local`."""
    text = "\n".join(lines)
    parts = [
        *declarations,
        functions_for(text),
        f"@compute @workgroup_size({workgroup})",
        "fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) local: u32) {",
        text,
        "}",
    ]
    return "\n".join(parts) + "\n"
