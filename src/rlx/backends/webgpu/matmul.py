"""Matrix products in tiles, with their epilogues.

Operands are read along the dimension in which they are contiguous, four elements at once where they are aligned so.
Taken: f32, i32 and u32 with rows and columns enough to fill a part of a tile. A single row, or a few columns, is left
to loops, which workgroups share.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlx.backends.webgpu.tiles import INVOCATIONS, Product, tile_for, turns
from rlx.codegen.kernel import Cost, Memory, TemplateKernel, Var
from rlx.codegen.lower import Epilogue, MatmulSpec
from rlx.codegen.wgsl import WgslTarget
from rlx.codegen.wgsl.body import BodyEmitter, parts_of
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

    def shader(bases: Sequence[int]) -> Shader:
        return _shader(spec, parts, args, target, bases)

    return template("matmul", args, batch * m * n, shader, cost)


def template(
    label: str, args: tuple[Memory, ...], grid: int, shader: Callable[[Sequence[int]], Shader], cost: Cost
) -> TemplateKernel:
    """A kernel whose text `shader` writes, for arguments that start so many elements into their bindings."""
    identity = hashlib.sha256(shader((0,) * len(args)).source.encode()).hexdigest()[:32]

    def emit(request: tuple[Sequence[int], Callable[[Shader], Any]]) -> None:
        bases, receive = request
        receive(shader(bases))

    return TemplateKernel(label, args, grid, f"wgsl {label} {identity}", emit, cost)


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
    spec: MatmulSpec, parts: Sequence[Part], args: tuple[Memory, ...], target: WgslTarget, bases: Sequence[int]
) -> Shader:
    batch, m, n, k = (math.prod(s) for s in (spec.batch, spec.m, spec.n, spec.k))
    kind, zero = register_type(spec.acc_dtype, target), literal(0, spec.acc_dtype, target)
    tile = tile_for(batch, m, n, large=not target.max_turns)
    groups = len(spec.batch)
    a_batch, a_m, a_k = _split(spec.a.strides, groups, len(spec.m))
    b_batch, b_k, b_n = _split(spec.b.strides, groups, len(spec.k))
    left = MatrixSide("a0", True, "a_start", (spec.m, a_m), (spec.k, a_k), bases[0], a_batch, zero, kind, tile.depth)
    right = MatrixSide("a1", False, "b_start", (spec.n, b_n), (spec.k, b_k), bases[1], b_batch, zero, kind, tile.depth)
    product = Product(batch, m, n, k, kind, zero, tile, left, right, target.workgroup_bytes)
    emitter = BodyEmitter(target)
    stored = {s.memory.name for part in parts for s in part.epilogue.stores}
    vectors = [i for i, side in enumerate((left, right)) if side.vector]
    declarations = bind_arguments(emitter, args, stored, bases, vectors) + product.declarations()
    group, columns, rows = workgroup_grid(product.groups)
    product.place(emitter.line, group)
    emitter.line(f"let a_start = {bases[0]} + {offset('batch', spec.batch, a_batch)};")
    emitter.line(f"let b_start = {bases[1]} + {offset('batch', spec.batch, b_batch)};")
    product.sums(emitter.line)

    def each() -> None:
        for part in parts:
            if len(parts) == 1:
                _finish(emitter, spec.batch, part, "n")
                return
            emitter.line(f"if (n >= {part.start} && n < {part.start + math.prod(part.n)}) {{")
            emitter.line(f"let own = n - {part.start};")
            with emitter.scope():
                _finish(emitter, spec.batch, part, "own")
            emitter.line("}")

    product.finish(emitter, each)
    source = module_source(declarations, emitter.lines, target, INVOCATIONS)
    return Shader(source, len(args), (columns, rows))


def _finish(emitter: BodyEmitter, batch: Sequence[int], part: Part, column: str) -> None:
    """The epilogue of one sum, at row `m` and a column of the part."""
    emitter.bind_value(part.epilogue.acc, "total")
    variables: list[Var] = list(part.epilogue.index)
    for flat, sizes in (("batch", batch), ("m", part.m), (column, part.n)):
        for place, size in zip(parts_of(flat, sizes), sizes, strict=True):
            emitter.bind_index(variables.pop(0), place, size)
    emitter.body(part.epilogue.stores)


def _split(strides: Sequence[Any], batch: int, first: int) -> tuple[list[int], list[int], list[int]]:
    whole = [int(s) for s in strides]
    return whole[:batch], whole[batch : batch + first], whole[batch + first :]


def offset(flat: str, sizes: Sequence[int], strides: Sequence[int]) -> str:
    """How many elements from the start the flat index over `sizes` is, as an expression."""
    terms = [f"{part} * {stride}" for part, stride in zip(parts_of(flat, sizes), strides, strict=True) if stride]
    return "(" + " + ".join(terms or ["0"]) + ")"
