"""How a matrix product is cut: the register tile, and the blocks of rows that keep a's part in the second-level cache.

The choice is a small model of cycles, not a search: what the tile's multiply-adds take, what its loads take, what the
latency of a short tile costs, what the last, partial tiles waste, and how evenly the work splits over threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlx.backends.cpu.gemm_tile import registers
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType

#: Independent accumulators that keep the multiply-add units busy (latency times units).
_CHAINS = 8
#: What a load adds next to a multiply-add of one vector.
_LOAD = 0.1
#: Multiply-adds' worth of time that beginning and ending one tile takes, an accumulator.
_TILE_END = 3.0
#: Grid indices that a product should have at least, so that threads share them evenly.
_ITEMS = 8
#: Row tiles that make up for bringing a panel into scratch memory.
_TILES_A_PANEL = 8
#: Widths that splits are balanced for.
_THREADS = (2, 4)


@dataclass(frozen=True)
class Tiling:
    """A product's cut.

    rows, vectors: the register tile. rest: rows of the last tile of the matrix, 0 where none is partial.
    block: rows of one grid index, a multiple of `rows` unless it covers the matrix.
    columns: of one panel: vectors times lanes.
    """

    rows: int
    vectors: int
    rest: int
    block: int
    columns: int

    def blocks(self, rows: int) -> int:
        """Grid indices along the rows."""
        return -(-rows // self.block)

    def panels(self, columns: int) -> int:
        """Grid indices along the columns."""
        return -(-columns // self.columns)


def choose_tiling(
    target: Target,
    dtype: DType,
    batch: int,
    rows: int,
    columns: int,
    depth: int,
    *,
    panels_cost: bool = False,
) -> Tiling:
    """The cheapest cut for `batch` products of (rows x depth) by (depth x columns).

    panels_cost: each grid index has to make its panel, so that blocks should be higher.
    """
    lanes = target.lanes(dtype.bits)
    best: tuple[float, int, int] | None = None
    for vectors in range(1, 9):
        if vectors > 1 and (vectors - 1) * lanes >= columns:
            break
        for height in range(1, min(rows, registers(target)) + 1):
            if _registers_of(height, vectors) > registers(target):
                break
            cost = _cost(lanes, batch, rows, columns, depth, height, vectors)
            if best is None or cost < best[0] * 0.999:
                best = (cost, height, vectors)
    assert best is not None
    _, height, vectors = best
    items = batch * -(-columns // (vectors * lanes))
    block = _block(target, dtype, rows, depth, height, items, _TILES_A_PANEL if panels_cost else 1)
    return Tiling(height, vectors, rows % height, block, vectors * lanes)


def _registers_of(rows: int, vectors: int) -> int:
    """Accumulators, the row of b, one broadcast; a single row reads b from memory."""
    return rows * vectors + 1 + (vectors if rows > 1 else 0)


def _cost(lanes: int, batch: int, rows: int, columns: int, depth: int, height: int, vectors: int) -> float:
    def tile(height: int) -> float:
        step = max(height * vectors, _CHAINS) + _LOAD * (height + vectors)
        return depth * step + _TILE_END * height * vectors

    panels = -(-columns // (lanes * vectors))
    panel = (rows // height) * tile(height) + (tile(rows % height) if rows % height else 0.0)
    items = batch * panels
    uneven = sum(-(-items // t) * t / items for t in _THREADS) / len(_THREADS)
    if rows > 4 * height:  # more than one block of rows can be made
        uneven = 1.0
    return items * panel * uneven


def _block(target: Target, dtype: DType, rows: int, depth: int, height: int, items: int, least: int) -> int:
    """Rows of one grid index, cut evenly: their part of a fills at most half of the second-level cache."""
    most = max(least, target.l2 // 2 // (depth * dtype.itemsize) // height)
    tiles = -(-rows // height)
    blocks = max(-(-tiles // most), min(tiles // max(least, 2), -(-_ITEMS // items)), 1)
    if blocks == 1:
        return rows
    return -(-tiles // blocks) * height
