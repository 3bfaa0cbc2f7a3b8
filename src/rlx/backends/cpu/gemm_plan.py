"""How a matrix product is cut: the register tile, and the blocks of rows that keep a's part in the second-level cache.

The choice is a small model of cycles, not a search: what the tile's multiply-adds take, what its loads take, what the
latency of a short tile costs, what the last, partial tiles waste, and how evenly the work splits over threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
#: Panels that the second-level cache should hold: one that is read, the next one, and room for the rest.
_PANELS_IN_L2 = 3
#: The same where many tiles read each panel, and narrower ones would cost a copy of a.
_PANELS_AT_MOST = 4 / 3
#: Widths that splits are balanced for.
_THREADS = (2, 4)


@dataclass(frozen=True)
class Tile:
    """The register tile: rows x vectors accumulators. columns: of one panel, vectors times lanes."""

    rows: int
    vectors: int
    columns: int

    def panels(self, columns: int) -> int:
        """Panels of a matrix."""
        return -(-columns // self.columns)


@dataclass(frozen=True)
class Blocks:
    """What a grid index is: `rows` rows (a multiple of the tile's unless it is all) of one panel of one matrix.

    panels_first: all blocks of rows of one panel are neighbours in the grid, not all panels of one block.
    """

    rows: int
    panels_first: bool

    def count(self, rows: int) -> int:
        """Blocks of a matrix."""
        return -(-rows // self.rows)


def choose_tile(target: Target, dtype: DType, batch: int, rows: int, columns: int | Sequence[int], depth: int) -> Tile:
    """The cheapest tile for `batch` products of (rows x depth) by (depth x columns).

    columns: several sizes where the products of one a by several b are joined: no panel crosses from one b to the next.
    """
    best: tuple[float, Tile] | None = None
    for cost, tile in _costs(target, dtype, batch, rows, columns, depth):
        if best is None or cost < best[0] * 0.999:
            best = (cost, tile)
    assert best is not None
    return best[1]


def tile_in_place(
    target: Target, dtype: DType, batch: int, rows: int, columns: int | Sequence[int], depth: int, height: int
) -> Tile:
    """The cheapest tile of `height` rows, at most `rows`. Panels may fill most of the second-level cache. Sizes as for
    `choose_tile`.

    For an a whose rows, if more of them are read at once, push each other out of the first-level cache.
    """
    costs = _costs(target, dtype, batch, rows, columns, depth, room=_PANELS_AT_MOST)
    return min((found for found in costs if found[1].rows == height), key=lambda found: found[0])[1]


def near_tiles(
    target: Target, dtype: DType, batch: int, rows: int, columns: int | Sequence[int], depth: int, within: float
) -> list[Tile]:
    """Tiles whose cost is at most `within` times the least, the cheapest first. Sizes as for `choose_tile`."""
    costs = sorted(_costs(target, dtype, batch, rows, columns, depth), key=lambda found: found[0])
    return [tile for cost, tile in costs if cost <= within * costs[0][0]]


def fits(target: Target, tile: Tile) -> bool:
    """Whether a tile keeps its sums in registers."""
    return _registers_of(tile.rows, tile.vectors) + (not target.has_fma) <= registers(target)


def choose_blocks(
    target: Target,
    dtype: DType,
    tile: Tile,
    batch: int,
    rows: int,
    columns: int,
    depth: int,
    *,
    panels_first: bool,
    within: int | None = None,
) -> Blocks:
    """Cut the rows evenly: enough grid indices for threads to share, and a's part of each at most `within` bytes.

    panels_first: a panel costs something to make and a's rows do not, so rows are cut for the threads alone.
    within: half of the second-level cache where it is None.
    """
    tiles = -(-rows // tile.rows)
    items = batch * tile.panels(columns)
    blocks = max(1, min(tiles // 2, -(-_ITEMS // items)))
    if not panels_first:
        room = target.l2 // 2 if within is None else within
        most = max(1, room // (depth * dtype.itemsize) // tile.rows)
        blocks = max(blocks, -(-tiles // most))
    return Blocks(rows if blocks == 1 else -(-tiles // blocks) * tile.rows, panels_first)


def rows_ahead(target: Target, tile: Tile, rows: int, columns: int) -> int:
    """How far below a tile results should be brought near: a tile, where they do not stay in the cache; else 0."""
    return tile.rows if rows * columns * 4 > target.l2 // 2 else 0


def _costs(
    target: Target,
    dtype: DType,
    batch: int,
    rows: int,
    columns: int | Sequence[int],
    depth: int,
    room: float = _PANELS_IN_L2,
) -> Iterator[tuple[float, Tile]]:
    """Every tile worth a thought, with its cost. room: panels that the second-level cache should hold."""
    parts = (columns,) if isinstance(columns, int) else tuple(columns)
    lanes = target.lanes(dtype.bits)
    for vectors in range(1, 9):
        if vectors > 1 and (vectors - 1) * lanes >= max(parts):
            break
        if vectors > 2 and depth * vectors * lanes * dtype.itemsize > target.l2 / room:
            break
        for height in range(1, min(rows, registers(target)) + 1):
            tile = Tile(height, vectors, vectors * lanes)
            if not fits(target, tile):
                break
            yield _cost(lanes, batch, rows, parts, depth, height, vectors), tile


def _registers_of(rows: int, vectors: int) -> int:
    """Accumulators, the row of b, one broadcast; a single row reads b from memory. A product that is not fused with its
    sum needs one more.
    """
    return rows * vectors + 1 + (vectors if rows > 1 else 0)


def _cost(lanes: int, batch: int, rows: int, parts: Sequence[int], depth: int, height: int, vectors: int) -> float:
    def tile(height: int) -> float:
        step = max(height * vectors, _CHAINS) + _LOAD * (height + vectors)
        return depth * step + _TILE_END * height * vectors

    panels = sum(-(-columns // (lanes * vectors)) for columns in parts)
    panel = (rows // height) * tile(height) + (tile(rows % height) if rows % height else 0.0)
    items = batch * panels
    uneven = sum(-(-items // t) * t / items for t in _THREADS) / len(_THREADS)
    if rows > 4 * height:  # more than one block of rows can be made
        uneven = 1.0
    return items * panel * uneven
