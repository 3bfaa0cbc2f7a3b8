"""Stores that go past the caches: where they pay, and the alignment that they need.

Writing through the caches reads each line before it is written, and drives out what others would have found there. A
result that is too large to stay (`Memory.streamed`) is better sent to memory in whole vectors, which the instructions
want aligned to their own size. Callers' arrays are aligned to their elements only, so a loop first runs the few
iterations before the next line by themselves, and ends likewise with the last whole line. It does so only where
iterations are independent: no sum changes its order, and every element has the same bits wherever the array begins.

The line that is torn between the end of one row and the beginning of the next is stored through the caches, and stores
reach them in order: all that follow wait until it has come from memory. It is therefore fetched a row ahead. Where a
vector is a line and the rows of a result follow each other (`Seam`), the end of a row waits in a register for the next
row's beginning instead, and only the first and the last line of a thread's rows are stored through the caches.

Such stores are weakly ordered on x86: a function that has them ends with a fence, before anybody is told that it is
done.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from rlx.codegen.kernel import Let, Load, Loop, LoopKernel, Store, Var
from rlx.codegen.llvm.body import expressions, memory_bits, statements
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64, memory_type, vector

_LINE = 64
_SHORT = 8  # vectors
_PAGE = 4096  # bytes; where the hardware stops fetching ahead by itself
_LONG = 64 << 10  # bytes of a row that is not fetched ahead as a whole


def streamed_store(f: FunctionEmitter, loop: Loop, extent: ir.Value, lanes: int) -> Store | None:
    """The store whose address the vector loop is to be aligned to; None where it is better left alone.

    A short loop would spend its time on its ends. A memory that the kernel reads as well is in the caches anyway.
    """
    if not isinstance(f.kernel, LoopKernel) or not all(isinstance(s, Let | Store) for s in loop.body):
        return None
    if type(extent) is ir.Constant and extent.constant < _SHORT * lanes:
        return None
    for stmt in loop.body:
        if not isinstance(stmt, Store) or not stmt.memory.streamed or stmt.mask is not None:
            continue
        memory = stmt.memory
        if memory.dtype.is_complex or lanes * memory.dtype.itemsize > _LINE or memory.name not in f.arguments:
            continue
        if any(isinstance(e, Load) and e.memory.name == memory.name for e in expressions(f.kernel.body)):
            continue
        with f.lanes({loop.var: I64(0)}, lanes, loop.var, None):
            if f.stride_along(memory, stmt.index) == 1:
                return stmt
    return None


@dataclass(frozen=True)
class Seam:
    """How a row of a streamed result meets its neighbours.

    line: the slot in which the end of a row waits. joins, keeps: whether (i1) the row before has left its end there,
    and whether this one shall.
    """

    line: ir.Value
    joins: ir.Value
    keeps: ir.Value


def find_seam(f: FunctionEmitter, loop: Loop, store: Store, extent: ir.Value, lanes: int) -> Seam | None:
    """The seam of the frame's row; None where lines are not vectors, or rows do not follow each other.

    A grid index must be a row, and the store the kernel's only one: rows are then stored in order, each at once. (Rows
    that overlap, see `overlap.py`, fill private memory too.) Where memory is not even aligned to its elements, no row
    joins another.
    """
    b, kernel, memory = f.builder, f.kernel, store.memory
    assert isinstance(kernel, LoopKernel)
    masks = all(f.target.masks(bits) for bits in memory_bits(loop.body))
    if not masks or lanes * memory.dtype.itemsize != _LINE or type(extent) is not ir.Constant:
        return None
    stores = [s for s in statements(kernel.body) if isinstance(s, Store)]
    names = [e.name if isinstance(e, Var) else "" for e in store.index]
    if stores != [store] or loop not in kernel.body or names != [kernel.index.name, loop.var.name]:
        return None
    if memory.strides != (extent.constant, 1):
        return None
    row = f.index_value(store.index[0])
    address = b.ptrtoint(_address_at(f, loop, store, I64(0)), I64)
    whole = b.icmp_unsigned("==", b.and_(address, I64(memory.dtype.itemsize - 1)), I64(0))
    later, earlier = b.icmp_signed(">", row, f.begin), b.icmp_signed("<", b.add(row, I64(1)), f.end)
    line = f.allocate(vector(memory_type(memory.dtype), lanes))
    return Seam(line, b.and_(whole, later), b.and_(whole, earlier))


def vectors_abreast(f: FunctionEmitter) -> int:
    """How many vectors a turn of a streamed loop computes before it stores the first: a quarter of the registers.

    A processor takes a load for the reader of a store shortly before whose address ends in the same twelve bits, and
    waits for it. Loads that come before the stores of several vectors meet none, but for the first of them, however
    memory lies.
    """
    return 8 if f.target.has("avx512f") else 4


def bytes_ahead(f: FunctionEmitter, loop: Loop, extent: ir.Value, streamed: Store | None) -> int:
    """How far ahead a loop fetches what it loads (see `Frame.ahead`), in kernels that store past the caches.

    A kernel of one loop moves bytes all the time, and looks a page ahead. Of several passes over a row the first waits
    for memory, so the second fetches the row after.
    """
    kernel = f.kernel
    if not isinstance(kernel, LoopKernel) or not any(m.streamed for m in kernel.args):
        return 0
    passes = [s for s in kernel.body if isinstance(s, Loop)]
    if len(passes) > 1 and type(extent) is ir.Constant:
        sizes = [e.memory.dtype.itemsize for e in expressions(loop.body) if isinstance(e, Load)]
        row = extent.constant * max(sizes, default=0)
        if row <= _LONG:
            return row if loop is passes[1] else 0
    return _PAGE if streamed is not None else 0


def iterations_before(f: FunctionEmitter, loop: Loop, store: Store, extent: ir.Value) -> ir.Value:
    """How many iterations (i64, at most `extent`) come before the store's address is that of a line.

    All of them where it never is, because the memory is not even aligned to its elements.
    """
    b, size = f.builder, store.memory.dtype.itemsize
    address = b.ptrtoint(_address_at(f, loop, store, I64(0)), I64)
    missing = b.and_(b.neg(address), I64(_LINE - 1))
    whole = b.icmp_unsigned("==", b.and_(address, I64(size - 1)), I64(0))
    return f.intrinsic("smin", b.select(whole, b.udiv(missing, I64(size)), extent), extent)


def iterations_of_a_line(store: Store) -> int:
    """How many elements the store needs for a line."""
    return _LINE // store.memory.dtype.itemsize


def fetch_torn_line(f: FunctionEmitter, loop: Loop, store: Store, extent: ir.Value) -> None:
    """Have the line brought near in which the next row ends, where this row does not end with a line."""
    b = f.builder
    end = b.ptrtoint(_address_at(f, loop, store, extent), I64)
    with b.if_then(b.icmp_unsigned("!=", b.and_(end, I64(_LINE - 1)), I64(0))):
        f.fetch(_address_at(f, loop, store, f.integer_mul(extent, I64(2))), write=True)


def _address_at(f: FunctionEmitter, loop: Loop, store: Store, index: ir.Value) -> ir.Value:
    with f.scope():
        f.frame.env[loop.var.name] = index
        return f.address(store.memory, store.index)
