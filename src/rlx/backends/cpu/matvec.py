"""Products with few rows or few columns whose k is contiguous on both sides: dot products of whole vectors along k.

The long operand streams from memory once, from its first byte to its last, which is what processors prefetch best; the
short one (four rows at most) stays in the first-level cache. Nothing is packed, so weights lie in memory but once. What
a packed kernel would spend on a transposition, this one spends on adding up lanes.

Order of sums: up to four vectors take turns at vectors of k, each lane in ascending order; then the vectors, then the
lanes are added in a fixed tree. It depends on k and the target alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from rlx.backends.cpu.gemm_epilogue import TileWriter
from rlx.backends.cpu.gemm_view import MatrixView, convert, split_index
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64, Complex, Value, constant, register_type, vector
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType

#: Rows of the short operand at most.
MOST = 4
#: Vectors of sums that take turns in a dot product, so that none waits for the one before.
_CHAINS = 4
#: Grid indices that a product should have at least.
_ITEMS = 8


@dataclass(frozen=True, eq=False)
class DotKernel:
    """`matrices` times: out = dot products of each row of `long` with each row of `short`; both views' columns are k.

    long_is_columns: rows of `long` are the product's columns, else its rows.
    block: rows of `long` in one grid index, a multiple of the target's lanes.
    """

    target: Target
    dtype: DType
    matrices: int
    long: MatrixView
    short: MatrixView
    long_is_columns: bool
    block: int
    writer: TileWriter

    @property
    def depth(self) -> int:
        return self.long.columns.count

    @property
    def blocks(self) -> int:
        return -(-self.long.rows.count // self.block)

    @property
    def grid(self) -> int:
        return self.matrices * self.blocks

    @property
    def scratch_bytes(self) -> int:
        """The sums, and a vector behind them that the epilogue may read."""
        sums = self.block * self.short.rows.count * self.dtype.itemsize
        return -(-sums // 64) * 64 + 64

    def emit(self, e: FunctionEmitter) -> None:
        total = self.long.rows.count
        with e.loop(e.begin, e.end) as index:
            matrix, block = split_index(e, index, (self.matrices, self.blocks))
            first = e.integer_mul(block, I64(self.block))
            count = e.intrinsic("smin", e.builder.sub(I64(total), first), I64(self.block))
            with e.loop(I64(0), count) as at:
                self._dots(e, matrix, first, at)
            if self.long_is_columns:
                self.writer.write(e, e.scratch, matrix, I64(0), self.short.rows.count, first)
            else:
                self.writer.write(e, e.scratch, matrix, first, count, I64(0))

    def _dots(self, e: FunctionEmitter, matrix: ir.Value, first: ir.Value, at: ir.Value) -> None:
        """The dot products of row first + at of `long`."""
        lanes = self.target.lanes(self.dtype.bits)
        stream = (self.long, self.long.pointer(e, matrix, e.integer_add(first, at), 0))
        fixed = [(self.short, self.short.pointer(e, matrix, i, 0)) for i in range(self.short.rows.count)]
        zero = constant(vector(register_type(self.dtype), lanes), 0)
        together = max(1, min(_CHAINS, self.depth // lanes))
        cells = [[e.cell(zero) for _ in range(together)] for _ in fixed]

        def load(view: MatrixView, pointer: ir.Value, k: ir.Value, mask: ir.Value | None) -> ir.Value:
            value = e.load_lanes(e.element_pointer(pointer, view.dtype, k), view.dtype, lanes, mask)
            return convert(e, value, view.dtype, self.dtype, lanes)

        def step(k: ir.Value, chain: int, mask: ir.Value | None) -> None:
            value = load(*stream, k, mask)
            for operand, row in zip(fixed, cells, strict=True):
                total = self._multiply_add(e, value, load(*operand, k, mask), e.read_cell(row[chain]))
                e.write_cell(row[chain], total)

        span = together * lanes
        most, whole = self.depth // span * span, self.depth // lanes * lanes
        with e.loop(I64(0), I64(most), span) as k:
            for chain in range(together):
                step(e.integer_add(k, I64(chain * lanes)), chain, None)
        for chain, k in enumerate(range(most, whole, lanes)):
            step(I64(k), chain, None)
        if whole < self.depth:
            step(I64(whole), 0, e.mask_for(I64(self.depth - whole), lanes))
        for j, row in enumerate(cells):
            if self.long_is_columns:
                place = e.integer_add(at, I64(j * self.block))
            else:
                place = e.integer_add(e.integer_mul(at, I64(len(fixed))), I64(j))
            sums = [e.read_cell(cell) for cell in row]
            while len(sums) > 1:
                pairs = (sums[i : i + 2] for i in range(0, len(sums), 2))
                sums = [e.apply("add", pair, self.dtype) if len(pair) == 2 else pair[0] for pair in pairs]
            total = e.horizontal("add", sums[0], self.dtype)
            e.store_one(e.element_pointer(e.scratch, self.dtype, place), self.dtype, total)

    def _multiply_add(self, e: FunctionEmitter, a: ir.Value, b: ir.Value, c: Value) -> ir.Value:
        assert not isinstance(c, Complex)
        if self.dtype.is_float:
            return e.fma(a, b, c)
        return e.builder.add(e.builder.mul(a, b), c)


def dot_block(target: Target, dtype: DType, matrices: int, rows: int) -> int:
    """Rows of the long operand in one grid index."""
    lanes = target.lanes(dtype.bits)
    wanted = -(-rows // -(-_ITEMS // matrices))
    unit = max(lanes, 4)
    return min(-(-wanted // unit) * unit, 16 * unit)


def is_stream_of_dots(a: MatrixView, b: MatrixView, dtype: DType, target: Target, *, b_constant: bool) -> bool | None:
    """Whether dot products suit a (rows x k) times b (k x columns): None if not, else whether b is the long operand.

    b_constant: b can be packed instead, which is faster where several rows of a leave no room for b in the first-level
    cache.
    """
    contiguous = a.columns.stride == 1 and b.rows.stride == 1
    if not contiguous or a.columns.count < 2 * target.lanes(dtype.bits):
        return None
    if a.rows.count <= MOST and b.columns.count > MOST:
        short = a.rows.count * a.columns.count * dtype.itemsize
        return None if b_constant and a.rows.count > 1 and short > target.l1d // 4 else True
    if b.columns.count <= MOST:
        return False
    return None
