"""One loop kernel as one WGSL compute shader.

An invocation takes one index of the grid, in workgroups of 64; where the grid has more workgroups than a dimension may
count, they are laid out in rows. Where the body is a few lets and one vector loop, each of the loop's iterations is an
invocation of its own. Other loops run in sequence.

Every argument is a storage buffer of its own, bound for reading and writing, as one buffer (the arena) may stand behind
several of them. Names are given in order of appearance, so equal kernels give equal text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlx.codegen.kernel import Accumulate, Assign, Const, Declare, Let, Loop, LoopKernel, Memory, Stmt, Store
from rlx.codegen.wgsl.body import BodyEmitter, iterations
from rlx.codegen.wgsl.library import functions_for
from rlx.codegen.wgsl.types import WgslTarget, storage_type
from rlx.errors import UnsupportedKernel

WORKGROUP = 64
#: Workgroups in one row of the dispatch; WebGPU allows 65535 a dimension.
_ROW = 32768
#: Mesa's software adapter leaves a shader's loops, silently, after 65535 turns in all: longer kernels are unrolled.
_TURNS = 40000
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
            hint="compile with optimize=False, which fuses less",
        )
    grid, body, split = int(kernel.grid.value.real), kernel.body, _splittable(kernel.body)
    extent = 1
    if split is not None:
        assert isinstance(split.extent, Const)
        extent = int(split.extent.value.real)
    threads = grid * extent
    if threads >= 1 << 31:
        raise UnsupportedKernel(f"kernel {kernel.label} has a grid of {threads}, above 2**31")
    emitter = BodyEmitter(target, lanes=threads if len(kernel.args) < target.max_bindings else 0)
    turns = iterations(split.body if split is not None else body)
    emitter.unroll = 1 if turns <= _TURNS else min(_MOST_UNROLLED, -(-turns // _TURNS))
    declarations = []
    for i, memory in enumerate(kernel.args):
        packed = storage_type(memory.dtype, target, written=_written(kernel, memory))
        emitter.bind_memory(memory, f"a{i}", atomic="atomic" in packed, base=bases[i] if bases else 0)
        declarations.append(f"@group(0) @binding({i}) var<storage, read_write> a{i}: array<{packed}>;")
    group, columns, rows = workgroup_grid(-(-threads // WORKGROUP))
    emitter.line(f"let flat = i32({group} * {WORKGROUP}u + local);")
    emitter.line(f"if (flat >= {threads}) {{ return; }}")
    if split is None:
        emitter.bind_index(kernel.index, "flat", max(grid, 1))
        emitter.body(body)
    else:
        emitter.bind_index(kernel.index, f"flat / {extent}", max(grid, 1))
        emitter.split_body(body[:-1], split, f"flat % {extent}")
    if emitter.scratch:
        declarations.append(f"@group(0) @binding({len(kernel.args)}) var<storage, read_write> scratch: array<u32>;")
    source = module_source(declarations, emitter.lines, target, WORKGROUP)
    return Shader(source, len(kernel.args), (columns, rows), 4 * emitter.scratch * threads)


def workgroup_grid(groups: int) -> tuple[str, int, int]:
    """(a workgroup's number as an expression, columns, rows of the dispatch); numbers past `groups` occur."""
    rows = -(-groups // _ROW)
    return ("wg.x", groups, 1) if rows <= 1 else (f"(wg.y * {_ROW}u + wg.x)", _ROW, rows)


def module_source(declarations: Sequence[str], lines: Sequence[str], target: WgslTarget, workgroup: int) -> str:
    """A whole shader: what its body needs, and the body, which sees `wg` and `local`."""
    text = "\n".join(lines)
    parts = [
        *declarations,
        functions_for(text, target),
        f"@compute @workgroup_size({workgroup})",
        "fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) local: u32) {",
        text,
        "}",
    ]
    return "\n".join(parts) + "\n"


def _written(kernel: LoopKernel, memory: Memory) -> bool:
    return any(s.memory.name == memory.name for s in _stores(kernel.body))


def _stores(body: Sequence[Stmt]) -> list[Store]:
    found: list[Store] = []
    for stmt in body:
        if isinstance(stmt, Store):
            found.append(stmt)
        for part in ("body", "then", "orelse"):
            found += _stores(getattr(stmt, part, ()))
    return found


def _splittable(body: Sequence[Stmt]) -> Loop | None:
    """The vector loop that is all that the body does, lets aside; None where there is none."""
    if not body or not all(isinstance(s, Let) for s in body[:-1]):
        return None
    loop = body[-1]
    if not isinstance(loop, Loop) or loop.kind != "vector" or not isinstance(loop.extent, Const):
        return None
    return loop if int(loop.extent.value.real) > 0 and _independent(loop.body, set()) else None


def _independent(body: Sequence[Stmt], own: set[str]) -> bool:
    """Whether iterations touch no variable from outside."""
    own = set(own)
    for stmt in body:
        if isinstance(stmt, Declare):
            own.add(stmt.var.name)
        elif isinstance(stmt, Accumulate | Assign):
            if stmt.var.name not in own:
                return False
        elif not all(_independent(getattr(stmt, part, ()), own) for part in ("body", "then", "orelse")):
            return False
    return True
