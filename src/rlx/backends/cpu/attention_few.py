"""Attention of a few queries, as in decoding: one kernel that streams keys and values from memory once each.

    for each matrix                                       (a grid index)
        scores = f(each key's dot products with the queries)
        weights = exp(scores - the largest)               (attention_softmax)
        sums = weights times the values
        results = sums / totals, through the epilogue     (gemm_epilogue)

Nothing is brought into another order: a key is multiplied where it lies, and each value is read once for all queries.
Query heads that share keys and values are taken together, so that these come from memory once. While a key is
multiplied its value is brought near. Scores stay in scratch memory.

Order of sums: along a key's vectors ascending, then its lanes in a fixed tree; keys ascending. Any split of the grid
gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from llvmlite import ir

from rlx.backends.cpu.attention_plan import AttentionPlan
from rlx.backends.cpu.attention_scratch import scratch_parts, scratch_places
from rlx.backends.cpu.attention_softmax import RowSoftmax, rows_together, scale_of_sums
from rlx.backends.cpu.gemm_epilogue import TileWriter
from rlx.backends.cpu.gemm_pack import copy_rows
from rlx.backends.cpu.gemm_tile import registers
from rlx.backends.cpu.gemm_view import MatrixView, matrix_view, split_index
from rlx.codegen.kernel import Memory
from rlx.codegen.llvm.frame import Cell
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import F32, I32, I64, VOID, constant, real, vector
from rlx.codegen.lower.templates import AttentionSpec, Epilogue
from rlx.codegen.target import Target
from rlx.ir.dtypes import f32

#: Queries of one matrix at most; those of heads that share keys and values count together.
MOST, MOST_SHARING = 4, 8
#: Matrices that are left at least where heads are taken together, and that make one kernel worth while where each is
#: long: products can share out keys among threads, this kernel cannot.
_MATRICES, _LONG_BYTES = 4, 1 << 19
#: Vectors of a key at most: its dot products are straight code.
_VECTORS = 64


@dataclass(frozen=True, eq=False)
class FewQueriesKernel:
    """One attention; a matrix has q [queries, depth], k [keys, depth] and v [keys, width], keys and values contiguous.

    spec: batch and m regrouped so that a matrix holds all queries of its keys.
    """

    target: Target
    spec: AttentionSpec
    q: MatrixView
    k: MatrixView
    v: MatrixView
    epilogue: Epilogue

    @property
    def matrices(self) -> int:
        return prod(self.spec.batch)

    @property
    def grid(self) -> int:
        return self.matrices

    @property
    def lanes(self) -> int:
        return self.target.lanes(32)

    @property
    def width(self) -> int:
        """Columns of the sums, whole vectors."""
        return -(-self.v.columns.count // self.lanes) * self.lanes

    @property
    def plan(self) -> AttentionPlan:
        """As the softmax wants it told."""
        rows, keys = self.q.rows.count, -(-self.k.rows.count // self.lanes) * self.lanes
        return AttentionPlan(self.lanes, rows, self.lanes, self.width, rows, keys)

    def scratch(self) -> dict[str, int]:
        """Bytes of each part of a worker's scratch memory, in order; whole cache lines."""
        rows, plan = self.q.rows.count, self.plan
        elements = {
            "queries": rows * self.q.columns.count,
            "scores": rows * plan.keys,
            "largest": rows,
            "total": rows,
            "sums": rows * self.width + self.lanes,  # the epilogue may read a vector behind
        }
        return scratch_parts(elements)

    @property
    def scratch_bytes(self) -> int:
        return sum(self.scratch().values())

    @property
    def identity(self) -> str:
        return f"few {self.q.unnamed} {self.k.unnamed} {self.v.unnamed} {self.spec.batch} {self.spec.m}"

    def emit(self, e: FunctionEmitter) -> None:
        places = scratch_places(e, self.scratch())
        rows, keys = I64(self.q.rows.count), I64(self.k.rows.count)
        softmax = RowSoftmax(self.spec, self.plan, streams=False, together=rows_together([self.q.rows.count]))

        def place(e: FunctionEmitter, matrix: ir.Value, query: ir.Value) -> list[ir.Value]:
            return [*split_index(e, matrix, self.spec.batch), *split_index(e, query, self.spec.m)]

        writer = TileWriter(self.epilogue, place, self.spec.e, f32, self.width)
        with e.loop(e.begin, e.end) as matrix:
            copy_rows(e, self.q, f32, self.q.columns.count, matrix, I64(0), rows, places["queries"])
            k, v = self.k.pointer(e, matrix, 0, 0), self.v.pointer(e, matrix, 0, 0)
            self._products(e, places, k, v)
            softmax.emit(e, places, matrix, I64(0), rows, I64(0), keys)
            later = e.intrinsic("smin", e.integer_add(matrix, I64(1)), I64(self.matrices - 1))
            self._mix(e, places, v, self.k.pointer(e, later, 0, 0))
            writer.write(e, places["sums"], matrix, I64(0), self.q.rows.count, I64(0))

    def _products(self, e: FunctionEmitter, places: dict[str, ir.Value], k: ir.Value, v: ir.Value) -> None:
        """Dot products of every key and the queries, as rows of scores."""
        lanes, depth, rows = self.lanes, self.q.columns.count, self.q.rows.count
        offsets = range(0, depth, lanes)
        masks = {at: e.mask_for(I64(depth - at), lanes) for at in offsets if at + lanes > depth}

        def load(row: ir.Value, at: int) -> ir.Value:
            return real(e.load_lanes(e.element_pointer(row, f32, I64(at)), f32, lanes, masks.get(at)))

        with e.loop(I64(0), I64(self.k.rows.count)) as key:
            line = e.element_pointer(k, f32, e.integer_mul(key, I64(self.k.rows.stride or 0)))
            if self._values_stay_near:
                self._bring_near(e, self.v, v, key)
            sums: list[ir.Value] = [constant(vector(F32, lanes), 0.0)] * rows
            for at in offsets:
                part = load(line, at)
                for i in range(rows):
                    query = e.element_pointer(places["queries"], f32, I64(i * depth))
                    sums[i] = e.fma(part, load(query, at), sums[i])
            for i, total in enumerate(sums):
                score = e.element_pointer(places["scores"], f32, e.integer_add(key, I64(i * self.plan.keys)))
                e.store_one(score, f32, e.horizontal("add", total, f32))

    def _bring_near(self, e: FunctionEmitter, view: MatrixView, first: ir.Value, row: ir.Value) -> None:
        """Ask for a row of keys or values, to lie in the second-level cache."""
        line = e.element_pointer(first, f32, e.integer_mul(row, I64(view.rows.stride or 0)))
        for at in range(0, view.columns.count, 64 // f32.itemsize):
            e.call("llvm.prefetch.p0", VOID, [e.element_pointer(line, f32, I64(at)), I32(0), I32(2), I32(1)])

    @property
    def _values_stay_near(self) -> bool:
        """Whether a matrix's values fit into the second-level cache beside its keys."""
        return self.v.rows.count * self.v.columns.count * f32.itemsize <= self.target.l2 // 4

    def _mix(self, e: FunctionEmitter, places: dict[str, ir.Value], v: ir.Value, later: ir.Value) -> None:
        """Weights times values, divided by the totals: the sums. later: the keys that come next, brought near."""
        lanes, count, rows = self.lanes, self.v.columns.count, self.q.rows.count
        factors = [self._factor(e, e.element_pointer(places["total"], f32, I64(i))) for i in range(rows)]
        together = max(1, registers(self.target) // 2 // rows)
        offsets = list(range(0, count, lanes))
        for first in range(0, len(offsets), together):
            panel = offsets[first : first + together]
            zero = constant(vector(F32, lanes), 0.0)
            cells: list[list[Cell]] = [[e.cell(zero) for _ in panel] for _ in range(rows)]
            with e.loop(I64(0), I64(self.k.rows.count)) as key:
                if first == 0 and self._values_stay_near:
                    self._bring_near(e, self.k, later, key)
                line = e.element_pointer(v, f32, e.integer_mul(key, I64(self.v.rows.stride or 0)))
                scores = [e.integer_add(key, I64(i * self.plan.keys)) for i in range(rows)]
                found = [e.load_one(e.element_pointer(places["scores"], f32, at), f32) for at in scores]
                weights = [e.splat(real(weight), lanes) for weight in found]
                for j, at in enumerate(panel):
                    mask = e.mask_for(I64(count - at), lanes) if at + lanes > count else None
                    value = real(e.load_lanes(e.element_pointer(line, f32, I64(at)), f32, lanes, mask))
                    for i in range(rows):
                        e.write_cell(cells[i][j], e.fma(weights[i], value, real(e.read_cell(cells[i][j]))))
            for i in range(rows):
                for j, at in enumerate(panel):
                    place = e.element_pointer(places["sums"], f32, I64(i * self.width + at))
                    total = e.builder.fmul(real(e.read_cell(cells[i][j])), e.splat(factors[i], lanes))
                    e.store_lanes(place, f32, total, lanes)

    def _factor(self, e: FunctionEmitter, total: ir.Value) -> ir.Value:
        return scale_of_sums(e, self.spec, real(e.load_one(total, f32)))


def few_queries_kernel(target: Target, spec: AttentionSpec, epilogue: Epilogue) -> FewQueriesKernel | None:
    """The kernel for a spec of at most `MOST` queries a head; None where products and a softmax should do it."""
    spec = _sharing_together(spec)
    q = matrix_view(spec.q, spec.batch, spec.m, spec.d)
    k = matrix_view(spec.k, spec.batch, spec.n, spec.d)
    v = matrix_view(spec.v, spec.batch, spec.n, spec.e)
    if q is None or k is None or v is None:
        return None
    for view in (k, v):
        contiguous = view.columns.stride == 1 or view.columns.count == 1
        if view.dtype is not f32 or not contiguous or view.rows.stride is None:
            return None
    if k.columns.count > _VECTORS * target.lanes(32):
        return None
    nbytes = k.rows.count * (k.columns.count + v.columns.count) * f32.itemsize
    if prod(spec.batch) < _MATRICES and nbytes > _LONG_BYTES:
        return None
    return FewQueriesKernel(target, spec, q, k, v, epilogue)


def _sharing_together(spec: AttentionSpec) -> AttentionSpec:
    """The spec with trailing batch dimensions along which keys and values do not move among its queries'."""
    batch, m, k, v = spec.batch, spec.m, spec.k, spec.v
    while batch and batch[-1] * prod(m) <= MOST_SHARING and prod(batch[:-1]) >= _MATRICES:
        last = len(batch) - 1
        if k.strides[last] != 0 or v.strides[last] != 0:
            break
        k, v = (_without(memory, last) for memory in (k, v))
        batch, m = batch[:-1], (batch[-1], *m)
    return replace(spec, batch=batch, m=m, k=k, v=v)


def _without(memory: Memory, dimension: int) -> Memory:
    return replace(memory, strides=(*memory.strides[:dimension], *memory.strides[dimension + 1 :]))
