"""Matrix products in tiles, with their epilogues.

Operands are read along the dimension in which they are contiguous, four elements at once where they are aligned so.
Taken: f32, i32 and u32 with rows and columns enough to fill a part of a tile. A single row, or a few columns, is left
to loops, which workgroups share.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlx.backends.webgpu.division import Ranges, TiledKernel
from rlx.backends.webgpu.shares import Share, axes_of, row_major
from rlx.backends.webgpu.tiles import INVOCATIONS, Product, tile_for, turns
from rlx.codegen.kernel import Cost, Memory, TemplateKernel, Var
from rlx.codegen.lower import Epilogue, MatmulSpec
from rlx.codegen.wgsl import WgslTarget
from rlx.codegen.wgsl.body import BodyEmitter
from rlx.codegen.wgsl.expression import parts_of
from rlx.codegen.wgsl.interval import Interval
from rlx.codegen.wgsl.kernel import Shader, module_source, workgroup_grid
from rlx.codegen.wgsl.types import literal, register_type, storage_type
from rlx.ir import dtypes

TAKEN = (dtypes.f32, dtypes.i32, dtypes.u32)


@dataclass(frozen=True)
class Part:
    """Columns of a product from `start` on, with an epilogue of their own. m, n: its groups of dimensions."""

    start: int
    m: tuple[int, ...]
    n: tuple[int, ...]
    epilogue: Epilogue


def tiled_matmul(spec: MatmulSpec, epilogue: Epilogue, target: WgslTarget) -> TemplateKernel | None:
    """The kernel of a product, with arguments (a, b, *epilogue.args); None where it is left to loops."""
    return product_kernel(spec, [Part(0, spec.m, spec.n, epilogue)], target)


def product_kernel(spec: MatmulSpec, parts: Sequence[Part], target: WgslTarget) -> TemplateKernel | None:
    """The kernel of a product whose columns are those of `parts` in order; their epilogues have the same args."""
    if spec.a_dtype not in TAKEN or spec.b_dtype is not spec.a_dtype or spec.acc_dtype is not spec.a_dtype:
        return None
    m, n, k = math.prod(spec.m), math.prod(spec.n), math.prod(spec.k)
    if m < 4 or n < 16 or k < 8 or turns(k) > (target.max_turns or turns(k)):
        return None
    args = (spec.a, spec.b, *parts[0].epilogue.args)
    if len(args) > target.max_bindings:
        return None
    batch = math.prod(spec.batch)
    flops = sum(2.0 * k * math.prod(p.n) + p.epilogue.flops * math.prod(p.n) for p in parts)
    cost = Cost(batch * m * flops, 4.0 * batch * (m * k + k * n + m * n))

    division = _Division(spec, parts, args, target)
    whole = division.axes if len(parts) == 1 else {}
    kernel = template("matmul", args, batch * m * n, lambda bases: division.shader({}, bases), cost)
    return replace(kernel, division=division) if whole else kernel


class _Division:
    """How a product can be divided: along every dimension of its groups; along k, parts hand on their sums."""

    def __init__(
        self, spec: MatmulSpec, parts: Sequence[Part], operands: tuple[Memory, ...], target: WgslTarget
    ) -> None:
        self.spec, self.parts, self.operands, self.target = spec, parts, operands, target
        self.groups = {"batch": spec.batch, "m": spec.m, "n": spec.n, "k": spec.k}
        self.axes = axes_of(self.groups)
        self.results = row_major((*spec.batch, *spec.m, *spec.n))
        self.args = (*operands, Memory("sums", spec.acc_dtype, (1,), writable=True))
        self.handed = (math.prod((*spec.batch, *spec.m, *spec.n)),)

    def touched(self, ranges: Ranges) -> list[Interval | None]:
        share, spec, (part,) = Share(self.groups, ranges), self.spec, self.parts
        end, outputs = part.epilogue, ("batch", "m", "n")
        return [
            share.reach(("batch", "m", "k"), spec.a.strides),
            share.reach(("batch", "k", "n"), spec.b.strides),
            *share.touched_by(end.stores, end.index, outputs, end.args),
            *([] if share.whole("k") else [share.reach(outputs, self.results)]),
        ]

    def shader(self, ranges: Ranges, bases: Sequence[int]) -> Shader:
        share = Share(self.groups, ranges)
        args = self.operands if share.whole("k") else self.args
        return _shader(self.spec, self.parts, args, self.target, bases, share)


def template(
    label: str, args: tuple[Memory, ...], grid: int, shader: Callable[[Sequence[int]], Shader], cost: Cost
) -> TiledKernel:
    """A kernel whose text `shader` writes, for arguments that start so many elements into their bindings."""
    identity = hashlib.sha256(shader((0,) * len(args)).source.encode()).hexdigest()[:32]

    def emit(request: tuple[Sequence[int], Callable[[Shader], Any]]) -> None:
        bases, receive = request
        receive(shader(bases))

    return TiledKernel(label, args, grid, f"wgsl {label} {identity}", emit, cost)


def bind_arguments(
    emitter: BodyEmitter, args: Sequence[Memory], stored: set[str], bases: Sequence[int], vectors: Sequence[int] = ()
) -> list[str]:
    """Declarations of the arguments a0, a1, ...; those numbered in `vectors` are seen four elements at a time."""
    declarations = []
    for i, memory in enumerate(args):
        packed = storage_type(memory.dtype, emitter.target, written=memory.name in stored)
        emitter.bind_memory(memory, f"a{i}", atomic="atomic" in packed, base=bases[i])
        kind = f"vec4<{packed}>" if i in vectors else packed
        declarations.append(f"@group(0) @binding({i}) var<storage, read_write> a{i}: array<{kind}>;")
    return declarations


class MatrixSide:
    """One operand of a product, as `tiles.Operand` wants it. vector: four elements of a piece are one vector in memory.

    name: of its array. pieces_along_k: the four elements of a piece are neighbours along k, not along m or n.
    outer, k: (sizes, strides) of the outer dimensions and of k's. base, others: what else is added to each address.
    depth: steps of k that are loaded at a time.
    """

    def __init__(
        self,
        name: str,
        pieces_along_k: bool,
        start: str,
        outer: tuple[Sequence[int], Sequence[int]],
        k: tuple[Sequence[int], Sequence[int]],
        base: int,
        others: Sequence[int],
        zero: str,
        kind: str,
        depth: int,
    ) -> None:
        self.name, self.pieces_along_k, self.start, self.zero, self.kind = name, pieces_along_k, start, zero, kind
        (self.sizes, self.strides), (self.k_sizes, self.k_strides) = outer, k
        self.k = math.prod(self.k_sizes)
        self.ragged = self.k % depth != 0
        near = abs(self.k_strides[-1]) if self.k_strides else 1 << 30
        far = abs(self.strides[-1]) if self.strides else 1 << 30
        self.along_k = near <= far
        inner, rest = (k, outer) if pieces_along_k else (outer, k)
        steps = [*rest[1], *inner[1][:-1], *others, base]
        self.vector = (
            bool(inner[1]) and inner[1][-1] == 1 and inner[0][-1] % 4 == 0 and all(step % 4 == 0 for step in steps)
        )

    def begin(self, line: Callable[[str], None], piece: int, outer: str) -> None:
        single = self.pieces_along_k or self.vector
        for c in range(1 if single else 4):
            place, at = f"{self.name}i{piece}_{c}", f"{self.name}p{piece}_{c}"
            if c and len(self.sizes) == 1:
                line(f"let {at} = {self.name}p{piece}_0 + {c * self.strides[0]};")
                continue
            line(f"let {place} = {outer}{f' + {c}' if c else ''};")
            line(f"let {at} = {self.start} + {offset(place, self.sizes, self.strides)};")

    def load(self, line: Callable[[str], None], piece: int, k: str, into: str) -> None:
        line("{")
        line(f"let k = {k};")
        if self.vector:
            value = f"{self.name}[({self.name}p{piece}_0 + {offset('k', self.k_sizes, self.k_strides)}) / 4]"
            none = f"vec4<{self.kind}>({self.zero})"
            line(f"{into} = {f'select({none}, {value}, k < {self.k})' if self.ragged else value};")
        else:
            for c in range(4):
                outer, step = (0, c) if self.pieces_along_k else (c, 0)
                line(f"let k_{c} = k{f' + {step}' if step else ''};")
                address = f"{self.name}p{piece}_{outer} + {offset(f'k_{c}', self.k_sizes, self.k_strides)}"
                value = f"{self.name}[{address}]"
                line(f"let x{c} = {f'select({self.zero}, {value}, k_{c} < {self.k})' if self.ragged else value};")
            line(f"{into} = vec4<{self.kind}>(x0, x1, x2, x3);")
        line("}")


def _shader(
    spec: MatmulSpec,
    parts: Sequence[Part],
    args: tuple[Memory, ...],
    target: WgslTarget,
    bases: Sequence[int],
    share: Share,
) -> Shader:
    sizes = share.sizes
    batch, m, n, k = (math.prod(sizes[group]) for group in ("batch", "m", "n", "k"))
    kind, zero = register_type(spec.acc_dtype, target), literal(0, spec.acc_dtype, target)
    tile = tile_for(batch, m, n, large=not target.max_turns)
    groups = len(spec.batch)
    a_batch, a_m, a_k = _split(spec.a.strides, groups, len(spec.m))
    b_batch, b_k, b_n = _split(spec.b.strides, groups, len(spec.k))
    a_base = bases[0] + share.shift(("batch", "m", "k"), spec.a.strides)
    b_base = bases[1] + share.shift(("batch", "k", "n"), spec.b.strides)
    rows, columns, steps = sizes["m"], sizes["n"], sizes["k"]
    left = MatrixSide("a0", True, "a_start", (rows, a_m), (steps, a_k), a_base, a_batch, zero, kind, tile.depth)
    right = MatrixSide("a1", False, "b_start", (columns, b_n), (steps, b_k), b_base, b_batch, zero, kind, tile.depth)
    product = Product(batch, m, n, k, kind, zero, tile, left, right, target.workgroup_bytes)
    emitter = BodyEmitter(target)
    line = emitter.line
    stored = {s.memory.name for part in parts for s in part.epilogue.stores}
    vectors = [i for i, side in enumerate((left, right)) if side.vector]
    declarations = bind_arguments(emitter, args, stored, bases, vectors) + product.declarations()
    group, across, down = workgroup_grid(product.groups)
    product.place(line, group)
    line(f"let a_start = {a_base} + {offset('batch', sizes['batch'], a_batch)};")
    line(f"let b_start = {b_base} + {offset('batch', sizes['batch'], b_batch)};")
    product.sums(line)

    def each() -> None:
        if len(parts) == 1:
            total = hand_on(line, share, "k", ("batch", "m", "n"), len(args) - 1, bases[-1])
            if total:
                places = [(name, sizes[name], share.starts[name]) for name in ("batch", "m", "n")]
                _finish(emitter, parts[0], total, places)
            return
        for part in parts:
            line(f"if (n >= {part.start} && n < {part.start + math.prod(part.n)}) {{")
            line(f"let own = n - {part.start};")
            with emitter.scope():
                _finish(
                    emitter, part, "total", [("m", part.m, (0,) * len(part.m)), ("own", part.n, (0,) * len(part.n))]
                )
            line("}")

    product.finish(emitter, each)
    source = module_source(declarations, emitter.lines, INVOCATIONS)
    return Shader(source, len(args), (across, down))


def hand_on(
    line: Callable[[str], None], share: Share, summed: str, outputs: Sequence[str], memory: int, base: int
) -> str:
    """What has the finished sum of `total` and of what earlier parts had; "" in a part that others follow.

    outputs: groups of the results' dimensions, whose flat indices stand in variables of these names. memory: number of
    the binding in which parts find and leave their sums, dense, `base` elements from its start.
    """
    if share.whole(summed):
        return "total"
    strides = list(row_major([n for name in outputs for n in share.groups[name]]))
    place = str(base + share.shift(outputs, strides))
    for name in outputs:
        count = len(share.sizes[name])
        place += f" + {offset(name, share.sizes[name], strides[:count])}"
        del strides[:count]
    line(f"let place = {place};")
    line(f"let sum = total{'' if share.first(summed) else f' + a{memory}[place]'};")
    if share.last(summed):
        return "sum"
    line(f"a{memory}[place] = sum;")
    return ""


def _finish(
    emitter: BodyEmitter, part: Part, total: str, places: Sequence[tuple[str, Sequence[int], Sequence[int]]]
) -> None:
    """The epilogue of the sum `total`. places: a flat index, the sizes that it counts over, and where they start."""
    emitter.bind_value(part.epilogue.acc, total)
    bind_places(emitter, part.epilogue.index, places)
    emitter.body(part.epilogue.stores)


def bind_places(
    emitter: BodyEmitter, index: Sequence[Var], places: Sequence[tuple[str, Sequence[int], Sequence[int]]]
) -> None:
    """Bind variables to the dimensions of flat indices. places: (flat, sizes that it counts over, where they start)."""
    variables = iter(index)
    for flat, sizes, starts in places:
        for part, size, start in zip(parts_of(flat, sizes), sizes, starts, strict=True):
            emitter.bind_index(next(variables), f"{part} + {start}" if start else part, start + size)


def _split(strides: Sequence[Any], batch: int, first: int) -> tuple[list[int], list[int], list[int]]:
    whole = [int(s) for s in strides]
    return whole[:batch], whole[batch : batch + first], whole[batch + first :]


def offset(flat: str, sizes: Sequence[int], strides: Sequence[int]) -> str:
    """How many elements from the start the flat index over `sizes` is, as an expression."""
    terms = [f"{part} * {stride}" for part, stride in zip(parts_of(flat, sizes), strides, strict=True) if stride]
    return "(" + " + ".join(terms or ["0"]) + ")"
