"""Products of one a by several constant b as one kernel: the panels of all, one part behind the other.

Each part's panels are packed into the part's place of one buffer, and each has its own epilogue. No panel crosses from
one part to the next. Sums are those of a product by itself, bit for bit: their order depends on k alone.

Of a pair (two products, one epilogue) the panels take turns, so that the sums of both for the same columns are made one
after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

from llvmlite import ir

from rlx.backends.cpu.gemm import ProductKernel
from rlx.backends.cpu.gemm_epilogue import Place, TileWriter
from rlx.backends.cpu.gemm_operand import PanelsPacked
from rlx.backends.cpu.gemm_plan import rows_ahead
from rlx.backends.cpu.gemm_schedule import Product, Schedule
from rlx.backends.cpu.gemm_view import Dims, MatrixView, matrix_view, split_index
from rlx.backends.cpu.matmul import (
    epilogue_identity,
    pack_panels,
    product_cost,
    product_of,
    rows_operand,
    supported,
)
from rlx.backends.cpu.matvec import is_stream_of_dots
from rlx.codegen.kernel import Cost, Memory, TemplateKernel
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64
from rlx.codegen.lower.templates import Epilogue, JoinedKernels, MatmulSpec
from rlx.codegen.target import Target


@dataclass(frozen=True, eq=False)
class JoinedWriter:
    """Writes tiles of joined products: each by the part whose panel it is.

    starts: the column, among the columns of all panels, at which each part begins; the last one's end behind them.
    """

    starts: tuple[int, ...]
    parts: tuple[TileWriter, ...]

    def write(
        self,
        e: FunctionEmitter,
        sums: ir.Value,
        matrix: ir.Value,
        row: ir.Value,
        rows: int | ir.Value,
        column: ir.Value,
    ) -> None:
        """As `TileWriter.write`; `column` counts those of all panels."""
        with ExitStack() as nested:
            for start, end, part in zip(self.starts, self.starts[1:], self.parts, strict=False):
                own = e.builder.sub(column, I64(start))
                if part is self.parts[-1]:
                    part.write(e, sums, matrix, row, rows, own)
                    break
                mine, others = nested.enter_context(e.builder.if_else(e.builder.icmp_signed("<", column, I64(end))))
                with mine:
                    part.write(e, sums, matrix, row, rows, own)
                nested.enter_context(others)


def joined_product(target: Target, specs: Sequence[MatmulSpec], epilogues: Sequence[Epilogue]) -> Product | None:
    """What a schedule is chosen for; None where each product is better off by itself."""
    first = specs[0]
    a = matrix_view(first.a, (), first.m, first.k)
    views = [matrix_view(s.b, (), s.k, s.n) for s in specs]
    if a is None or None in views or 0 in (*first.m, *first.k, *(n for s in specs for n in s.n)):
        return None
    sums = first.acc_dtype
    if not all(supported(s.a_dtype, s.b_dtype, sums) and s.acc_dtype is sums and s.b_constant for s in specs):
        return None
    if any(b is not None and is_stream_of_dots(a, b, sums, target, b_constant=True) is not None for b in views):
        return None
    return product_of(target, specs, a, None, paired=len(epilogues) < len(specs))


def joined_kernels(
    target: Target, specs: Sequence[MatmulSpec], epilogues: Sequence[Epilogue], schedule: Schedule | None = None
) -> JoinedKernels | None:
    """The kernels for products of one a, or None where each is better off by itself.

    schedule: one that the products allow (see `joined_product`); the planner's choice where it is None.
    """
    product = joined_product(target, specs, epilogues)
    if product is None:
        return None
    if schedule is None:
        schedule = product.default
    first, dtype, rows, paired = specs[0], product.dtype, product.rows, product.paired
    tile, together = schedule.tile, product.together
    constant = [view for s in specs if (view := matrix_view(s.b, (), s.k, s.n)) is not None]
    packed = [PanelsPacked(view, dtype, tile.columns, together) for view in constant]
    starts = tuple(accumulate((p.panels * tile.columns for p in packed), initial=0))
    offsets = tuple(accumulate((p.packed_bytes for p in packed), initial=0))
    if paired:
        starts = (0, starts[1])
        offsets = (0, packed[0].depth * tile.columns * dtype.itemsize, offsets[-1])
    whole = MatrixView("packed_b", dtype, Dims((), ()), Dims((packed[0].depth,), (1,)), Dims((starts[-1],), (1,)))
    second = -(-tile.rows * tile.columns * dtype.itemsize // 64) * 64 // dtype.itemsize
    left = rows_operand(target, first.a, product.a, False, dtype, tile, starts[-1], together)
    a_rows = left.read(schedule.blocks, rows)
    ahead = rows_ahead(target, tile, rows, starts[-1])
    writers = tuple(
        TileWriter(epilogue, _place(spec), spec.n, dtype, tile.columns, ahead=ahead, second=second)
        for spec, epilogue in zip(specs, epilogues, strict=not paired)
    )
    kernel = ProductKernel(
        target,
        dtype,
        1,
        rows,
        starts[-1],
        product.depth,
        tile,
        schedule.blocks,
        a_rows,
        PanelsPacked(whole, dtype, tile.columns),
        JoinedWriter(starts, writers),
        first.a_dtype if together > 1 else None,
        product.in_matrix_registers,
        2 if paired else 1,
        schedule.near,
    )
    ends = " ".join(f"{s.m}x{s.n} {epilogue_identity(e)}" for s, e in zip(specs, epilogues, strict=not paired))
    unstored = [replace(epilogues[0], stores=(), flops=0.0)] * (len(specs) - len(epilogues))
    costs = [product_cost(spec, epilogue) for spec, epilogue in zip(specs, [*epilogues, *unstored], strict=True)]
    again = (len(specs) - 1) * rows * prod(first.k) * first.a_dtype.itemsize
    compute = TemplateKernel(
        label="matmul",
        args=(left.memory, Memory("packed_b", dtype, (1,)), *epilogues[0].args),
        grid=kernel.grid,
        identity=f"{'paired' if paired else 'joined'} {target.name} {first.a_dtype}x{first.b_dtype}->{dtype} {first.k} "
        f"a={left.view.unnamed}{type(a_rows).__name__} {schedule} {ends}",
        emit=kernel.emit,
        cost=Cost(sum(c.flops for c in costs), sum(c.bytes for c in costs) - again, costs[0].factors),
        scratch_bytes=kernel.scratch_bytes,
    )
    packs = tuple(pack_panels(target, spec.b, p, 2 if paired else 1) for spec, p in zip(specs, packed, strict=True))
    return JoinedKernels(packs, offsets[:-1], offsets[-1], compute)


def _place(spec: MatmulSpec) -> Place:
    def place(e: FunctionEmitter, matrix: ir.Value, row: ir.Value) -> list[ir.Value]:
        return split_index(e, row, spec.m)

    return place
