"""Accumulations: in which dtype sums of products are held, and one with what follows it as a row program of loops."""

from __future__ import annotations

from rlx.codegen.lower.affine import Index
from rlx.codegen.lower.forward import carry_forward
from rlx.codegen.lower.reader import Reader
from rlx.codegen.lower.rows import Phase, Reduction, RowProgram, RowStore
from rlx.codegen.lower.view import View
from rlx.ir.dtypes import DType, f32, i32
from rlx.ir.graph import Value
from rlx.passes.group import Group


def accumulator_of(source: DType, result: DType) -> DType:
    """In what a contraction accumulates: the wider of both, at least 32 bits."""
    if source.is_integer:
        wide = result
        return wide if wide.bits >= 32 else i32
    wide = result if result.bits > source.bits else source
    return f32 if wide.bits < 32 else wide


def accumulated(
    group: Group,
    reduction: Reduction,
    rows: tuple[int, ...],
    reduced: tuple[int, ...],
    output: Value,
    view: View,
) -> RowProgram:
    """The row program of one accumulation followed by the group's other nodes as an epilogue."""

    def index(reader: Reader, row: Index) -> Index:
        known = {reduction.result: row}
        carry_forward(reader, group.nodes[1:], known)
        return known[output]

    store = RowStore(view, index, lambda reader, row: reader.read(output, index(reader, row)))
    return RowProgram(rows, reduced, (Phase((reduction,)),), (store,), lambda row, at: row + at)
