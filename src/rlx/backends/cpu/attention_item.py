"""One grid index of an attention kernel: a block of queries of one matrix, with all the keys that they may see.

While a tile computes it asks for its share of what the next blocks of keys and queries read, where operands do not stay
in the second-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from llvmlite import ir

from rlx.backends.cpu.attention_layout import AttentionLayout
from rlx.backends.cpu.attention_softmax import RowSoftmax, rows_together, scale_of_sums
from rlx.backends.cpu.gemm_epilogue import TileWriter
from rlx.backends.cpu.gemm_operand import when
from rlx.backends.cpu.gemm_pack import copy_rows, pack_panel
from rlx.backends.cpu.gemm_tile import TileCode, tile_function
from rlx.backends.cpu.gemm_view import MatrixView, split_index
from rlx.codegen.llvm.frame import Cell
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import F32, I1, I32, I64, VOID, constant, real, vector
from rlx.ir.dtypes import f32


@dataclass(frozen=True, eq=False)
class AttentionItem:
    """The code of one grid index: `count` queries from `first` on, of one matrix.

    places: of the parts of scratch memory. fresh: whether keys and values are not in place already.
    finite: where it is kept whether the matrix's values are finite. ahead: the matrix and the first query of the grid
        index that follows; None where nothing is asked for ahead.
    """

    layout: AttentionLayout
    e: FunctionEmitter
    places: dict[str, ir.Value]
    matrix: ir.Value
    first: ir.Value
    count: ir.Value
    fresh: ir.Value
    finite: Cell
    ahead: tuple[ir.Value, ir.Value] | None

    def emit(self) -> None:
        e, layout, plan = self.e, self.layout, self.layout.plan
        q = layout.queries.block(e, self.places["queries"], self.matrix, self.first, self.count, I1(1))
        softmax = RowSoftmax(layout.spec, plan, layout.streams, rows_together(layout.heights))
        if layout.streams:
            softmax.begin(e, self.places["largest"], self.places["total"], self.count)
            self._zero_sums()
        all_keys = I64(layout.k.rows.count)
        finite = self._look_at_values() if layout.skips else I1(0)
        with e.loop(I64(0), self._seen(finite, self.count, I64(0), all_keys), plan.keys) as key:
            keys = all_keys
            if layout.streams:
                keys = e.intrinsic("smin", e.builder.sub(all_keys, key), I64(plan.keys))
            values, value_row = self._bring(key, keys)
            with e.loop(I64(0), self.count, plan.rows) as row:
                height = self._height(row)
                seen = self._seen(finite, e.integer_add(row, height), key, keys)
                start = e.element_pointer(q, f32, e.integer_mul(row, I64(layout.queries.row)))
                self._multiply(row, start, seen)
                self._bring_near(row, key)
                rows = {name: self._at(name, row) for name in ("largest", "total")}
                rows |= {name: self.places[name] for name in ("scores", "change")}
                softmax.emit(
                    e, rows, self.matrix, e.integer_add(self.first, row), height, key, self._whole_vectors(seen, keys)
                )
                self._mix(row, height, values, value_row, seen)
                if not layout.streams:
                    self._write(row, height, I64(0))
        if layout.streams:
            with e.loop(I64(0), self.count, plan.rows) as row:
                self._write(row, self._height(row), row)

    def _at(self, place: str, elements: ir.Value) -> ir.Value:
        return self.e.element_pointer(self.places[place], f32, elements)

    def _height(self, row: ir.Value) -> ir.Value:
        """Queries of the tile that begins at `row`."""
        rows = self.layout.plan.rows
        if self.layout.q.rows.count % rows == 0:
            return I64(rows)
        return self.e.intrinsic("smin", self.e.builder.sub(self.count, row), I64(rows))

    def _by_height(self, row: ir.Value, emit: Callable[[int], None]) -> None:
        """emit(height) for the tile that begins at `row`: a whole one, or what is left at the matrix's end."""
        e, rows = self.e, self.layout.plan.rows
        rest = self.layout.q.rows.count % rows
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
        e, v, lanes = self.e, self.layout.v, self.layout.plan.lanes
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
        e, layout = self.e, self.layout
        if not layout.skips:
            return keys
        last = e.integer_add(e.integer_add(self.first, queries), I64(layout.spec.causal or 0))
        seen = e.intrinsic("smin", e.intrinsic("smax", e.builder.sub(last, key), I64(1)), keys)
        return e.builder.select(finite, seen, keys)

    def _whole_vectors(self, seen: ir.Value, keys: ir.Value) -> ir.Value:
        """`seen` keys and those that share a vector with them, of `keys`."""
        lanes = self.layout.plan.lanes
        if not self.layout.skips:
            return keys
        up = self.e.builder.and_(self.e.integer_add(seen, I64(lanes - 1)), I64(-lanes))
        return self.e.intrinsic("smin", up, keys)

    # -- keys and values -------------------------------------------------------------------------------------------

    def _bring(self, key: ir.Value, keys: ir.Value) -> tuple[ir.Value, int]:
        """Bring a block of keys, as panels, and of values into place; where the values are, and from row to row."""
        e, layout, plan = self.e, self.layout, self.layout.plan
        depth, columns = layout.q.columns.count, plan.score_columns
        width = layout.panels * plan.value_columns

        def bring() -> None:
            with e.loop(I64(0), keys, columns) as at:
                place = self._at("keys", e.integer_mul(at, I64(depth)))
                pack_panel(e, layout.k.transposed, f32, columns, self.matrix, e.integer_add(key, at), place)
            if not layout.values_in_place:
                copy_rows(e, layout.v, f32, width, self.matrix, key, keys, self.places["values"])

        if type(self.fresh) is ir.Constant:
            bring()
        else:
            with e.builder.if_then(self.fresh):
                bring()
        if layout.values_in_place:
            return layout.v.pointer(e, self.matrix, key, 0), layout.v.rows.stride or 0
        return self.places["values"], width

    def _bring_near(self, row: ir.Value, key: ir.Value) -> None:
        """Ask for the tile's share of the keys and values that are brought next, and for the next item's queries."""
        if self.ahead is None:
            return
        e, b, layout, plan = self.e, self.e.builder, self.layout, self.layout.plan
        matrix, first = self.ahead
        self._prefetch(layout.q, matrix, e.integer_add(first, row), plan.rows)
        following: ir.Value = I64(0)
        if layout.streams:
            following = e.integer_add(key, I64(plan.keys))
            inside = b.icmp_signed("<", following, I64(layout.k.rows.count))
            matrix, following = b.select(inside, self.matrix, matrix), b.select(inside, following, I64(0))
        tiles = -(-plan.queries // plan.rows)
        share = -(-min(plan.keys, layout.k.rows.count) // tiles)
        start = e.integer_add(following, e.integer_mul(b.udiv(row, I64(plan.rows)), I64(share)))
        self._prefetch(layout.k, matrix, start, share)
        self._prefetch(layout.v, matrix, start, share)

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
        self.e.builder.call(tile_function(self.e.module, self.layout.target, code), [a, b, k, c])

    def _multiply(self, row: ir.Value, q: ir.Value, keys: ir.Value) -> None:
        """Products of a tile of queries, which begins at `q`, and the block's keys."""
        e, plan, queries = self.e, self.layout.plan, self.layout.queries
        depth = self.layout.q.columns.count

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
        e, layout, plan = self.e, self.layout, self.layout.plan
        for panel in range(layout.panels):
            start = e.element_pointer(values, f32, I64(panel * plan.value_columns))
            sums = self._sums(panel, row if layout.streams else I64(0))
            into = self.places["fresh"] if layout.streams else sums

            def tile(rows: int, start: ir.Value = start, into: ir.Value = into) -> None:
                code = TileCode(f32, rows, plan.value_vectors, plan.keys if rows > 1 else 0, 1, value_row)
                self._call(code, self.places["scores"], start, keys, into)

            self._by_height(row, tile)
            if layout.streams:
                self._rescale(height, sums, self.places["change"], into)

    def _sums(self, panel: int, row: ir.Value) -> ir.Value:
        columns = self.layout.plan.value_columns
        before = I64(panel * self.layout.sum_rows * columns)
        return self._at("sums", self.e.integer_add(before, self.e.integer_mul(row, I64(columns))))

    def _zero_sums(self) -> None:
        e, lanes = self.e, self.layout.plan.lanes
        zero = constant(vector(F32, lanes), 0.0)
        with e.loop(I64(0), I64(self.layout.scratch()["sums"] // f32.itemsize), lanes) as at:
            e.store_lanes(self._at("sums", at), f32, zero, lanes)

    def _rescale(self, height: ir.Value, sums: ir.Value, factors: ir.Value, more: ir.Value | None) -> None:
        """sums = sums * each row's factor + more, for `height` rows of one panel."""
        e, plan = self.e, self.layout.plan
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
        e, layout, plan = self.e, self.layout, self.layout.plan
        with e.loop(I64(0), height) as r:
            total = real(e.load_one(self._at("total", e.integer_add(row, r)), f32))
            e.store_one(self._at("change", r), f32, scale_of_sums(e, layout.spec, total))

        def place(e: FunctionEmitter, matrix: ir.Value, query: ir.Value) -> list[ir.Value]:
            return [*split_index(e, matrix, layout.spec.batch), *split_index(e, query, layout.spec.m)]

        writer = TileWriter(
            layout.epilogue, place, layout.spec.e, f32, plan.value_columns, ahead=plan.rows if layout.brings_near else 0
        )
        for panel in range(layout.panels):
            sums = self._sums(panel, kept)
            self._rescale(height, sums, self.places["change"], None)
            column = I64(panel * plan.value_columns)
            writer.write(e, sums, self.matrix, e.integer_add(self.first, row), height, column)
