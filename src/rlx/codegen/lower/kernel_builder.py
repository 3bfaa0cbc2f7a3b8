"""Collects what one kernel is made of: its arguments, the operands they are bound to, and its expressions.

Loads and stores go through views at affine indices. Each distinct (buffer, offset, strides) becomes one argument whose
strides run over the atoms of the address, so that the index of a load is a tuple of loop variables and opaque
expressions, without arithmetic: equal layers then give equal kernels, and an emitter sees at once what is contiguous.
Constant offsets travel in the operands. Loads are shared: one address under one mask is one expression.
"""

from __future__ import annotations

from rlx.codegen.kernel import Cost, Expr, Load, LoopKernel, Memory, Stmt, Store, Var
from rlx.codegen.lower.affine import Affine, Index, Space
from rlx.codegen.lower.view import View
from rlx.codegen.program import Launch, Operand, VirtualBuffer
from rlx.ir.dtypes import DType, i64
from rlx.ir.location import UNKNOWN, Location

#: Results from this size on go past the caches: about half of what a core can hope to find of the last one.
STREAMED_BYTES = 16 << 20


class KernelBuilder:
    """The arguments and expressions of one kernel under construction."""

    def __init__(self) -> None:
        self.space = Space()
        self.args: list[Memory] = []
        self.operands: list[Operand] = []
        self._views: dict[tuple[VirtualBuffer, DType, int, int, tuple[int, ...], bool], Memory] = {}
        self._loads: dict[tuple[VirtualBuffer, DType, Affine, Expr | None, Expr | None], Load] = {}
        self._counts: dict[str, int] = {}

    def name(self, prefix: str) -> str:
        """A fresh name."""
        count = self._counts.get(prefix, 0)
        self._counts[prefix] = count + 1
        return f"{prefix}{count}"

    def var(self, prefix: str, dtype: DType = i64) -> Var:
        return Var(self.name(prefix), dtype)

    # -- memory ----------------------------------------------------------------------------------------------------

    def memory(
        self,
        view: View,
        strides: tuple[int, ...] | None = None,
        offset: int | None = None,
        *,
        writable: bool = False,
    ) -> Memory:
        """The argument through which `view`'s buffer is seen with `strides` from element `offset`."""
        strides = view.strides if strides is None else strides
        offset = view.offset if offset is None else offset
        size = view.dtype.itemsize
        inside = 0 <= offset * size < max(view.buffer.nbytes, 1)
        base, rest = (offset, 0) if inside else (0, offset)
        key = (view.buffer, view.dtype, base, rest, strides, writable)
        memory = self._views.get(key)
        if memory is None:
            streamed = writable and view.buffer.nbytes >= STREAMED_BYTES
            memory = Memory(self.name("a"), view.dtype, strides, rest, writable, streamed=streamed)
            self._views[key] = memory
            self.args.append(memory)
            self.operands.append(Operand(view.buffer, base * size))
        return memory

    def load(self, view: View, index: Index, mask: Expr | None = None, other: Expr | None = None) -> Expr:
        """The element of `view` at `index`; where a mask is false, `other` (zero if None)."""
        address = self.space.dot(index, view.strides, view.offset)
        key = (view.buffer, view.dtype, address, mask, other)
        found = self._loads.get(key)
        if found is None:
            memory = self.memory(view, tuple(c for _, c in address.terms), address.const)
            found = self._loads[key] = Load(memory, tuple(atom for atom, _ in address.terms), mask, other)
        return found

    def store(self, view: View, index: Index, value: Expr, mask: Expr | None = None) -> Store:
        """Store to `view` at `index`."""
        address = self.space.dot(index, view.strides, view.offset)
        memory = self.memory(view, tuple(c for _, c in address.terms), address.const, writable=True)
        return Store(memory, tuple(atom for atom, _ in address.terms), value, mask)

    # -- the end ---------------------------------------------------------------------------------------------------

    def launch(
        self,
        label: str,
        index: Var,
        grid: Expr,
        body: tuple[Stmt, ...],
        *,
        cost: Cost = Cost(),
        location: Location = UNKNOWN,
        sources: tuple[str, ...] = (),
    ) -> Launch:
        """The finished kernel applied to the operands its arguments were made for."""
        kernel = LoopKernel(label, tuple(self.args), index, grid, body, cost=cost)
        return launch(kernel, tuple(self.operands), location, sources)


def launch(kernel: LoopKernel, operands: tuple[Operand, ...], location: Location, sources: tuple[str, ...]) -> Launch:
    """A launch whose reads and writes follow from which arguments are writable."""
    reads: dict[VirtualBuffer, None] = {}
    writes: dict[VirtualBuffer, None] = {}
    for memory, operand in zip(kernel.args, operands, strict=True):
        (writes if memory.writable else reads)[operand.buffer] = None
    return Launch(kernel, operands, tuple(reads), tuple(writes), location, sources)
