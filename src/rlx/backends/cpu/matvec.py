"""Products with few rows or few columns whose k is contiguous on both sides: dot products of whole vectors along k.

The long operand streams from memory once, as it lies, several of its rows side by side; the short one (four at most)
stays in the first-level cache. Nothing is packed. What a packed kernel would spend on a transposition, this one spends
on adding up lanes.

Order of sums: each lane takes every `lanes`-th k, in ascending order; then the lanes are added in a fixed tree. It
depends on k and the target alone.
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
#: Rows of the long operand side by side.
_SIDE_BY_SIDE = 4
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
            with e.loop(I64(0), count, _SIDE_BY_SIDE) as at:
                self._dots(e, matrix, first, at)
            if self.long_is_columns:
                self.writer.write(e, e.scratch, matrix, I64(0), self.short.rows.count, first)
            else:
                self.writer.write(e, e.scratch, matrix, first, count, I64(0))

    def _dots(self, e: FunctionEmitter, matrix: ir.Value, first: ir.Value, at: ir.Value) -> None:
        """The dot products of a few rows of `long`; those past its end are its last row's again."""
        lanes = self.target.lanes(self.dtype.bits)
        last = I64(self.long.rows.count - 1)
        rows = [e.integer_add(first, e.integer_add(at, I64(i))) for i in range(_SIDE_BY_SIDE)]
        streams = [(self.long, self.long.pointer(e, matrix, e.intrinsic("smin", r, last), 0)) for r in rows]
        fixed = [(self.short, self.short.pointer(e, matrix, i, 0)) for i in range(self.short.rows.count)]
        zero = constant(vector(register_type(self.dtype), lanes), 0)
        cells = [[e.cell(zero) for _ in fixed] for _ in streams]

        def load(view: MatrixView, pointer: ir.Value, k: ir.Value, mask: ir.Value | None) -> ir.Value:
            value = e.load_lanes(e.element_pointer(pointer, view.dtype, k), view.dtype, lanes, mask)
            return convert(e, value, view.dtype, self.dtype, lanes)

        def step(k: ir.Value, mask: ir.Value | None) -> None:
            factors = [load(*operand, k, mask) for operand in fixed]
            for operand, row in zip(streams, cells, strict=True):
                value = load(*operand, k, mask)
                for factor, cell in zip(factors, row, strict=True):
                    e.write_cell(cell, self._multiply_add(e, value, factor, e.read_cell(cell)))

        whole = self.depth // lanes * lanes
        with e.loop(I64(0), I64(whole), lanes) as k:
            step(k, None)
        if whole < self.depth:
            step(I64(whole), e.mask_for(I64(self.depth - whole), lanes))
        for i, row in enumerate(cells):
            for j, cell in enumerate(row):
                place = e.integer_add(at, I64(i))
                if self.long_is_columns:
                    place = e.integer_add(place, I64(j * self.block))
                else:
                    place = e.integer_add(e.integer_mul(place, I64(len(fixed))), I64(j))
                total = e.horizontal("add", e.read_cell(cell), self.dtype)
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
    unit = max(lanes, _SIDE_BY_SIDE)
    return min(-(-wanted // unit) * unit, 16 * unit)


def is_stream_of_dots(a: MatrixView, b: MatrixView, dtype: DType, target: Target, *, b_constant: bool) -> bool | None:
    """Whether dot products suit a (rows x k) times b (k x columns): None if not, else whether b is the long operand."""
    contiguous = a.columns.stride == 1 and b.rows.stride == 1
    if not contiguous or a.columns.count < 2 * target.lanes(dtype.bits):
        return None
    if a.rows.count <= MOST and not b_constant and b.columns.count > MOST:
        return True
    if b.columns.count <= MOST:
        return False
    return None
