"""Attention in WGSL: a workgroup keeps a block of queries and streams the keys past them, 64 at a time.

Scores never reach memory. For each block of keys: products of queries and keys, from tiles in workgroup memory; the
scores' own arithmetic (scale, mask, bias); then the online softmax (Milakov & Gimelshein 2018; FlashAttention-2, Dao
2023): a running maximum and total a query, in f32, by which what is summed so far is scaled when the maximum grows;
then the weights' products with the values. Keys are taken in order, and blocks depend on the device's workgroup memory
alone, so equal runs give equal bits.

128 invocations stand 16 across and 8 down. For scores each has 4 neighbouring keys of a few queries; for results, some
vectors of 4 of the values' own dimension, of a few queries.

Keys that a causal mask hides from the whole block are not scored. Their weight of 0 times a value that is no finite
number is NaN all the same: those values are looked at for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlx.backends.webgpu.matmul import MatrixSide, bind_arguments, bind_places, offset
from rlx.backends.webgpu.shares import Share
from rlx.codegen.kernel import Memory, Var
from rlx.codegen.lower import AttentionSpec, Epilogue
from rlx.codegen.wgsl import WgslTarget
from rlx.codegen.wgsl.body import BodyEmitter
from rlx.codegen.wgsl.kernel import Shader, module_source, workgroup_grid

_ACROSS, _DOWN = 16, 8
INVOCATIONS = _ACROSS * _DOWN
KEYS = 4 * _ACROSS
#: Elements from one query's partial results to the next: off one bank.
_PARTS = _ACROSS + 1


@dataclass(frozen=True)
class Blocks:
    """What of it all is in workgroup memory at a time: queries; depth, of d, of a block of keys; values."""

    queries: int
    depth: int
    values: int

    @staticmethod
    def of(m: int, d: int, e: int, limit: int) -> Blocks | None:
        """The largest blocks that fit into `limit` bytes; None where none do."""
        d4, e4 = -(-d // 4), -(-e // 4)
        for queries in (32, 16, 8):
            if queries > 8 and m <= queries // 2:
                continue
            left = limit - 16 * queries * (d4 + KEYS // 4) - 4 * queries * (_PARTS + 1)
            depths = [c for c in range(d4, 0, -1) if d4 % c == 0 and 16 * KEYS * (c + 1) <= left]
            values = [c for c in (64, 32, 16, 8, 4) if 16 * (c * e4 + _ACROSS) <= left]
            if depths and values and (depths[0] >= min(4, d4) or queries == 8):
                return Blocks(queries, 4 * depths[0], values[0])
        return None

    def turns(self, d: int, e: int) -> int:
        """Turns of loops that one invocation takes for a block of keys, at most."""
        d4, e4 = -(-d // 4), -(-e // 4)
        products = d4 // (self.depth // 4) * (2 + self.depth // 4 + -(-KEYS * self.depth // 4 // INVOCATIONS))
        softmax = self.queries // _DOWN * (4 + 1 + _ACROSS + 4)
        mix = KEYS // self.values * (2 + self.values // 4 + -(-self.values * e4 // INVOCATIONS))
        return products + softmax + mix


class AttentionShader:
    """The text of one launch's shader. share: where its batches and queries start; `spec` is of its own sizes."""

    def __init__(
        self,
        spec: AttentionSpec,
        epilogue: Epilogue,
        args: tuple[Memory, ...],
        target: WgslTarget,
        blocks: Blocks,
        bases: Sequence[int],
        share: Share,
    ) -> None:
        self.share = share
        self.spec, self.epilogue, self.args, self.blocks, self.bases = spec, epilogue, args, blocks, bases
        self.batch, self.m, self.n, d, e = (math.prod(s) for s in (spec.batch, spec.m, spec.n, spec.d, spec.e))
        self.e, self.d4, self.e4 = e, -(-d // 4), -(-e // 4)
        self.emitter = BodyEmitter(target)
        self.line = self.emitter.line
        self.rows = blocks.queries // _DOWN  # queries of one invocation, for scores
        self.across = min(_ACROSS, 1 << (self.e4.bit_length() - 1))  # invocations side by side, for results
        self.vectors = -(-self.e4 // self.across)
        self.kept = blocks.queries * self.across // INVOCATIONS or 1  # queries of one invocation, for results
        split = [
            self._split(memory, len(group)) for memory, group in ((spec.q, spec.m), (spec.k, spec.n), (spec.v, spec.n))
        ]
        sizes = ((spec.m, spec.d), (spec.n, spec.d), (spec.n, spec.e))
        self.sides = [
            MatrixSide(f"a{i}", True, f"start{i}", (outer, along), (inner, within), bases[i], over, "0.0f", "f32", 4)
            for i, ((outer, inner), (over, along, within)) in enumerate(zip(sizes, split, strict=True))
        ]
        self.starts = [f"{bases[i]} + {offset('batch', spec.batch, over)}" for i, (over, _, _) in enumerate(split)]

    def _split(self, memory: Memory, outer: int) -> tuple[list[int], list[int], list[int]]:
        strides, batch = [int(s) for s in memory.strides], len(self.spec.batch)
        return strides[:batch], strides[batch : batch + outer], strides[batch + outer :]

    def shader(self) -> Shader:
        line, blocks = self.line, self.blocks
        stored = {s.memory.name for s in self.epilogue.stores}
        vectors = [i for i, side in enumerate(self.sides) if side.vector]
        declarations = bind_arguments(self.emitter, self.args, stored, self.bases, vectors)
        # Invocations past the values' last vector read on behind it.
        beyond = self.across * self.vectors - self.e4
        tiles = max(KEYS * (blocks.depth // 4 + 1), blocks.values * self.e4 + beyond)
        for name, kind, size in (
            ("queries", "vec4<f32>", blocks.queries * self.d4),
            ("weights", "vec4<f32>", blocks.queries * KEYS // 4),
            ("tile", "vec4<f32>", tiles),
            ("parts", "f32", blocks.queries * _PARTS),
            ("scales", "f32", blocks.queries),
        ):
            declarations.append(f"var<workgroup> {name}: array<{kind}, {size}>;")
        down = -(-self.m // blocks.queries)
        groups = self.batch * down
        group, columns, rows = workgroup_grid(groups)
        line(f"let group = i32({group});")
        line(f"if (group >= {groups}) {{ return; }}")
        line("let place = i32(local);")
        line(f"let m0 = (group % {down}) * {blocks.queries};")
        line(f"let batch = group / {down};")
        for i, start in enumerate(self.starts):
            line(f"let start{i} = {start};")
        line(f"let tx = place % {_ACROSS};")
        line(f"let row0 = (place / {_ACROSS}) * {self.rows};")
        line(f"let ox = place % {self.across};")
        line(f"let out0 = (place / {self.across}) * {self.kept};")
        self._load(
            0, "m0", blocks.queries * self.d4, self.d4, "0", lambda row, at: f"queries[{row} * {self.d4} + {at}]"
        )
        for r in range(self.rows):
            line(f"var most{r} = -rlx_inf();")
            line(f"var total{r} = 0.0f;")
        for r in range(self.kept):
            for j in range(self.vectors):
                line(f"var o{r}_{j} = vec4<f32>(0.0f);")
        end = self._end()
        line(f"for (var n0 = 0i; n0 < {end}; n0 = n0 + {KEYS}) {{")
        self._products()
        self._softmax()
        self._mix()
        line("}")
        self._finish(end)
        source = module_source(declarations, self.emitter.lines, INVOCATIONS)
        return Shader(source, len(self.args), (columns, rows))

    def _end(self) -> str:
        """The end of the keys that some query of the block sees."""
        if self.spec.causal is None or len(self.spec.m) != 1:
            return str(self.n)
        self.line(f"let seen = clamp(m0 + {self.blocks.queries + self.spec.causal}, 0, {self.n});")
        return "seen"

    def _load(self, side: int, outer: str, count: int, width: int, inner: str, into) -> None:
        """Bring vectors, `width` a row, into workgroup memory at `into(row, vector)`; all under way at once."""
        line, operand = self.line, self.sides[side]
        pieces = range(-(-count // INVOCATIONS))
        line("{")
        for i in pieces:
            line(f"let at{i} = (place + {i * INVOCATIONS}) % {width};")
            line(f"let row{i} = (place + {i * INVOCATIONS}) / {width};")
            operand.begin(line, i, f"({outer} + row{i})")
            line(f"var loaded{i} = vec4<f32>(0.0f);")
            within = f"{outer} + row{i} < {self.n}" if side == 2 and self.n % KEYS else ""
            line(f"if ({within}) {{" if within else "{")
            operand.load(line, i, f"({inner} + at{i}) * 4", f"loaded{i}")
            line("}")
        for i in pieces:
            last = count < (i + 1) * INVOCATIONS
            line(f"if (place < {count - i * INVOCATIONS}) {{" if last else "{")
            line(f"{into(f'row{i}', f'at{i}')} = loaded{i};")
            line("}")
        line("}")

    def _products(self) -> None:
        line, depth = self.line, self.blocks.depth // 4
        for r in range(self.rows):
            line(f"var s{r} = vec4<f32>(0.0f);")
        line(f"for (var d0 = 0i; d0 < {self.d4}; d0 = d0 + {depth}) {{")
        line("workgroupBarrier();")
        # A key's vectors stand so that the four keys of an invocation are 16 rows apart.
        self._load(
            1,
            "n0",
            KEYS * depth,
            depth,
            "d0",
            lambda row, at: f"tile[({row} % 4 * {_ACROSS} + {row} / 4) * {depth + 1} + {at}]",
        )
        line("workgroupBarrier();")
        line(f"for (var d = 0i; d < {depth}; d = d + 1i) {{")
        for c in range(4):
            line(f"let k{c} = tile[({c * _ACROSS} + tx) * {depth + 1} + d];")
        for r in range(self.rows):
            line(f"let q{r} = queries[(row0 + {r}) * {self.d4} + d0 + d];")
            line(f"s{r} = s{r} + vec4<f32>({', '.join(f'dot(q{r}, k{c})' for c in range(4))});")
        line("}")
        line("}")

    def _softmax(self) -> None:
        """Scores become weights; totals and maxima move on; `scales` says by what earlier results shrink."""
        line, rows = self.line, self.rows
        line(f"var s = array<vec4<f32>, {rows}>({', '.join(f's{r}' for r in range(rows))});")
        self._times(4 * rows, self._score)
        line(f"for (var r = 0i; r < {rows}; r = r + 1i) {{")
        line(f"parts[(row0 + r) * {_PARTS} + tx] = rlx_max(rlx_max(s[r].x, s[r].y), rlx_max(s[r].z, s[r].w));")
        line("}")
        line("workgroupBarrier();")
        for r in range(rows):
            line("{")
            line(f"var most = most{r};")
            start = f"(row0 + {r}) * {_PARTS}"
            self._times(_ACROSS, lambda i, start=start: line(f"most = rlx_max(most, parts[{start} + {i}]);"))
            # Where every score so far is -inf, weights are exp(-inf) and not exp(-inf + inf).
            line("let shift = select(most, 0.0f, bitcast<u32>(most) == 0xff800000u);")
            line(f"let scale = rlx_exp(most{r} - shift);")
            line(f"most{r} = most;")
            line("var w = vec4<f32>(0.0f);")
            self._times(4, lambda c, r=r: line(f"w[{c}] = rlx_exp(s[{r}][{c}] - shift);"))
            line(f"total{r} = total{r} * scale + ((w.x + w.y) + (w.z + w.w));")
            line(f"weights[(row0 + {r}) * {KEYS // 4} + tx] = w;")
            line(f"if (tx == 0) {{ scales[row0 + {r}] = scale; }}")
            line("}")

    def _score(self, e: str) -> None:
        """The e-th product of this invocation becomes a score."""
        line = self.line
        line(f"let m = m0 + row0 + {e} / 4;")
        line(f"let n = n0 + tx * 4 + {e} % 4;")
        line(f"let product = s[{e} / 4][{e} % 4];")
        self.emitter.bind_value(self.spec.scores.acc, "product")
        self._bind(self.spec.scores.index, ("batch", "m", "n"))
        with self.emitter.scope():
            score = self.emitter.value(self.spec.scores.value)
        line(f"s[{e} / 4][{e} % 4] = {f'select(-rlx_inf(), {score}, n < {self.n})' if self.n % KEYS else score};")

    def _times(self, count: int, emit: Callable[[str], None]) -> None:
        """Emit lines for each of 0i, 1i, ...: written out, so that they overlap; in a loop where compiling is slow."""
        if self.emitter.target.max_turns:
            name = self.emitter.fresh("i")
            self.line(f"for (var {name} = 0i; {name} < {count}; {name} = {name} + 1i) {{")
            emit(name)
            self.line("}")
            return
        for i in range(count):
            self.line("{")
            emit(f"{i}i")
            self.line("}")

    def _mix(self) -> None:
        line, values = self.line, self.blocks.values
        line("workgroupBarrier();")
        for r in range(self.kept):
            for j in range(self.vectors):
                line(f"o{r}_{j} = o{r}_{j} * scales[{self._out(r)}];")
        line(f"for (var c0 = 0i; c0 < {KEYS}; c0 = c0 + {values}) {{")
        line("workgroupBarrier();")
        self._load(2, "n0 + c0", values * self.e4, self.e4, "0", lambda row, at: f"tile[{row} * {self.e4} + {at}]")
        line("workgroupBarrier();")
        line(f"for (var c = 0i; c < {values // 4}; c = c + 1i) {{")
        for r in range(self.kept):
            line(f"let w{r} = weights[{self._out(r)} * {KEYS // 4} + c0 / 4 + c];")
        for step in range(4):
            line("{")
            for j in range(self.vectors):
                line(f"let v{j} = tile[(c * 4 + {step}) * {self.e4} + ox + {j * self.across}];")
                for r in range(self.kept):
                    line(f"o{r}_{j} = o{r}_{j} + w{r}[{step}] * v{j};")
            line("}")
        line("}")
        line("}")

    def _out(self, r: int) -> str:
        """The row of the r-th query that this invocation has the result of."""
        row = f"(out0 + {r})"
        full = self.blocks.queries * self.across >= INVOCATIONS
        return row if full else f"min({row}, {self.blocks.queries - 1})"

    def _finish(self, end: str) -> None:
        line = self.line
        line("workgroupBarrier();")
        for r in range(self.rows):
            line(f"parts[(row0 + {r}) * {_PARTS} + tx] = total{r};")
            line(f"if (tx == 0) {{ scales[row0 + {r}] = most{r}; }}")
        hidden = self._hidden(end)
        line("workgroupBarrier();")
        names = ", ".join(f"o{r}_{j}" for r in range(self.kept) for j in range(self.vectors))
        line(f"var results = array<vec4<f32>, {self.kept * self.vectors}>({names});")
        line(f"for (var r = 0i; r < {self.kept}; r = r + 1i) {{")
        line("let row = out0 + r;")
        line("let m = m0 + row;")
        line(f"if (row < {self.blocks.queries} && m < {self.m}) {{")
        line("var sum = 0.0f;")
        line(f"for (var i = 0i; i < {_ACROSS}; i = i + 1i) {{ sum = sum + parts[row * {_PARTS} + i]; }}")
        if self.spec.blind:
            line("sum = select(sum, 1.0f, bitcast<u32>(scales[row]) == 0xff800000u);")
        line(f"for (var i = 0i; i < {4 * self.vectors}; i = i + 1i) {{")
        line(f"let e = (ox + i / 4 * {self.across}) * 4 + i % 4;")
        line(f"if (e < {self.e}) {{")
        value = f"rlx_div(results[r * {self.vectors} + i / 4][i % 4], sum)"
        line(f"let result = {f'select({value}, rlx_nan(), {hidden})' if hidden else value};")
        self.emitter.bind_value(self.epilogue.acc, "result")
        self._bind(self.epilogue.index, ("batch", "m", "e"))
        with self.emitter.scope():
            self.emitter.body(self.epilogue.stores)
        for _ in range(4):
            line("}")

    def _hidden(self, end: str) -> str:
        """Whether column `e` has a value, among those not looked at, that makes NaN of a weight of 0."""
        if end == str(self.n):
            return ""
        line = self.line
        line("workgroupBarrier();")
        line(f"for (var e = place; e < {self.e}; e = e + {INVOCATIONS}) {{")
        line("var found = false;")
        line(f"for (var n = (({end} + {KEYS - 1}) / {KEYS}) * {KEYS}; n < {self.n}; n = n + 1i) {{")
        side = self.sides[2]
        address = f"start2 + {offset('n', side.sizes, side.strides)} + {offset('e', side.k_sizes, side.k_strides)}"
        line(f"let at = {address};")
        value = "a2[at / 4][at % 4]" if side.vector else "a2[at]"
        line(f"found = found || (bitcast<u32>({value}) & 0x7f800000u) == 0x7f800000u;")
        line("}")
        line("tile[e / 4][e % 4] = select(0.0f, 1.0f, found);")
        line("}")
        return "tile[e / 4][e % 4] != 0.0f"

    def _bind(self, index: Sequence[Var], groups: Sequence[str]) -> None:
        share = self.share
        bind_places(self.emitter, index, [(name, share.sizes[name], share.starts[name]) for name in groups])
