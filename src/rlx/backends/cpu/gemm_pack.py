"""Bringing operands into the order in which register tiles read them.

b becomes panels: for each panel of columns all rows (k) one after the other, `columns` elements each, without gaps;
what lies beyond the last column of the matrix is undefined and only ever reaches sums that are thrown away. a becomes
rows with a stride that spreads them over the sets of the first-level cache. Both are converted to the dtype of the
sums, or become 32-bit words of several neighbours along k, zeros behind the last. No element outside the operand is
read.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from rlx.backends.cpu.gemm_tile import RAISED, multiply_add
from rlx.backends.cpu.gemm_view import MatrixView, convert
from rlx.backends.cpu.transposed_square import copy_transposed, transpose
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I32, I64, constant, dtype_constant, real
from rlx.ir.dtypes import DType, i8, i32


def padded_stride(depth: int, dtype: DType) -> int:
    """Elements from row to row of a copied: whole cache lines, an odd number of them."""
    line = 64 // dtype.itemsize
    lines = -(-depth // line)
    return (lines | 1) * line


def pack_panel(
    e: FunctionEmitter,
    view: MatrixView,
    dtype: DType,
    columns: int,
    matrix: ir.Value,
    first: ir.Value,
    destination: ir.Value,
) -> None:
    """Write the panel of `columns` columns from column `first` on; the view's rows are k."""
    depth, total = view.rows.count, view.columns.count
    if view.columns.stride in (0, 1) and (view.columns.stride == 1 or total == 1):
        _pack_by_rows(e, view, dtype, columns, matrix, first, destination)
        return
    lanes = e.target.lanes(dtype.bits)
    blocked = depth // lanes * lanes if _transposes(e, view, dtype) else 0
    if blocked:
        with e.loop(I64(0), I64(columns), I64(lanes)) as column, e.loop(I64(0), I64(blocked), I64(lanes)) as k:
            begin = e.builder.add(first, column)
            last = e.intrinsic("smax", e.builder.sub(I64(total - 1), begin), I64(0))
            source = view.pointer(e, matrix, k, _at_most(e, begin, total - 1))
            target = e.builder.add(e.builder.mul(k, I64(columns)), column)
            into = e.element_pointer(destination, dtype, target)
            copy_transposed(e, dtype, source, view.columns.stride or 0, last, into, columns)
    if blocked < depth:
        with e.loop(I64(0), I64(columns), I64(1)) as column, e.loop(I64(blocked), I64(depth), I64(1)) as k:
            at = _at_most(e, e.builder.add(first, column), total - 1)
            value = e.load_one(view.pointer(e, matrix, k, at), view.dtype)
            to = e.builder.add(e.builder.mul(k, I64(columns)), column)
            e.store_one(e.element_pointer(destination, dtype, to), dtype, convert(e, value, view.dtype, dtype, 1))


def _transposes(e: FunctionEmitter, view: MatrixView, dtype: DType) -> bool:
    """Whether squares of the operand can go through registers: k is contiguous and nothing is converted."""
    return view.rows.stride == 1 and view.columns.stride is not None and view.dtype is dtype


def _pack_by_rows(
    e: FunctionEmitter,
    view: MatrixView,
    dtype: DType,
    columns: int,
    matrix: ir.Value,
    first: ir.Value,
    destination: ir.Value,
) -> None:
    """Columns are neighbours in memory: each row of the panel is a copy of whole vectors."""
    lanes = e.target.lanes(dtype.bits)
    total = view.columns.count

    def copy(whole: bool) -> None:
        left = e.builder.sub(I64(total), first)
        with e.loop(I64(0), I64(view.rows.count), I64(1)) as k:
            source = view.pointer(e, matrix, k, first)
            target = e.element_pointer(destination, dtype, e.builder.mul(k, I64(columns)))
            for at in range(0, columns, lanes):
                mask = None if whole else e.mask_for(e.builder.sub(left, I64(at)), lanes)
                value = e.load_lanes(e.element_pointer(source, view.dtype, I64(at)), view.dtype, lanes, mask)
                value = convert(e, value, view.dtype, dtype, lanes)
                e.store_lanes(e.element_pointer(target, dtype, I64(at)), dtype, value, lanes)

    by_fullness(e, total, columns, first, copy)


def pack_words(
    e: FunctionEmitter,
    view: MatrixView,
    together: int,
    columns: int,
    matrix: ir.Value,
    first: ir.Value,
    destination: ir.Value,
) -> None:
    """As `pack_panel`, with `together` rows of the panel in each 32-bit word, the first in the lowest bits, behind the
    `head` rows that sums of such words begin with.
    """
    head_at, destination = destination, e.element_pointer(destination, i32, I64(head(together) * columns))
    _pack_words(e, view, together, columns, matrix, first, destination)
    if not head(together):
        return
    lanes = e.target.lanes(32)
    raised = constant(ir.VectorType(I32, lanes), RAISED - (1 << 32))
    words = -(-view.rows.count // together)
    with e.loop(I64(0), I64(columns), I64(lanes)) as column:
        total = e.cell(constant(raised.type, 0))
        with e.loop(I64(0), I64(words), I64(1)) as word:
            at = e.builder.add(e.builder.mul(word, I64(columns)), column)
            value = real(e.load_lanes(e.element_pointer(destination, i32, at), i32, lanes))
            e.write_cell(total, multiply_add(e, raised, value, real(e.read_cell(total)), i8))
        start = e.builder.sub(constant(raised.type, 0), real(e.read_cell(total)))
        e.store_lanes(e.element_pointer(head_at, i32, column), i32, start, lanes)


def head(together: int) -> int:
    """Rows of words before a panel's own: fours of integers need one (see `gemm_tile`)."""
    return int(together == 4)


def _pack_words(
    e: FunctionEmitter,
    view: MatrixView,
    together: int,
    columns: int,
    matrix: ir.Value,
    first: ir.Value,
    destination: ir.Value,
) -> None:
    depth, total = view.rows.count, view.columns.count
    whole, rest = divmod(depth, together)
    lanes = e.target.lanes(32)

    def joined(parts: list[ir.Value], type_: ir.Type) -> ir.Value:
        word = e.builder.zext(parts[0], type_)
        for t, part in enumerate(parts[1:], 1):
            shifted = e.builder.shl(e.builder.zext(part, type_), constant(type_, t * view.dtype.bits))
            word = e.builder.or_(word, shifted)
        return word

    if view.columns.stride == 1:

        def copy(full: bool) -> None:
            left = e.builder.sub(I64(total), first)

            def row(word: ir.Value, count: int) -> None:
                target = e.element_pointer(destination, i32, e.builder.mul(word, I64(columns)))
                k = e.builder.mul(word, I64(together))
                sources = [view.pointer(e, matrix, e.builder.add(k, I64(t)), first) for t in range(count)]
                for at in range(0, columns, lanes):
                    mask = None if full else e.mask_for(e.builder.sub(left, I64(at)), lanes)
                    places = [e.element_pointer(source, view.dtype, I64(at)) for source in sources]
                    parts = [real(e.load_lanes(place, view.dtype, lanes, mask)) for place in places]
                    value = joined(parts, ir.VectorType(I32, lanes))
                    e.store_lanes(e.element_pointer(target, i32, I64(at)), i32, value, lanes)

            with e.loop(I64(0), I64(whole), I64(1)) as word:
                row(word, together)
            if rest:
                row(I64(whole), rest)

        by_fullness(e, total, columns, first, copy)
        return
    blocked = whole // lanes * lanes if view.rows.stride == 1 else 0
    if blocked:
        with e.loop(I64(0), I64(columns), I64(lanes)) as column, e.loop(I64(0), I64(blocked), I64(lanes)) as word:
            k = e.builder.mul(word, I64(together))
            rows = []
            for lane in range(lanes):
                at = _at_most(e, e.builder.add(first, e.builder.add(column, I64(lane))), total - 1)
                value = real(e.load_lanes(view.pointer(e, matrix, k, at), view.dtype, together * lanes))
                rows.append(e.builder.bitcast(value, ir.VectorType(I32, lanes)))
            target = e.builder.add(e.builder.mul(word, I64(columns)), column)
            for i, value in enumerate(transpose(e, rows)):
                at = e.builder.add(target, I64(i * columns))
                e.store_lanes(e.element_pointer(destination, i32, at), i32, value, lanes)

    def one(word: ir.Value, column: ir.Value, count: int) -> None:
        at = _at_most(e, e.builder.add(first, column), total - 1)
        k = e.builder.mul(word, I64(together))
        places = [view.pointer(e, matrix, e.builder.add(k, I64(t)), at) for t in range(count)]
        value = joined([real(e.load_one(place, view.dtype)) for place in places], I32)
        to = e.builder.add(e.builder.mul(word, I64(columns)), column)
        e.store_one(e.element_pointer(destination, i32, to), i32, value)

    with e.loop(I64(0), I64(columns), I64(1)) as column:
        with e.loop(I64(blocked), I64(whole), I64(1)) as word:
            one(word, column, together)
        if rest:
            one(I64(whole), column, rest)


def by_fullness(e: FunctionEmitter, total: int, columns: int, first: ir.Value, emit: Callable[[bool], None]) -> None:
    """Emit code for a panel that begins at column `first`: once where all panels are whole, else for both cases."""
    if total % columns == 0:
        emit(True)
    elif total < columns:
        emit(False)
    else:
        whole = e.builder.icmp_signed("<=", first, I64(total - columns))
        with e.builder.if_else(whole) as (then, otherwise):
            with then:
                emit(True)
            with otherwise:
                emit(False)


def copy_rows(
    e: FunctionEmitter,
    view: MatrixView,
    dtype: DType,
    stride: int,
    matrix: ir.Value,
    first: ir.Value,
    count: ir.Value,
    destination: ir.Value,
    zeros: int = 0,
) -> None:
    """Copy rows first .. first + count of a (its columns are k) to rows `stride` elements apart, zeros behind each."""
    lanes = e.target.lanes(dtype.bits)
    depth = view.columns.count
    vectors = depth // lanes * lanes if view.columns.stride == 1 else 0
    with e.loop(I64(0), count, I64(1)) as row:
        at = e.builder.add(first, row)
        target = e.element_pointer(destination, dtype, e.builder.mul(row, I64(stride)))
        if vectors:
            source = view.pointer(e, matrix, at, 0)
            with e.loop(I64(0), I64(vectors), I64(lanes)) as k:
                value = e.load_lanes(e.element_pointer(source, view.dtype, k), view.dtype, lanes)
                value = convert(e, value, view.dtype, dtype, lanes)
                e.store_lanes(e.element_pointer(target, dtype, k), dtype, value, lanes)
        if vectors < depth:
            with e.loop(I64(vectors), I64(depth), I64(1)) as k:
                value = e.load_one(view.pointer(e, matrix, at, k), view.dtype)
                value = convert(e, value, view.dtype, dtype, 1)
                e.store_one(e.element_pointer(target, dtype, k), dtype, value)
        for i in range(zeros):
            e.store_one(e.element_pointer(target, dtype, I64(depth + i)), dtype, dtype_constant(dtype, 0))


def _at_most(e: FunctionEmitter, value: ir.Value, limit: int) -> ir.Value:
    return e.builder.select(e.builder.icmp_signed("<", value, I64(limit)), value, I64(limit))
