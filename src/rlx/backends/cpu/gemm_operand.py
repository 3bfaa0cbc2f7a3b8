"""Where the register tile finds its operands: as they lie, packed at setup, or brought into scratch memory first.

A `Rows` source gives the address of a's rows of one block, a `Panels` source the address of one panel of b; both say by
what strides the tile reads. Sources that need scratch memory fill it when asked; the kernel asks for rows once a block
and for a panel once a grid index, and reads each several times.

Where a multiply-add takes `together` neighbours along k, in one word as wide as a sum, strides count words, and `dtype`
is the sums', which has their size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from llvmlite import ir

from rlx.backends.cpu.gemm_pack import copy_rows, head, pack_panel, pack_words, padded_stride
from rlx.backends.cpu.gemm_plan import Blocks
from rlx.backends.cpu.gemm_view import Dims, MatrixView, dims
from rlx.codegen.kernel import Memory, TemplateKernel
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64
from rlx.ir.dtypes import DType, u32

#: Lines of one set of the first-level cache, which holds eight, that a tile's rows may take.
ROWS_OF_A_SET = 6


class Rows(Protocol):
    """a, by blocks of rows.

    row, k: strides by which the tile reads, in elements. scratch_bytes: what `block` fills.
    """

    @property
    def row(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...

    def block(
        self, e: FunctionEmitter, scratch: ir.Value, matrix: ir.Value, first: ir.Value, count: ir.Value, fresh: ir.Value
    ) -> ir.Value:
        """The address of row `first` of `count`; `fresh` is false where the last call was for the same block."""
        ...


class Panels(Protocol):
    """b, by panels of columns.

    k: from one k to the next, in elements, of whole panels and of the partial one at the matrix's end.
    """

    @property
    def k(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...

    def panel(
        self,
        e: FunctionEmitter,
        scratch: ir.Value,
        matrix: ir.Value,
        number: ir.Value,
        first: ir.Value,
        fresh: ir.Value,
    ) -> ir.Value:
        """The address of panel `number`, which begins at column `first`; `fresh` as for rows."""
        ...


@dataclass(frozen=True)
class RowsInPlace:
    """a as it lies: single strides, the dtype of the sums."""

    view: MatrixView
    scratch_bytes: int = 0

    @property
    def row(self) -> int:
        return self.view.rows.stride or 0

    @property
    def k(self) -> int:
        return self.view.columns.stride or 0

    def block(
        self, e: FunctionEmitter, scratch: ir.Value, matrix: ir.Value, first: ir.Value, count: ir.Value, fresh: ir.Value
    ) -> ir.Value:
        return self.view.pointer(e, matrix, first, 0)


@dataclass(frozen=True)
class RowsCopied:
    """a of any layout and dtype, copied to scratch memory block by block."""

    view: MatrixView
    dtype: DType
    most: int
    k: int = 1
    together: int = 1

    @property
    def row(self) -> int:
        return padded_stride(-(-self.view.columns.count // self.together), self.dtype)

    @property
    def scratch_bytes(self) -> int:
        return self.most * self.row * self.dtype.itemsize

    def block(
        self, e: FunctionEmitter, scratch: ir.Value, matrix: ir.Value, first: ir.Value, count: ir.Value, fresh: ir.Value
    ) -> ir.Value:
        with when(e, fresh):
            dtype = self.dtype if self.together == 1 else self.view.dtype
            zeros = -self.view.columns.count % self.together
            copy_rows(e, self.view, dtype, self.row * self.together, matrix, first, count, scratch, zeros)
        return scratch


@dataclass(frozen=True)
class PanelsPacked:
    """b packed at setup: all panels of all matrices that differ, one behind the other."""

    view: MatrixView
    dtype: DType
    columns: int
    together: int = 1
    scratch_bytes: int = 0

    @property
    def k(self) -> int:
        return self.columns

    @property
    def depth(self) -> int:
        """Rows of a packed panel."""
        return packed_depth(self.view, self.together)

    @property
    def panels(self) -> int:
        return -(-self.view.columns.count // self.columns)

    @property
    def packed_bytes(self) -> int:
        return self.view.matrices * self.panels * self.depth * self.columns * self.dtype.itemsize

    def panel(
        self,
        e: FunctionEmitter,
        scratch: ir.Value,
        matrix: ir.Value,
        number: ir.Value,
        first: ir.Value,
        fresh: ir.Value,
    ) -> ir.Value:
        before = e.integer_add(e.integer_mul(self.view.distinct(e, matrix), I64(self.panels)), number)
        elements = e.integer_mul(before, I64(self.depth * self.columns))
        return e.element_pointer(e.args[self.view.name], self.dtype, elements)


@dataclass(frozen=True)
class PanelsCopied:
    """b of any layout and dtype, each panel packed into scratch memory just before it is read."""

    view: MatrixView
    dtype: DType
    columns: int
    together: int = 1

    @property
    def k(self) -> int:
        return self.columns

    @property
    def scratch_bytes(self) -> int:
        return packed_depth(self.view, self.together) * self.columns * self.dtype.itemsize

    def panel(
        self,
        e: FunctionEmitter,
        scratch: ir.Value,
        matrix: ir.Value,
        number: ir.Value,
        first: ir.Value,
        fresh: ir.Value,
    ) -> ir.Value:
        with when(e, fresh):
            fill_panel(e, self.view, self.dtype, self.columns, self.together, matrix, first, scratch)
        return scratch


@dataclass(frozen=True)
class PanelsInPlace:
    """b as it lies: columns are neighbours, rows have one stride, the dtype is the sums', and all panels are whole."""

    view: MatrixView
    scratch_bytes: int = 0

    @property
    def k(self) -> int:
        return self.view.rows.stride or 0

    def panel(
        self,
        e: FunctionEmitter,
        scratch: ir.Value,
        matrix: ir.Value,
        number: ir.Value,
        first: ir.Value,
        fresh: ir.Value,
    ) -> ir.Value:
        return self.view.pointer(e, matrix, 0, first)


def packed_depth(view: MatrixView, together: int) -> int:
    """Rows of a packed panel: words of `together` k, and what stands before them."""
    return -(-view.rows.count // together) + head(together)


def fill_panel(
    e: FunctionEmitter,
    view: MatrixView,
    dtype: DType,
    columns: int,
    together: int,
    matrix: ir.Value,
    first: ir.Value,
    destination: ir.Value,
) -> None:
    """Write the panel that begins at column `first`, in elements of `dtype` or in words of `together` elements."""
    if together > 1:
        pack_words(e, view, together, columns, matrix, first, destination)
    else:
        pack_panel(e, view, dtype, columns, matrix, first, destination)


@contextmanager
def when(e: FunctionEmitter, condition: ir.Value) -> Iterator[None]:
    """What is emitted inside runs where the condition holds; no branch where that is always."""
    if type(condition) is ir.Constant and condition.constant == 1:
        yield
    else:
        with e.builder.if_then(condition):
            yield


def rows_in_place(view: MatrixView, dtype: DType, height: int, reads: int) -> bool:
    """Whether tiles of `height` rows read a well where it lies, `reads` times over."""
    row, k = view.rows.stride, view.columns.stride
    if row is None or k is None or view.dtype is not dtype:
        return False
    if reads <= 2 or view.columns.count <= 8:
        return True
    # The lines in use at once must not fall into the same few sets of the first-level cache, which has 64.
    step, lines = (row, height) if abs(k) == 1 else (k, view.columns.count)
    used: dict[int, int] = {}
    for i in range(min(lines, 512)):
        at = abs(i * step) * dtype.itemsize // 64 % 64
        used[at] = used.get(at, 0) + 1
    return max(used.values()) <= ROWS_OF_A_SET


def panels_in_place(view: MatrixView, dtype: DType, columns: int) -> bool:
    """Whether panels of `columns` columns can be read where they lie."""
    lies_well = view.dtype is dtype and view.columns.stride == 1 and view.rows.stride is not None
    return lies_well and view.columns.count % columns == 0


def words_of(view: MatrixView, together: int) -> MatrixView | None:
    """a seen as 32-bit words of `together` neighbours along k; None where they do not lie so."""
    others = (*view.batch.strides, *view.rows.strides)
    if view.columns.stride != 1 or view.columns.count % together or any(s % together for s in others):
        return None

    def halved(group: Dims) -> Dims:
        return Dims(group.sizes, tuple(s // together for s in group.strides))

    return MatrixView(
        view.name,
        u32,
        halved(view.batch),
        halved(view.rows),
        dims((view.columns.count // together,), (1,)),
    )


@dataclass(frozen=True, eq=False)
class RowsOperand:
    """a as the kernel takes it. pack: fills `packed_nbytes` bytes that `memory` and `view` describe, in setup."""

    memory: Memory
    view: MatrixView
    dtype: DType
    lies_well: bool
    pack: TemplateKernel | None = None
    packed_nbytes: int = 0
    together: int = 1

    def read(self, blocks: Blocks, rows: int) -> Rows:
        if self.lies_well:
            return RowsInPlace(self.view)
        return RowsCopied(self.view, self.dtype, min(blocks.rows, rows), together=self.together)
