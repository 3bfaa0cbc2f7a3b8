"""What there is to choose about a matrix product: `Schedule`, and for one `Product` which schedules there are.

No choice changes an answer. Sums run over k in one order whatever the schedule (k is not blocked), so any two schedules
of a product give the same bits, on any number of threads; a tuner may take whichever is fastest.

The planner's choice is the default. The others are found in two steps: other tiles, each cut as the planner would cut
it; then other cuts of one schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from rlx.backends.cpu import gemm_amx
from rlx.backends.cpu.gemm_operand import ROWS_OF_A_SET, panels_in_place, rows_in_place, words_of
from rlx.backends.cpu.gemm_plan import Blocks, Tile, choose_blocks, choose_tile, fits, near_tiles, tile_in_place
from rlx.backends.cpu.gemm_view import MatrixView
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType

#: Row tiles from which on a panel of b is worth a copy.
_TILES_WORTH_A_COPY = 3
#: Rows up to which weights are packed as for `_PROMPT_ROWS` rows.
_FEW_ROWS, _PROMPT_ROWS = 4, 128
#: Blocks of rows that a worker's part of the third-level cache should hold, where the second is too small for one.
_BLOCKS_IN_L3 = 4
#: Tiles are alternatives that the model of cycles puts within this factor of the best, and so many at most.
_WITHIN, _TILES = 1.3, 6


@dataclass(frozen=True)
class Schedule:
    """How one product is cut and read.

    copied: panels of a b that is not constant are copied before they are read, else read where they lie.
    near: tiles bring the next packed panel near while they compute (see `ProductKernel`).
    """

    tile: Tile
    blocks: Blocks
    copied: bool
    near: bool = True

    def __str__(self) -> str:
        order = "panels first" if self.blocks.panels_first else "blocks first"
        ways = [f"tile {self.tile.rows}x{self.tile.columns}", f"blocks of {self.blocks.rows}", order]
        return ", ".join([*ways, *(["copied"] if self.copied else []), *([] if self.near else ["no prefetch"])])

    def document(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @staticmethod
    def of(document: Mapping[str, Any]) -> Schedule:
        """What `document` gave. Raises ValueError for anything else."""
        try:
            tile, blocks = Tile(**document["tile"]), Blocks(**document["blocks"])
            found = Schedule(tile, blocks, document["copied"], document["near"])
        except (KeyError, TypeError):
            raise ValueError("not a schedule of a product") from None
        if found.document() != dict(document) or not _has_types(found):
            raise ValueError("not a schedule of a product")
        return found


@dataclass(frozen=True)
class Product:
    """What a schedule is chosen for: `batch` products of (rows x depth) by (depth x columns).

    columns: several where products of one a are joined, or two of a pair, whose panels take turns.
    depth: in words of `together` neighbours along k.
    a: as it lies, or a constant, which is packed where it does not lie well. b: None where panels are packed at setup.
    """

    target: Target
    dtype: DType
    batch: int
    rows: int
    columns: tuple[int, ...]
    depth: int
    a: MatrixView
    b: MatrixView | None
    a_constant: bool = False
    together: int = 1
    in_matrix_registers: bool = False
    paired: bool = False

    def __str__(self) -> str:
        columns = "+".join(map(str, self.columns))
        return f"{f'{self.batch} of ' if self.batch > 1 else ''}{self.rows}x{columns}x{self.depth}"

    @cached_property
    def default(self) -> Schedule:
        """The planner's choice.

        A few rows wait for memory, whatever the panels' width: they read the panels that a prompt's program would pack.
        """
        if self.in_matrix_registers:
            return self._cut(gemm_amx.tile(self.rows))

        def best(rows: int) -> Tile:
            return choose_tile(self.target, self.dtype, self.batch, rows, self.columns, self.depth)

        if self.b is None and self.rows <= _FEW_ROWS:
            tile = replace(best(_PROMPT_ROWS), rows=self.rows)
            if fits(self.target, tile):
                return self._cut(tile)
        tile = best(self.rows)
        if self.rows >= _PROMPT_ROWS and self.together == 1 and not self.lies_well(tile):
            sizes = (self.batch, self.rows, self.columns, self.depth)
            lower = tile_in_place(self.target, self.dtype, *sizes, ROWS_OF_A_SET)
            if self.lies_well(lower):
                tile = lower
        return self._cut(tile)

    def other_tiles(self) -> list[Schedule]:
        """Schedules with other tiles than the default's, the most promising first."""
        if self.in_matrix_registers:
            return []
        tiles = near_tiles(self.target, self.dtype, self.batch, self.rows, self.columns, self.depth, _WITHIN)
        return [self._cut(tile) for tile in tiles if tile != self.default.tile][:_TILES]

    def other_cuts(self, schedule: Schedule) -> list[Schedule]:
        """Schedules with the tile of `schedule` that differ from it in one respect."""
        found = dict.fromkeys(s for s in self._variations(schedule) if s != schedule and self.allows(s))
        return list(found)

    def allows(self, schedule: Schedule) -> bool:
        """Whether there is code for a schedule, and its answer the default's."""
        tile, blocks = schedule.tile, schedule.blocks
        if min(tile.rows, tile.vectors, blocks.rows) < 1 or tile.rows > self.rows or blocks.rows > self.rows:
            return False
        if self.in_matrix_registers:
            if tile != self.default.tile:
                return False
        elif tile.columns != tile.vectors * self.target.lanes(self.dtype.bits) or not fits(self.target, tile):
            return False
        if blocks.rows != self.rows and blocks.rows % tile.rows:
            return False
        if not schedule.copied and self.b is not None and not panels_in_place(self.b, self.dtype, tile.columns):
            return False
        if schedule.copied and self.b is None:
            return False
        return not blocks.panels_first or self.lies_well(tile)

    def width(self, tile: Tile) -> int:
        """Columns to go through: those of the product; of the whole panels of joined parts, or of a pair's first."""
        if len(self.columns) == 1:
            return self.columns[0]
        parts = self.columns[:1] if self.paired else self.columns
        return sum(tile.panels(columns) for columns in parts) * tile.columns

    def lies_well(self, tile: Tile) -> bool:
        """Whether tiles read a where it lies, or from what is packed at setup."""
        reads = tile.panels(self.width(tile))
        if self.together > 1:
            words = words_of(self.a, self.together)
            return words is not None and rows_in_place(words, words.dtype, tile.rows, reads)
        return self.a_constant or rows_in_place(self.a, self.dtype, tile.rows, reads)

    def _cut(self, tile: Tile) -> Schedule:
        """How the planner cuts with a tile."""
        copied = self.b is not None and copies_panels(self.b, self.dtype, tile, self.rows)
        panels_first = copied and self.lies_well(tile)
        width = self.width(tile)
        blocks = choose_blocks(
            self.target, self.dtype, tile, self.batch, self.rows, width, self.depth, panels_first=panels_first
        )
        if self.b is None and self.lies_well(tile) and self.rows <= blocks.count(self.rows) * tile.columns:
            # All blocks together would read more of b than all panels read of a: panels read it from the third level.
            sizes, room = (tile, self.batch, self.rows, width, self.depth), self.target.l3 // _BLOCKS_IN_L3
            blocks = choose_blocks(self.target, self.dtype, *sizes, panels_first=False, within=room)
        return Schedule(tile, blocks, copied)

    def _variations(self, schedule: Schedule) -> Iterator[Schedule]:
        blocks, tiles = schedule.blocks, -(-self.rows // schedule.tile.rows)
        now = blocks.count(self.rows)
        for count in (1, now // 4, now // 2, now - 1, now + 1, now * 2, now * 4):
            if 1 <= count <= tiles:
                rows = self.rows if count == 1 else -(-tiles // count) * schedule.tile.rows
                if rows <= self.rows:
                    yield replace(schedule, blocks=replace(blocks, rows=rows))
        yield replace(schedule, blocks=replace(blocks, panels_first=not blocks.panels_first))
        yield replace(schedule, copied=not schedule.copied)
        if self.b is None and not self.in_matrix_registers and not blocks.panels_first:
            yield replace(schedule, near=not schedule.near)


def copies_panels(b: MatrixView, dtype: DType, tile: Tile, rows: int) -> bool:
    """Whether the planner copies panels of a b that is not constant: where they do not lie well, or many tiles read
    them.
    """
    return not panels_in_place(b, dtype, tile.columns) or -(-rows // tile.rows) >= _TILES_WORTH_A_COPY


def _has_types(schedule: Schedule) -> bool:
    tile, blocks = schedule.tile, schedule.blocks
    numbers = (tile.rows, tile.vectors, tile.columns, blocks.rows)
    truths = (blocks.panels_first, schedule.copied, schedule.near)
    return all(type(n) is int for n in numbers) and all(type(t) is bool for t in truths)
