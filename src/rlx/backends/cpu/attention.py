"""Attention as one streaming kernel: softmax(f(q k^T)) v without ever writing the scores to memory.

    for each block of queries of each matrix              (a grid index)
        for each block of keys
            bring the block's keys and values into place
            for each tile of queries
                scores = f(q times the keys)              (gemm_tile)
                weights = exp(scores - largest so far)    (attention_softmax)
                sums = sums * exp(largest before - largest now) + weights times the values
        results = sums / totals, through the epilogue     (gemm_epilogue)

The largest score and the total so far make the softmax one that needs no second look at a key (Milakov & Gimelshein
2018; FlashAttention-2, Dao 2023). Where one block holds all keys, nothing is ever rescaled.

Order of sums: keys ascending within a block, blocks ascending. It depends on sizes and target alone: any split of the
grid gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import prod

from llvmlite import ir

from rlx.backends.cpu.attention_few import MOST, FewQueriesKernel, few_queries_kernel
from rlx.backends.cpu.attention_plan import AttentionPlan, plan_attention
from rlx.backends.cpu.attention_softmax import RowSoftmax, rows_together, scale_of_sums
from rlx.backends.cpu.gemm_epilogue import TileWriter
from rlx.backends.cpu.gemm_operand import Rows, RowsCopied, RowsInPlace, rows_in_place, when
from rlx.backends.cpu.gemm_pack import copy_rows, pack_panel
from rlx.backends.cpu.gemm_tile import TileCode, tile_function
from rlx.backends.cpu.gemm_view import MatrixView, matrix_view, split_index
from rlx.backends.cpu.matmul import epilogue_identity
from rlx.codegen.kernel import Cost, Memory, Store, TemplateKernel
from rlx.codegen.llvm.frame import Cell
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import F32, I1, I32, I64, VOID, constant, real, vector
from rlx.codegen.lower.templates import AttentionSpec, Epilogue
from rlx.codegen.target import Target
from rlx.ir.dtypes import f32

#: Tiles of queries from which on a block of values is worth a copy without gaps.
_TILES_WORTH_A_COPY = 3
#: Operations that one weight takes beside its score: a subtraction, exp, a sum, a comparison.
_FLOPS_A_WEIGHT = 18.0


def attention_kernel(target: Target, spec: AttentionSpec, epilogue: Epilogue) -> TemplateKernel | None:
    """The kernel for a spec; None where products and a softmax should do it."""
    if spec.dtype is not f32 or len(spec.n) != 1 or 0 in (*spec.batch, *spec.m, *spec.n, *spec.d, *spec.e):
        return None
    q = matrix_view(spec.q, spec.batch, spec.m, spec.d)
    k = matrix_view(spec.k, spec.batch, spec.n, spec.d)
    v = matrix_view(spec.v, spec.batch, spec.n, spec.e)
    if q is None or k is None or v is None:
        return None
    kernel: AttentionKernel | FewQueriesKernel | None
    if q.rows.count <= MOST:
        kernel = few_queries_kernel(target, spec, epilogue)
    else:
        sizes = (prod(spec.batch), q.rows.count, k.rows.count, v.columns.count)
        plan = plan_attention(target, f32, *sizes, causal=spec.causal is not None)
        kernel = AttentionKernel(target, spec, plan, q, k, v, epilogue)
    if kernel is None:
        return None
    scores = Epilogue(
        spec.scores.acc,
        spec.scores.index,
        (Store(Memory("none", f32, ()), (), spec.scores.value),),
        spec.scores.args,
    )
    identity = (
        f"attention {target.name} {spec.batch}x{spec.m}x{spec.n}x{spec.d}x{spec.e} {kernel.identity} "
        f"{spec.blind} {spec.cleared} {spec.causal} {epilogue_identity(scores)} {epilogue_identity(epilogue)}"
    )
    return TemplateKernel(
        label="attention",
        args=(spec.q, spec.k, spec.v, *spec.scores.args, *epilogue.args),
        grid=kernel.grid,
        identity=identity,
        emit=kernel.emit,
        cost=_cost(kernel),
        scratch_bytes=kernel.scratch_bytes,
    )


@dataclass(frozen=True, eq=False)
class AttentionKernel:
    """One attention, cut as `plan` says; a matrix has q [queries, depth], k [keys, depth] and v [keys, width]."""

    target: Target
    spec: AttentionSpec
    plan: AttentionPlan
    q: MatrixView
    k: MatrixView
    v: MatrixView
    epilogue: Epilogue

    @property
    def identity(self) -> str:
        return f"{self.q.unnamed} {self.k.unnamed} {self.v.unnamed} {self.plan}"

    @property
    def matrices(self) -> int:
        return prod(self.spec.batch)

    @property
    def query_blocks(self) -> int:
        return -(-self.q.rows.count // self.plan.queries)

    @property
    def streams(self) -> bool:
        """Whether keys come in several blocks."""
        return self.k.rows.count > self.plan.keys

    @property
    def panels(self) -> int:
        """Panels of values."""
        return -(-self.v.columns.count // self.plan.value_columns)

    @property
    def grid(self) -> int:
        return self.matrices * self.query_blocks

    @property
    def queries(self) -> Rows:
        """Where the tiles find their rows of q."""
        reads = -(-self.k.rows.count // self.plan.score_columns)
        if rows_in_place(self.q, f32, self.plan.rows, reads):
            return RowsInPlace(self.q)
        return RowsCopied(self.q, f32, self.plan.queries)

    @property
    def skips(self) -> bool:
        """Whether keys that no query of a tile sees may be left out: where finite values are easily told."""
        lies_well = self.v.columns.stride == 1 and self.v.rows.stride is not None and self.v.dtype is f32
        return self.spec.causal is not None and len(self.spec.m) == 1 and lies_well

    @property
    def values_in_place(self) -> bool:
        v, tiles = self.v, -(-self.plan.queries // self.plan.rows)
        lies_well = v.dtype is f32 and v.columns.stride == 1 and v.rows.stride is not None
        return lies_well and v.columns.count % self.plan.value_columns == 0 and tiles < _TILES_WORTH_A_COPY

    def scratch(self) -> dict[str, int]:
        """Bytes of each part of a worker's scratch memory, in order; whole cache lines."""
        plan = self.plan
        elements = {
            "sums": self.panels * self.sum_rows * plan.value_columns,
            "scores": plan.rows * plan.keys,  # also what the epilogue may read behind the sums
            "fresh": plan.rows * plan.value_columns if self.streams else 0,
            "largest": plan.queries,
            "total": plan.queries,
            "change": plan.rows,
            "keys": self.q.columns.count * plan.keys,
            "values": 0 if self.values_in_place else plan.keys * self.panels * plan.value_columns,
        }
        parts = {name: count * f32.itemsize for name, count in elements.items()}
        parts["queries"] = self.queries.scratch_bytes
        return {name: -(-nbytes // 64) * 64 for name, nbytes in parts.items()}

    @property
    def sum_rows(self) -> int:
        """Rows of sums that are kept: all queries' where keys come in blocks, else a tile's."""
        return self.plan.queries if self.streams else self.plan.rows

    @property
    def brings_near(self) -> bool:
        """Whether operands are asked for ahead: where they do not stay in the second-level cache."""
        count = sum(view.matrices * view.rows.count * view.columns.count for view in (self.q, self.k, self.v))
        return count * f32.itemsize > self.target.l2 // 2

    @property
    def heights(self) -> set[int]:
        """Queries of whole tiles, and of the one at the matrix's end."""
        rows, total = self.plan.rows, self.q.rows.count
        return {rows, total % rows or rows}

    @property
    def scratch_bytes(self) -> int:
        return sum(self.scratch().values())

    def emit(self, e: FunctionEmitter) -> None:
        places: dict[str, ir.Value] = {}
        offset = 0
        for name, nbytes in self.scratch().items():
            places[name] = e.element_pointer(e.scratch, f32, I64(offset))
            offset += nbytes // f32.itemsize
        total = self.q.rows.count
        finite = e.cell(I1(0))
        with e.loop(e.begin, e.end) as index:
            matrix, block = split_index(e, index, (self.matrices, self.query_blocks))
            first = e.integer_mul(block, I64(self.plan.queries))
            count: ir.Value = I64(total)
            fresh: ir.Value = I1(1)
            if self.query_blocks > 1:
                count = e.intrinsic("smin", e.builder.sub(I64(total), first), I64(self.plan.queries))
                if not self.streams:  # the block before may have brought this matrix's keys already
                    b = e.builder
                    fresh = b.or_(b.icmp_signed("==", index, e.begin), b.icmp_signed("==", block, I64(0)))
            ahead = self._ahead(e, index) if self.brings_near else None
            _Item(self, e, places, matrix, first, count, fresh, finite, ahead).emit()

    def _ahead(self, e: FunctionEmitter, index: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The matrix and the first query of the grid index that follows, of this one at the end."""
        following = e.intrinsic("smin", e.integer_add(index, I64(1)), e.builder.sub(e.end, I64(1)))
        matrix, block = split_index(e, following, (self.matrices, self.query_blocks))
        return matrix, e.integer_mul(block, I64(self.plan.queries))


@dataclass(frozen=True, eq=False)
class _Item:
    """The code of one grid index: `count` queries from `first` on, of one matrix.

    places: of the parts of scratch memory. fresh: whether keys and values are not in place already.
    finite: where it is kept whether the matrix's values are finite. ahead: the matrix and the first query of the grid
        index that follows; None where nothing is asked for ahead.
    """

    kernel: AttentionKernel
    e: FunctionEmitter
    places: dict[str, ir.Value]
    matrix: ir.Value
    first: ir.Value
    count: ir.Value
    fresh: ir.Value
    finite: Cell
    ahead: tuple[ir.Value, ir.Value] | None

    def emit(self) -> None:
        e, kernel, plan = self.e, self.kernel, self.kernel.plan
        q = kernel.queries.block(e, self.places["queries"], self.matrix, self.first, self.count, I1(1))
        softmax = RowSoftmax(kernel.spec, plan, kernel.streams, rows_together(kernel.heights))
        if kernel.streams:
            softmax.begin(e, self.places["largest"], self.places["total"], self.count)
            self._zero_sums()
        all_keys = I64(kernel.k.rows.count)
        finite = self._look_at_values() if kernel.skips else I1(0)
        with e.loop(I64(0), self._seen(finite, self.count, I64(0), all_keys), plan.keys) as key:
            keys = all_keys
            if kernel.streams:
                keys = e.intrinsic("smin", e.builder.sub(all_keys, key), I64(plan.keys))
            values, value_row = self._bring(key, keys)
            with e.loop(I64(0), self.count, plan.rows) as row:
                height = self._height(row)
                seen = self._seen(finite, e.integer_add(row, height), key, keys)
                start = e.element_pointer(q, f32, e.integer_mul(row, I64(kernel.queries.row)))
                self._multiply(row, start, seen)
                self._bring_near(row, key)
                rows = {name: self._at(name, row) for name in ("largest", "total")}
                rows |= {name: self.places[name] for name in ("scores", "change")}
                softmax.emit(
                    e, rows, self.matrix, e.integer_add(self.first, row), height, key, self._whole_vectors(seen, keys)
                )
                self._mix(row, height, values, value_row, seen)
                if not kernel.streams:
                    self._write(row, height, I64(0))
        if kernel.streams:
            with e.loop(I64(0), self.count, plan.rows) as row:
                self._write(row, self._height(row), row)

    def _at(self, place: str, elements: ir.Value) -> ir.Value:
        return self.e.element_pointer(self.places[place], f32, elements)

    def _height(self, row: ir.Value) -> ir.Value:
        """Queries of the tile that begins at `row`."""
        rows = self.kernel.plan.rows
        if self.kernel.q.rows.count % rows == 0:
            return I64(rows)
        return self.e.intrinsic("smin", self.e.builder.sub(self.count, row), I64(rows))

    def _by_height(self, row: ir.Value, emit: Callable[[int], None]) -> None:
        """emit(height) for the tile that begins at `row`: a whole one, or what is left at the matrix's end."""
        e, rows = self.e, self.kernel.plan.rows
        rest = self.kernel.q.rows.count % rows
        if not rest:
            emit(rows)
            return
        with e.builder.if_else(e.builder.icmp_signed("<", e.builder.sub(self.count, row), I64(rows))) as (part, whole):
            with part:
                emit(rest)
            with whole:
                emit(rows)

    # -- what a causal mask leaves out -----------------------------------------------------------------------------

    def _look_at_values(self) -> ir.Value:
        """Whether every value of the matrix is finite: then weights of 0 leave no trace in the sums."""
        with when(self.e, self.fresh):
            self.e.write_cell(self.finite, self._values_are_finite())
        return real(self.e.read_cell(self.finite))

    def _values_are_finite(self) -> ir.Value:
        e, v, lanes = self.e, self.kernel.v, self.kernel.plan.lanes
        zero = constant(vector(F32, lanes), 0.0)
        width = v.columns.count
        traces = [e.cell(zero) for _ in range(0, width, lanes)]
        start = v.pointer(e, self.matrix, 0, 0)
        with e.loop(I64(0), I64(v.rows.count)) as row:
            line = e.element_pointer(start, f32, e.integer_mul(row, I64(v.rows.stride or 0)))
            for trace, at in zip(traces, range(0, width, lanes), strict=True):
                mask = None if at + lanes <= width else e.mask_for(I64(width - at), lanes)
                value = real(e.load_lanes(e.element_pointer(line, f32, I64(at)), f32, lanes, mask))
                e.write_cell(trace, e.fma(value, zero, real(e.read_cell(trace))))
        total = reduce(e.builder.fadd, (real(e.read_cell(trace)) for trace in traces))
        return e.not_(e.any(e.is_nan(total)))

    def _seen(self, finite: ir.Value, queries: ir.Value, key: ir.Value, keys: ir.Value) -> ir.Value:
        """How many of the `keys` keys from `key` on the item's first `queries` queries may see.

        At least one, so that there is a score to begin with.
        """
        e, kernel = self.e, self.kernel
        if not kernel.skips:
            return keys
        last = e.integer_add(e.integer_add(self.first, queries), I64(kernel.spec.causal or 0))
        seen = e.intrinsic("smin", e.intrinsic("smax", e.builder.sub(last, key), I64(1)), keys)
        return e.builder.select(finite, seen, keys)

    def _whole_vectors(self, seen: ir.Value, keys: ir.Value) -> ir.Value:
        """`seen` keys and those that share a vector with them, of `keys`."""
        lanes = self.kernel.plan.lanes
        if not self.kernel.skips:
            return keys
        up = self.e.builder.and_(self.e.integer_add(seen, I64(lanes - 1)), I64(-lanes))
        return self.e.intrinsic("smin", up, keys)

    # -- keys and values -------------------------------------------------------------------------------------------

    def _bring(self, key: ir.Value, keys: ir.Value) -> tuple[ir.Value, int]:
        """Bring a block of keys, as panels, and of values into place; where the values are, and from row to row."""
        e, kernel, plan = self.e, self.kernel, self.kernel.plan
        depth, columns = kernel.q.columns.count, plan.score_columns
        width = kernel.panels * plan.value_columns

        def bring() -> None:
            with e.loop(I64(0), keys, columns) as at:
                place = self._at("keys", e.integer_mul(at, I64(depth)))
                pack_panel(e, kernel.k.transposed, f32, columns, self.matrix, e.integer_add(key, at), place)
            if not kernel.values_in_place:
                copy_rows(e, kernel.v, f32, width, self.matrix, key, keys, self.places["values"])

        if type(self.fresh) is ir.Constant:
            bring()
        else:
            with e.builder.if_then(self.fresh):
                bring()
        if kernel.values_in_place:
            return kernel.v.pointer(e, self.matrix, key, 0), kernel.v.rows.stride or 0
        return self.places["values"], width

    def _bring_near(self, row: ir.Value, key: ir.Value) -> None:
        """Ask for the tile's share of the keys and values that are brought next, and for the next item's queries."""
        if self.ahead is None:
            return
        e, b, kernel, plan = self.e, self.e.builder, self.kernel, self.kernel.plan
        matrix, first = self.ahead
        self._prefetch(kernel.q, matrix, e.integer_add(first, row), plan.rows)
        following: ir.Value = I64(0)
        if kernel.streams:
            following = e.integer_add(key, I64(plan.keys))
            inside = b.icmp_signed("<", following, I64(kernel.k.rows.count))
            matrix, following = b.select(inside, self.matrix, matrix), b.select(inside, following, I64(0))
        tiles = -(-plan.queries // plan.rows)
        share = -(-min(plan.keys, kernel.k.rows.count) // tiles)
        start = e.integer_add(following, e.integer_mul(b.udiv(row, I64(plan.rows)), I64(share)))
        self._prefetch(kernel.k, matrix, start, share)
        self._prefetch(kernel.v, matrix, start, share)

    def _prefetch(self, view: MatrixView, matrix: ir.Value, first: ir.Value, rows: int) -> None:
        if view.columns.stride != 1:
            return
        e = self.e
        with e.loop(first, e.integer_add(first, I64(rows))) as row:
            line = view.pointer(e, matrix, row, 0)
            for at in range(0, view.columns.count, 64 // view.dtype.itemsize):
                place = e.element_pointer(line, view.dtype, I64(at))
                e.call("llvm.prefetch.p0", VOID, [place, I32(0), I32(2), I32(1)])

    # -- tiles -----------------------------------------------------------------------------------------------------

    def _call(self, code: TileCode, a: ir.Value, b: ir.Value, k: ir.Value, c: ir.Value) -> None:
        self.e.builder.call(tile_function(self.e.module, self.kernel.target, code), [a, b, k, c])

    def _multiply(self, row: ir.Value, q: ir.Value, keys: ir.Value) -> None:
        """Products of a tile of queries, which begins at `q`, and the block's keys."""
        e, plan, queries = self.e, self.kernel.plan, self.kernel.queries
        depth = self.kernel.q.columns.count

        def tiles(height: int) -> None:
            code = TileCode(
                f32,
                height,
                plan.score_vectors,
                queries.row if height > 1 else 0,
                queries.k,
                plan.score_columns,
                plan.keys,
            )
            with e.loop(I64(0), keys, plan.score_columns) as at:
                panel = self._at("keys", e.integer_mul(at, I64(depth)))
                self._call(code, q, panel, I64(depth), self._at("scores", at))

        self._by_height(row, tiles)

    def _mix(self, row: ir.Value, height: ir.Value, values: ir.Value, value_row: int, keys: ir.Value) -> None:
        """Add the tile's weights times the block's values to its sums."""
        e, kernel, plan = self.e, self.kernel, self.kernel.plan
        for panel in range(kernel.panels):
            start = e.element_pointer(values, f32, I64(panel * plan.value_columns))
            sums = self._sums(panel, row if kernel.streams else I64(0))
            into = self.places["fresh"] if kernel.streams else sums

            def tile(rows: int, start: ir.Value = start, into: ir.Value = into) -> None:
                code = TileCode(f32, rows, plan.value_vectors, plan.keys if rows > 1 else 0, 1, value_row)
                self._call(code, self.places["scores"], start, keys, into)

            self._by_height(row, tile)
            if kernel.streams:
                self._rescale(height, sums, self.places["change"], into)

    def _sums(self, panel: int, row: ir.Value) -> ir.Value:
        columns = self.kernel.plan.value_columns
        before = I64(panel * self.kernel.sum_rows * columns)
        return self._at("sums", self.e.integer_add(before, self.e.integer_mul(row, I64(columns))))

    def _zero_sums(self) -> None:
        e, lanes = self.e, self.kernel.plan.lanes
        zero = constant(vector(F32, lanes), 0.0)
        with e.loop(I64(0), I64(self.kernel.scratch()["sums"] // f32.itemsize), lanes) as at:
            e.store_lanes(self._at("sums", at), f32, zero, lanes)

    def _rescale(self, height: ir.Value, sums: ir.Value, factors: ir.Value, more: ir.Value | None) -> None:
        """sums = sums * each row's factor + more, for `height` rows of one panel."""
        e, plan = self.e, self.kernel.plan
        with e.loop(I64(0), height) as row:
            factor = e.splat(real(e.load_one(e.element_pointer(factors, f32, row), f32)), plan.lanes)
            line = e.integer_mul(row, I64(plan.value_columns))
            for at in range(0, plan.value_columns, plan.lanes):
                offset = e.integer_add(line, I64(at))
                place = e.element_pointer(sums, f32, offset)
                value = real(e.load_lanes(place, f32, plan.lanes))
                if more is None:
                    value = e.builder.fmul(value, factor)
                else:
                    fresh = real(e.load_lanes(e.element_pointer(more, f32, offset), f32, plan.lanes))
                    value = e.fma(value, factor, fresh)
                e.store_lanes(place, f32, value, plan.lanes)

    def _write(self, row: ir.Value, height: ir.Value, kept: ir.Value) -> None:
        """Divide the sums of the tile at `row`, which are kept from row `kept` on, and run the epilogue."""
        e, kernel, plan = self.e, self.kernel, self.kernel.plan
        with e.loop(I64(0), height) as r:
            total = real(e.load_one(self._at("total", e.integer_add(row, r)), f32))
            e.store_one(self._at("change", r), f32, scale_of_sums(e, kernel.spec, total))

        def place(e: FunctionEmitter, matrix: ir.Value, query: ir.Value) -> list[ir.Value]:
            return [*split_index(e, matrix, kernel.spec.batch), *split_index(e, query, kernel.spec.m)]

        writer = TileWriter(
            kernel.epilogue, place, kernel.spec.e, f32, plan.value_columns, ahead=plan.rows if kernel.brings_near else 0
        )
        for panel in range(kernel.panels):
            sums = self._sums(panel, kept)
            self._rescale(height, sums, self.places["change"], None)
            column = I64(panel * plan.value_columns)
            writer.write(e, sums, self.matrix, e.integer_add(self.first, row), height, column)


def _cost(kernel: AttentionKernel | FewQueriesKernel) -> Cost:
    """What an attention must do at least."""
    queries, keys = kernel.q.rows.count, kernel.k.rows.count
    depth, width = kernel.q.columns.count, kernel.v.columns.count
    weights = kernel.matrices * queries * keys
    results = kernel.matrices * queries * width
    flops = weights * (2.0 * (depth + width) + kernel.spec.scores.flops + _FLOPS_A_WEIGHT)
    read = sum(
        view.matrices * view.rows.count * view.columns.count * view.dtype.itemsize
        for view in (kernel.q, kernel.k, kernel.v)
    )
    written = results * sum(s.memory.dtype.itemsize for s in kernel.epilogue.stores)
    return Cost(flops + results * kernel.epilogue.flops, float(read + written))
