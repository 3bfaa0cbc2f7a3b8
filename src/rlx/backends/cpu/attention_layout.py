"""How an attention kernel's operands are read, and what its scratch memory holds."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from rlx.backends.cpu.attention_plan import AttentionPlan
from rlx.backends.cpu.attention_scratch import scratch_parts
from rlx.backends.cpu.gemm_operand import Rows, RowsCopied, RowsInPlace, rows_in_place
from rlx.backends.cpu.gemm_view import MatrixView
from rlx.codegen.lower.templates import AttentionSpec, Epilogue
from rlx.codegen.target import Target
from rlx.ir.dtypes import f32

#: Tiles of queries from which on a block of values is worth a copy without gaps.
_TILES_WORTH_A_COPY = 3


@dataclass(frozen=True, eq=False)
class AttentionLayout:
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
            "queries": self.queries.scratch_bytes // f32.itemsize,
        }
        return scratch_parts(elements)

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
