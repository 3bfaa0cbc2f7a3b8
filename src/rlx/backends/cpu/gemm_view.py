"""Operands of a matrix product as they lie in memory: a batch of matrices, each index a group of strided dimensions.

A template works with flat numbers (matrix 5, row 17, column 96); a view turns them into element offsets. Neighbouring
dimensions of a group that one stride describes are merged first, so that most groups are a single dimension or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from llvmlite import ir

from rlx.codegen.kernel import Apply, Memory, Var
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64, Complex, Value
from rlx.ir.dtypes import DType


@dataclass(frozen=True)
class Dims:
    """One group of dimensions, outermost first; strides count elements. No dimension has size 1."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def count(self) -> int:
        return prod(self.sizes)

    @property
    def stride(self) -> int | None:
        """The one stride that describes the group: 0 for a single element, None where there are several."""
        if not self.sizes:
            return 0
        return self.strides[0] if len(self.sizes) == 1 else None

    @property
    def span(self) -> int:
        """Elements from the first to the last."""
        return sum((size - 1) * abs(stride) for size, stride in zip(self.sizes, self.strides, strict=True))


def dims(sizes: Sequence[int], strides: Sequence[int]) -> Dims:
    """A group without dimensions of size 1, neighbours merged where one stride describes both."""
    kept: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if kept and kept[-1][1] == size * stride:
            kept[-1] = (kept[-1][0] * size, stride)
        else:
            kept.append((size, stride))
    return Dims(tuple(size for size, _ in kept), tuple(stride for _, stride in kept))


@dataclass(frozen=True)
class MatrixView:
    """A batch of matrices in the memory that the kernel's argument `name` points to."""

    name: str
    dtype: DType
    batch: Dims
    rows: Dims
    columns: Dims

    @property
    def transposed(self) -> MatrixView:
        return MatrixView(self.name, self.dtype, self.batch, self.columns, self.rows)

    @property
    def unnamed(self) -> MatrixView:
        """The layout alone, for identities."""
        return MatrixView("", self.dtype, self.batch, self.rows, self.columns)

    @property
    def matrices(self) -> int:
        """Matrices that differ: those along broadcast batch dimensions count once."""
        return prod(size for size, stride in zip(self.batch.sizes, self.batch.strides, strict=True) if stride)

    def pointer(
        self, e: FunctionEmitter, matrix: ir.Value | int, row: ir.Value | int, column: ir.Value | int
    ) -> ir.Value:
        """The address of an element; `matrix` counts all of the batch."""
        offset = offset_of(e, matrix, self.batch)
        offset = e.integer_add(offset, offset_of(e, row, self.rows))
        offset = e.integer_add(offset, offset_of(e, column, self.columns))
        return e.element_pointer(e.args[self.name], self.dtype, offset)

    def distinct(self, e: FunctionEmitter, matrix: ir.Value) -> ir.Value:
        """The number of a matrix among the `matrices` that differ."""
        steps, step = [0] * len(self.batch.sizes), 1
        for axis in reversed(range(len(self.batch.sizes))):
            if self.batch.strides[axis]:
                steps[axis], step = step, step * self.batch.sizes[axis]
        return offset_of(e, matrix, Dims(self.batch.sizes, tuple(steps)))


def matrix_view(memory: Memory, batch: Sequence[int], rows: Sequence[int], columns: Sequence[int]) -> MatrixView | None:
    """The view that `memory` gives with strides over (*batch, *rows, *columns); None where they are not constants."""
    strides = [s for s in memory.strides if isinstance(s, int)]
    if len(strides) != len(memory.strides) or memory.offset != 0:
        return None
    first, second = len(batch), len(batch) + len(rows)
    return MatrixView(
        memory.name,
        memory.dtype,
        Dims(tuple(batch), tuple(strides[:first])),
        dims(rows, strides[first:second]),
        dims(columns, strides[second:]),
    )


def split_index(e: FunctionEmitter, flat: ir.Value | int, sizes: Sequence[int]) -> list[ir.Value]:
    """The index of each dimension, from a flat row-major number."""
    value = I64(flat) if isinstance(flat, int) else flat
    result: list[ir.Value] = []
    for axis in reversed(range(len(sizes))):
        if sizes[axis] == 1:
            result.append(I64(0))
        elif prod(sizes[:axis]) == 1:
            result.append(value)
        elif type(value) is ir.Constant:
            result.append(I64(value.constant % sizes[axis]))
            value = I64(value.constant // sizes[axis])
        else:
            result.append(e.builder.urem(value, I64(sizes[axis])))
            value = e.builder.udiv(value, I64(sizes[axis]))
    return result[::-1]


def offset_of(e: FunctionEmitter, flat: ir.Value | int, group: Dims) -> ir.Value:
    """Elements from the first of a group to number `flat`."""
    offset: ir.Value = I64(0)
    for index, stride in zip(split_index(e, flat, group.sizes), group.strides, strict=True):
        if stride:
            offset = e.integer_add(offset, e.integer_mul(index, I64(stride)))
    return offset


def convert(e: FunctionEmitter, value: Value, source: DType, target: DType, lanes: int) -> ir.Value:
    """`value`, one element or `lanes` of them, in another dtype; neither is complex."""
    if source is not target:
        var = Var("converted", source)
        value = e.expr(Apply("convert", (var,), target), {var: value}, lanes=lanes)
    assert not isinstance(value, Complex)
    return value
