"""The matrix product kernel: blocks, panels, register tiles, epilogue.

    for each matrix, block of rows, panel of columns        (the grid, or panels before blocks: see gemm_plan)
        bring the block of a and the panel of b into place  (nothing to do where they are packed or lie well)
        for each tile of rows in the block
            sums = a's rows times b's panel, over all of k  (gemm_tile)
            run the epilogue over the sums                  (gemm_epilogue)

k is not blocked: a panel of b streams from the second-level cache at a small part of its bandwidth while the sums
stay in registers, and no partial sum is ever written out. Any split of the grid gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from rlx.backends.cpu.gemm_amx import MatrixTile, configure, matrix_tile, release
from rlx.backends.cpu.gemm_epilogue import Writer
from rlx.backends.cpu.gemm_operand import Panels, PanelsPacked, Rows
from rlx.backends.cpu.gemm_plan import Blocks, Tile
from rlx.backends.cpu.gemm_tile import TileCode, tile_function
from rlx.backends.cpu.gemm_view import split_index
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I1, I8, I64
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType

#: Elements between two rows of a that are brought near with them: as many as a copy of a has at most.
_GAP = 64


@dataclass(frozen=True, eq=False)
class ProductKernel:
    """A flat product: `matrices` times (rows x depth) by (depth x columns), in the dtype of the sums.

    factors: what the operands' words hold, where a word is more than one element; depth and strides then count words,
        which are as wide as a sum.
    in_matrix_registers: whether tiles are computed by `gemm_amx`, not in lanes.
    products: of one a at once: 1, or 2 for a pair, whose panels take turns in b and whose sums lie one tile apart.
    near: whether tiles bring the next panel near, where panels are packed and read in turn. The rows that the tile
        below will read they always do.
    """

    target: Target
    dtype: DType
    matrices: int
    rows: int
    columns: int
    depth: int
    tile: Tile
    blocks: Blocks
    a: Rows
    b: Panels
    writer: Writer
    factors: DType | None = None
    in_matrix_registers: bool = False
    products: int = 1
    near: bool = True

    @property
    def grid(self) -> int:
        return self.matrices * self.blocks.count(self.rows) * self.tile.panels(self.columns)

    @property
    def scratch_bytes(self) -> int:
        return self._sums_bytes + _aligned(self.a.scratch_bytes) + _aligned(self.b.scratch_bytes)

    @property
    def _sums_bytes(self) -> int:
        """The tile of sums, of each product, and a vector behind it that the epilogue may read."""
        return self.products * self._tile_bytes + 64

    @property
    def _tile_bytes(self) -> int:
        return _aligned(self.tile.rows * self.tile.columns * self.dtype.itemsize)

    def emit(self, e: FunctionEmitter) -> None:
        tile, b = self.tile, e.builder
        sums = e.scratch
        rows_at = e.element_pointer(e.scratch, self.dtype, I64(self._sums_bytes // self.dtype.itemsize))
        panel_at = e.element_pointer(rows_at, self.dtype, I64(_aligned(self.a.scratch_bytes) // self.dtype.itemsize))
        blocks, panels = self.blocks.count(self.rows), tile.panels(self.columns)
        if self.in_matrix_registers:
            configure(e, tile.rows)
        with e.loop(e.begin, e.end) as index:
            if self.blocks.panels_first:
                matrix, panel, block = split_index(e, index, (self.matrices, panels, blocks))
            else:
                matrix, block, panel = split_index(e, index, (self.matrices, blocks, panels))
            row = e.integer_mul(block, I64(self.blocks.rows))
            column = e.integer_mul(panel, I64(tile.columns))
            count = self._count(e, row, blocks)
            inner = block if self.blocks.panels_first else panel
            fresh = b.or_(b.icmp_signed("==", index, e.begin), b.icmp_signed("==", inner, I64(0)))
            always = I1(1)
            a_fresh, b_fresh = (always, fresh) if self.blocks.panels_first else (fresh, always)
            a_at = self.a.block(e, rows_at, matrix, row, count, a_fresh)
            first = e.integer_mul(panel, I64(self.products))
            b_at = self.b.panel(e, panel_at, matrix, first, column, b_fresh)
            with e.loop(I64(0), count, tile.rows) as at:
                height = self._tile(e, a_at, b_at, sums, at, count)
                for product in range(1, self.products):
                    beside = b.gep(sums, [I64(product * self._tile_bytes)], source_etype=I8)
                    b_beside = b.gep(b_at, [I64(product * self._panel_bytes)], source_etype=I8)
                    self._tile(e, a_at, b_beside, beside, at, count)
                self.writer.write(e, sums, matrix, e.integer_add(row, at), height, column)
        if self.in_matrix_registers:
            release(e)

    @property
    def _near(self) -> int:
        """Bytes of the next panel that a tile brings near for each of its k: packed panels are read in turn.

        0 where each panel is read once: then its rows come one behind the other, which the processor foresees.
        """
        tiles = -(-min(self.rows, self.blocks.rows) // self.tile.rows)
        if not self.near or self.in_matrix_registers or tiles == 1 or not isinstance(self.b, PanelsPacked):
            return 0
        if self.blocks.panels_first:
            return 0
        return -(-self.tile.columns * self.dtype.itemsize // tiles)

    @property
    def _below(self) -> int:
        """Bytes of a's rows below a tile that it brings near for each of its k; 0 where there are none, or gaps.

        A tile reads each of them anew: the processor would wait for their first lines before it foresees the next.
        """
        tile, gap = self.tile.rows, self.a.row - self.depth
        if self.a.k != 1 or tile == 1 or tile >= min(self.rows, self.blocks.rows) or not 0 <= gap <= _GAP:
            return 0
        return -(-tile * self.a.row * self.dtype.itemsize // self.depth)

    @property
    def _panel_bytes(self) -> int:
        rows = self.b.depth if isinstance(self.b, PanelsPacked) else self.depth
        return rows * self.tile.columns * self.dtype.itemsize

    def _count(self, e: FunctionEmitter, row: ir.Value, blocks: int) -> ir.Value:
        """Rows of the block that begins at `row`."""
        if blocks == 1:
            return I64(self.rows)
        left = e.builder.sub(I64(self.rows), row)
        whole = e.builder.icmp_signed(">", left, I64(self.blocks.rows))
        return e.builder.select(whole, I64(self.blocks.rows), left)

    def _tile(
        self, e: FunctionEmitter, a: ir.Value, b: ir.Value, sums: ir.Value, at: ir.Value, count: ir.Value
    ) -> ir.Value:
        """Compute the tile that begins `at` rows into a block of `count`; gives its height."""
        most, rest = self.tile.rows, self.rows % self.tile.rows
        start = e.element_pointer(a, self.dtype, e.integer_mul(at, I64(self.a.row)))
        near = self._near

        def call(height: int) -> None:
            if self.in_matrix_registers and self.factors is not None:
                function = matrix_tile(e, MatrixTile(height, self.a.row, self.factors), most)
                e.builder.call(function, [start, b, I64(self.depth), sums])
                return
            row = self.a.row if height > 1 else 0
            below = self._below if height == most else 0
            strides = (row, self.a.k, self.b.k, 0)
            code = TileCode(self.dtype, height, self.tile.vectors, *strides, self.factors, near, below)
            operands = [start, b, I64(self.depth), sums]
            if near:
                # The next panel lies behind this one (a pair's, behind both); each tile of rows brings its share of it.
                share = e.integer_mul(e.builder.udiv(at, I64(most)), I64(near * self.depth))
                share = e.integer_add(share, I64(self.products * self._panel_bytes))
                operands.append(e.builder.gep(b, [share], source_etype=I8))
            e.builder.call(tile_function(e.module, self.target, code), operands)

        if not rest:
            call(most)
            return I64(most)
        left = e.builder.sub(count, at)
        with e.builder.if_else(e.builder.icmp_signed("<", left, I64(most))) as (partial, whole):
            with partial:
                call(rest)
            with whole:
                call(most)
        return e.intrinsic("smin", left, I64(most))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64
