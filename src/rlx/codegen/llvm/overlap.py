"""Kernels whose rows are computed, then written past the caches: the writing of one overlaps the computing of the next.

A row that is kept in private memory until all of it is known, as softmax keeps its exponentials until it has their sum,
is computed without touching memory and written at the rate of memory. Done in turns, each waits for the other. Where
the last two loops over a row are these, a vector of the row before is written for every vector of this one that is
computed, and takes its place in private memory. Elements and sums are those of plain loops, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

from rlx.codegen.kernel import Const, Let, Load, Local, Loop, LoopKernel, Stmt, Store, Var
from rlx.codegen.llvm.body import accumulations, choose_lanes, expressions, interleaving, is_vectorizable, memory_bits
from rlx.codegen.llvm.frame import Cell, Frame
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.loops import Beside, emit_body, lanes_body, masked_part, vector_loop, whole_part
from rlx.codegen.llvm.streamed import fetch_torn_line, iterations_before, streamed_store
from rlx.codegen.llvm.types import I8, I64, dtype_constant
from rlx.codegen.target import Target
from rlx.ir.dtypes import i64

#: Bytes: of a page, whose size the processor's check of loads against stores knows; of a line; that keep two apart
#: (measured: on Zen 4 loads wait for stores at up to 448 bytes behind them).
_PAGE, _LINE, _APART = 4096, 64, 768


@dataclass(frozen=True)
class Overlap:
    """A row's statements: `before`, the loop `compute`, `between`, the loop `write`, each of `lanes` lanes.

    indices: Lets of the row that `write` needs and that depend on the grid's index alone. kept: its other variables.
    filled: the private memories that `compute` fills, which are not among `before`.
    """

    before: tuple[Stmt, ...]
    compute: Loop
    between: tuple[Stmt, ...]
    write: Loop
    lanes: int
    extent: int
    indices: tuple[Let, ...]
    kept: tuple[Var, ...]
    filled: tuple[Local, ...]


def find_overlap(kernel: LoopKernel, target: Target) -> Overlap | None:
    """How the kernel's rows overlap; None where they are not of that form."""
    loops = [at for at, stmt in enumerate(kernel.body) if isinstance(stmt, Loop)]
    if len(loops) < 2 or loops[-1] != len(kernel.body) - 1:
        return None
    compute, write = (kernel.body[at] for at in loops[-2:])
    assert isinstance(compute, Loop) and isinstance(write, Loop)
    before, between = kernel.body[: loops[-2]], kernel.body[loops[-2] + 1 : -1]
    if not all(isinstance(s, Let) for s in between) or not _match(compute, write) or not is_vectorizable(compute.body):
        return None
    extent = compute.extent
    assert isinstance(extent, Const) and isinstance(extent.value, int)
    lanes = choose_lanes(write, target, extent.value)
    single = compute.unroll <= 1 and interleaving(compute.body, accumulations(compute.body)) == 1
    if lanes < 2 or not single or choose_lanes(compute, target, extent.value) != lanes:
        return None
    lets = [s for s in (*before, *between) if isinstance(s, Let)]
    indices = tuple(s for s in lets if s.var.dtype is i64 and not any(isinstance(e, Load) for e in expressions((s,))))
    own = (s for s in write.body if isinstance(s, Let))
    known = {v.name for v in (kernel.index, write.var, *kernel.sizes, *(s.var for s in (*indices, *own)))}
    kept = {e.name: e for e in expressions(write.body) if isinstance(e, Var) and e.name not in known}
    stored = {s.memory.name for s in compute.body if isinstance(s, Store)}
    filled = tuple(s for s in before if isinstance(s, Local) and s.memory.name in stored)
    if len(filled) < len(stored):
        return None
    before = tuple(s for s in before if s not in filled)
    return Overlap(before, compute, between, write, lanes, extent.value, indices, tuple(kept.values()), filled)


def _match(compute: Loop, write: Loop) -> bool:
    """Whether `write` stores to one argument what it makes of the memories that `compute` fills, place by place."""
    if compute.kind != "vector" or write.kind != "vector":
        return False
    a, b = compute.extent, write.extent
    if not (isinstance(a, Const) and isinstance(b, Const) and a.value == b.value):
        return False
    filled: set[str] = set()
    for stmt in compute.body:
        if isinstance(stmt, Store):
            if stmt.memory.strides != (1,) or stmt.index != (compute.var,) or stmt.mask is not None:
                return False
            filled.add(stmt.memory.name)
    if any(isinstance(e, Load) and e.memory.name in filled for e in expressions(compute.body)):
        return False
    stores = [s for s in write.body if isinstance(s, Store)]
    loads = [e for e in expressions(write.body) if isinstance(e, Load)]
    return (
        len(stores) == 1
        and stores[0].memory.name not in filled
        and all(isinstance(s, Let | Store) for s in write.body)
        and all(e.memory.name in filled and e.index == (write.var,) and e.mask is None for e in loads)
    )


# -- emission ---------------------------------------------------------------------------------------------------------


def emit_overlapped(f: FunctionEmitter, kernel: LoopKernel) -> bool:
    """Emit the whole body of `kernel`, for grid indices from f.begin to f.end, if its rows can overlap; whether."""
    overlap = find_overlap(kernel, f.target)
    if overlap is None or not all(f.target.masks(bits) for bits in memory_bits(overlap.write.body)):
        return False
    with _row(f, kernel, overlap, I64(0), {}):
        streamed = streamed_store(f, overlap.write, I64(overlap.extent), overlap.lanes)
    if streamed is not None:
        _overlapped_rows(f, kernel, overlap, streamed)
    return streamed is not None


def _overlapped_rows(f: FunctionEmitter, kernel: LoopKernel, overlap: Overlap, streamed: Store) -> None:
    """The kernel's rows from f.begin to f.end, each written while the next one is computed."""
    b, lanes, extent, write = f.builder, overlap.lanes, I64(overlap.extent), overlap.write
    kept = {var.name: f.cell(dtype_constant(var.dtype, 0)) for var in overlap.kept}
    with _row(f, kernel, overlap, f.begin, {}):
        apart = _place_apart(f, overlap, streamed)
    with f.loop(f.begin, f.end) as index:
        f.frame.env[kernel.index.name] = index
        emit_body(f, overlap.before)
        before = b.sub(index, I64(1))
        any_before = b.icmp_signed(">", index, f.begin)
        with _row(f, kernel, overlap, before, kept):
            first = iterations_before(f, write, streamed, extent)
            stop = whole_part(f, first, extent, lanes)
            begin = f.intrinsic("smin", b.add(first, apart), stop)
            with b.if_then(any_before):
                fetch_torn_line(f, write, streamed, extent)
                masked_part(f, write, I64(0), first, lanes, {}, streamed)
                with f.loop(first, begin, lanes) as at:
                    lanes_body(f, write, at, lanes, None, {}, streamed)
                masked_part(f, write, stop, extent, lanes, {}, streamed)

        def write_before(at: ir.Value) -> None:
            with _row(f, kernel, overlap, before, kept):
                lanes_body(f, write, b.add(begin, at), lanes, None, {}, streamed)

        until = b.select(any_before, b.sub(stop, begin), I64(0))
        vector_loop(f, overlap.compute, extent, lanes, Beside(until, write_before))
        emit_body(f, overlap.between)
        for var in overlap.kept:
            f.write_cell(kept[var.name], f.value(var))
    with b.if_then(b.icmp_signed("<", f.begin, f.end)), _row(f, kernel, overlap, b.sub(f.end, I64(1)), kept):
        vector_loop(f, write, extent, lanes)


def _place_apart(f: FunctionEmitter, overlap: Overlap, streamed: Store) -> ir.Value:
    """Place the private memories of a row; by how many elements (i64) writing is to run before computing.

    A processor takes a load for the reader of an earlier store whose address ends in the same twelve bits, and waits
    for what is stored. Addresses that one turn reads and another, shortly before, writes are therefore kept apart: the
    private memories lie half a page behind what is read, or three quarters where the result does, and writing begins
    some lines earlier where it would be as far in its page as reading is, or little farther.
    """
    b = f.builder
    reads = [e for e in expressions(overlap.compute.body) if isinstance(e, Load) and e.memory.name in f.arguments]
    with f.scope():
        f.frame.env[overlap.compute.var.name] = I64(0)
        source = b.ptrtoint(f.address(reads[0].memory, reads[0].index), I64) if reads else I64(0)
        target = b.ptrtoint(f.address(streamed.memory, streamed.index), I64)

    def meets(distance: int) -> ir.Value:
        """Whether the result lies where, `distance` behind what is read, loads would meet it."""
        behind = b.and_(b.sub(b.sub(target, source), I64(distance - _LINE)), I64(_PAGE - 1))
        return b.icmp_unsigned("<", behind, I64(_LINE + _APART))

    at_half = meets(_PAGE // 2)
    place = b.add(source, b.select(at_half, I64(3 * _PAGE // 4), I64(_PAGE // 2)))
    for local in overlap.filled:
        spare = _PAGE // local.memory.dtype.itemsize
        memory = f.local_memory(local.memory, local.elements + spare)
        up = b.and_(b.sub(place, b.ptrtoint(memory, I64)), I64(_PAGE - _LINE))
        f.pointers[local.memory.name] = b.gep(memory, [up], source_etype=I8)
    f.mutable_memories |= {s.memory.name for s in overlap.filled}
    return b.select(meets(0), I64(_APART // streamed.memory.dtype.itemsize), I64(0))


@contextmanager
def _row(
    f: FunctionEmitter, kernel: LoopKernel, overlap: Overlap, row: ir.Value, kept: dict[str, Cell]
) -> Iterator[None]:
    """A frame for another row than the one around, of which only what was `kept` is known."""
    around, f.frame = f.frame, Frame(dict(f.sizes))
    f.frame.env.update(kept)
    f.frame.env[kernel.index.name] = row
    emit_body(f, overlap.indices)
    yield
    f.frame = around
