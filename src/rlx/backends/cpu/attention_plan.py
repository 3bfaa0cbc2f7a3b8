"""How attention is cut: register tiles, blocks of queries for each grid index, blocks of keys that stay in cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlx.backends.cpu.gemm_plan import choose_tile
from rlx.backends.cpu.gemm_tile import registers
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType

#: Keys of one block at most: a tile's scores and a block of keys and values stay in the first two levels of cache.
MOST_KEYS = 256
#: Queries of one grid index at most: their sums stay in the second-level cache.
_MOST_QUERIES = 256
#: Grid indices that an attention should have at least, so that threads share them evenly.
_ITEMS = 16
#: What a load, and what beginning a step, adds next to a multiply-add of one vector.
_LOAD, _TILE_END = 0.1, 1.0


@dataclass(frozen=True)
class AttentionPlan:
    """rows: queries of one register tile, for scores and for sums.

    score_columns, value_columns: columns of the tiles of q k^T and of weights times v, whole vectors.
    queries: of one grid index, whole tiles unless it is all. keys: of one block, whole tiles of scores.
    """

    lanes: int
    rows: int
    score_columns: int
    value_columns: int
    queries: int
    keys: int

    @property
    def score_vectors(self) -> int:
        return self.score_columns // self.lanes

    @property
    def value_vectors(self) -> int:
        return self.value_columns // self.lanes


def plan_attention(
    target: Target, dtype: DType, batch: int, queries: int, keys: int, width: int, *, causal: bool
) -> AttentionPlan:
    """For `batch` attentions of `queries` to `keys`, half of which are hidden where `causal`; values of `width`."""
    lanes = target.lanes(dtype.bits)
    tile = choose_tile(target, dtype, batch, queries, width, min(keys, MOST_KEYS))
    even = keys / -(-keys // MOST_KEYS)
    columns = _score_columns(target, lanes, tile.rows, keys if causal else math.ceil(even), causal)
    block = math.ceil(even / columns) * columns
    tiles = -(-queries // tile.rows)
    query_blocks = max(-(-queries // _MOST_QUERIES), min(tiles // 2, -(-_ITEMS // batch)), 1)
    rows = queries if query_blocks == 1 else -(-tiles // query_blocks) * tile.rows
    return AttentionPlan(lanes, tile.rows, columns, tile.columns, rows, block)


def _score_columns(target: Target, lanes: int, rows: int, keys: int, causal: bool) -> int:
    """Columns of a tile of `rows` rows of scores: as many vectors as registers hold, unless they waste too much.

    Of the last tile that a row of queries needs, half is wasted on average where `causal`.
    """
    spare = 1 if target.has_fma else 2
    best, columns = math.inf, lanes
    for vectors in range(1, registers(target)):
        if vectors > 1 and (rows * vectors + vectors + spare > registers(target) or (vectors - 1) * lanes >= keys):
            break
        tiles = keys / (2 * vectors * lanes) + 0.5 if causal else math.ceil(keys / (vectors * lanes))
        cost = tiles * (rows * vectors + _LOAD * (rows + vectors) + _TILE_END)
        if cost < best:
            best, columns = cost, vectors * lanes
    return columns
