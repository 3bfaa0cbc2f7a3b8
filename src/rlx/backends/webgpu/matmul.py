"""Matrix products in tiles: one workgroup computes one of the result, from tiles of the operands in its memory.

256 invocations hold a tile of 16 R rows by 64 columns, R rows of 4 columns each in registers; both operands pass
through workgroup memory 16 steps of k at a time. An invocation's columns lie 16 apart, so that neighbours store to
neighbouring addresses; operands are read along the dimension in which they are contiguous. Each sum runs over k in
order, so results do not depend on the number of workgroups. The epilogue runs on each element as it is finished.

Taken: f32, i32 and u32 with rows and columns enough to fill a part of a tile. A single row, or a few columns, is left
to loops, where each element is an invocation of its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from rlx.codegen.kernel import Cost, Memory, TemplateKernel, Var
from rlx.codegen.lower import Epilogue, MatmulSpec
from rlx.codegen.wgsl import WgslTarget
from rlx.codegen.wgsl.body import BodyEmitter
from rlx.codegen.wgsl.kernel import Shader, module_source, workgroup_grid
from rlx.codegen.wgsl.types import literal, register_type, storage_type
from rlx.ir import dtypes

_SIDE = 16  # invocations along each side of a tile
_COLUMNS = 64
_DEPTH = 16
_TAKEN = (dtypes.f32, dtypes.i32, dtypes.u32)


def tiled_matmul(spec: MatmulSpec, epilogue: Epilogue, target: WgslTarget) -> TemplateKernel | None:
    """The kernel of a product, with arguments (a, b, *epilogue.args); None where it is left to loops."""
    if spec.a_dtype not in _TAKEN or spec.b_dtype is not spec.a_dtype or spec.acc_dtype is not spec.a_dtype:
        return None
    m, n, k = math.prod(spec.m), math.prod(spec.n), math.prod(spec.k)
    if m < 4 or n < 16 or k < 8:
        return None
    args = (spec.a, spec.b, *epilogue.args)
    if len(args) > target.max_bindings:
        return None
    emitter = _Tile(spec, epilogue, args, target)
    identity = hashlib.sha256(emitter.shader((0,) * len(args)).source.encode()).hexdigest()[:32]

    def emit(request: tuple[Sequence[int], Callable[[Shader], Any]]) -> None:
        bases, receive = request
        receive(emitter.shader(bases))

    batch = math.prod(spec.batch)
    cost = Cost(batch * m * n * (2.0 * k + epilogue.flops), 4.0 * batch * (m * k + k * n + m * n))
    return TemplateKernel("matmul", args, batch * m * n, f"wgsl matmul {identity}", emit, cost)


class _Tile:
    def __init__(self, spec: MatmulSpec, epilogue: Epilogue, args: tuple[Memory, ...], target: WgslTarget) -> None:
        self.spec, self.epilogue, self.args, self.target = spec, epilogue, args, target
        self.m, self.n, self.k = math.prod(spec.m), math.prod(spec.n), math.prod(spec.k)
        self.rows = 1 if self.m <= 16 else 2 if self.m <= 32 else 4
        self.kind = register_type(spec.acc_dtype, target)

    def shader(self, bases: Sequence[int]) -> Shader:
        """The shader for arguments that start `bases` elements into their bindings."""
        emitter = BodyEmitter(self.target)
        declarations = []
        stored = {s.memory.name for s in self.epilogue.stores}
        for i, memory in enumerate(self.args):
            packed = storage_type(memory.dtype, self.target, written=memory.name in stored)
            emitter.bind_memory(memory, f"a{i}", atomic="atomic" in packed, base=bases[i])
            declarations.append(f"@group(0) @binding({i}) var<storage, read_write> a{i}: array<{packed}>;")
        high = _SIDE * self.rows
        declarations.append(f"var<workgroup> left: array<{self.kind}, {high * _DEPTH}>;")
        declarations.append(f"var<workgroup> right: array<{self.kind}, {_COLUMNS * _DEPTH}>;")
        across, down = -(-self.n // _COLUMNS), -(-self.m // high)
        groups, columns, rows = workgroup_grid(math.prod(self.spec.batch) * across * down)
        line = emitter.line
        line(f"let tile = i32({groups});")
        line(f"if (tile >= {math.prod(self.spec.batch) * across * down}) {{ return; }}")
        line(f"let n0 = (tile % {across}) * {_COLUMNS};")
        line(f"let m0 = ((tile / {across}) % {down}) * {high};")
        line(f"let batch = tile / {across * down};")
        line(f"let tx = i32(local) % {_SIDE};")
        line(f"let ty = i32(local) / {_SIDE};")
        self._sums(emitter, bases)
        self._finish(emitter)
        source = module_source(declarations, emitter.lines, self.target, _SIDE * _SIDE)
        return Shader(source, len(self.args), (columns, rows))

    def _sums(self, emitter: BodyEmitter, bases: Sequence[int]) -> None:
        line, spec = emitter.line, self.spec
        zero = literal(0, spec.acc_dtype, self.target)
        for r in range(self.rows):
            line(f"var c{r} = vec4<{self.kind}>({zero});")
        groups = len(spec.batch)
        a_batch, a_m, a_k = _split(spec.a.strides, groups, len(spec.m))
        b_batch, b_k, b_n = _split(spec.b.strides, groups, len(spec.k))
        line(f"let a_start = {bases[0]} + {_offset('batch', spec.batch, a_batch)};")
        line(f"let b_start = {bases[1]} + {_offset('batch', spec.batch, b_batch)};")
        line(f"for (var k0 = 0i; k0 < {self.k}; k0 = k0 + {_DEPTH}) {{")
        line("workgroupBarrier();")
        high = _SIDE * self.rows
        along_k = not a_m or (bool(a_k) and abs(a_k[-1]) <= abs(a_m[-1]))
        for part in range(high * _DEPTH // 256):
            place = f"(i32(local) + {part * 256})"
            row, depth = (
                (f"{place} / {_DEPTH}", f"{place} % {_DEPTH}")
                if along_k
                else (f"{place} % {high}", f"{place} / {high}")
            )
            self._load(line, "a0", "left", high, ("m", row, spec.m, a_m, self.m), (depth, spec.k, a_k), "a_start", zero)
        along_k = not b_n or (bool(b_k) and abs(b_k[-1]) < abs(b_n[-1]))
        for part in range(_COLUMNS * _DEPTH // 256):
            place = f"(i32(local) + {part * 256})"
            column, depth = (
                (f"{place} / {_DEPTH}", f"{place} % {_DEPTH}")
                if along_k
                else (f"{place} % {_COLUMNS}", f"{place} / {_COLUMNS}")
            )
            outer = ("n", column, spec.n, b_n, self.n)
            self._load(line, "a1", "right", _COLUMNS, outer, (depth, spec.k, b_k), "b_start", zero)
        line("workgroupBarrier();")
        line(f"for (var kk = 0i; kk < {_DEPTH}; kk = kk + 1i) {{")
        columns = ", ".join(f"right[kk * {_COLUMNS} + tx + {j * _SIDE}]" for j in range(4))
        line(f"let b = vec4<{self.kind}>({columns});")
        for r in range(self.rows):
            line(f"c{r} = c{r} + left[kk * {high} + ty * {self.rows} + {r}] * b;")
        line("}")
        line("}")

    def _load(
        self,
        line: Callable[[str], None],
        memory: str,
        into: str,
        width: int,
        outer: tuple[str, str, Sequence[int], Sequence[int], int],
        inner: tuple[str, Sequence[int], Sequence[int]],
        start: str,
        zero: str,
    ) -> None:
        letter, place, sizes, strides, limit = outer
        depth, k_sizes, k_strides = inner
        line("{")
        line(f"let o = {place};")
        line(f"let d = {depth};")
        line(f"let {letter} = {letter}0 + o;")
        line("let k = k0 + d;")
        address = f"{start} + {_offset(letter, sizes, strides)} + {_offset('k', k_sizes, k_strides)}"
        line(f"var value = {zero};")
        line(f"if ({letter} < {limit} && k < {self.k}) {{ value = {memory}[{address}]; }}")
        line(f"{into}[d * {width} + o] = value;")
        line("}")

    def _finish(self, emitter: BodyEmitter) -> None:
        line, spec = emitter.line, self.spec
        rows = ", ".join(f"c{r}" for r in range(self.rows))
        line(f"var sums = array<vec4<{self.kind}>, {self.rows}>({rows});")
        line(f"for (var e = 0i; e < {4 * self.rows}; e = e + 1i) {{")
        line(f"let m = m0 + ty * {self.rows} + e / 4;")
        line(f"let n = n0 + tx + (e % 4) * {_SIDE};")
        line(f"if (m < {self.m} && n < {self.n}) {{")
        line("let total = sums[e / 4][e % 4];")
        emitter.bind_value(self.epilogue.acc, "total")
        variables: list[Var] = list(self.epilogue.index)
        for flat, sizes in (("batch", spec.batch), ("m", spec.m), ("n", spec.n)):
            for part, size in zip(_parts(flat, sizes), sizes, strict=True):
                emitter.bind_index(variables.pop(0), part, size)
        emitter.body(self.epilogue.stores)
        line("}")
        line("}")


def _split(strides: Sequence[Any], batch: int, first: int) -> tuple[list[int], list[int], list[int]]:
    whole = [int(s) for s in strides]
    return whole[:batch], whole[batch : batch + first], whole[batch + first :]


def _parts(flat: str, sizes: Sequence[int]) -> list[str]:
    """The index of each dimension, from one flat index over all of them."""
    parts = []
    inner = math.prod(sizes)
    for i, size in enumerate(sizes):
        inner //= size
        part = flat if inner == 1 else f"({flat} / {inner})"
        parts.append(part if i == 0 else f"({part} % {size})")
    return parts


def _offset(flat: str, sizes: Sequence[int], strides: Sequence[int]) -> str:
    terms = [f"{part} * {stride}" for part, stride in zip(_parts(flat, sizes), strides, strict=True) if stride]
    return "(" + " + ".join(terms or ["0"]) + ")"
