"""Row kernels: reductions together with what they read and what is made of them.

The space has row dimensions, each of which keeps its own results, and reduced dimensions, which every row runs over in
phases: a phase is one pass over the row that accumulates reductions and stores elements; the next phase may read their
results. Softmax is three phases, layer normalisation two or three, a plain reduction one.

Two ways to run a row. *Inside*: the row's elements are the vector loop; results are scalars. *Across*: where
neighbouring rows, not neighbouring elements, lie side by side in memory, a piece of the last row dimension is the
vector loop and results are short local arrays. Either way the order of a sum depends on the shape alone.

An element that is dear to compute and needed in a later phase is kept in local memory, if it fits and the row runs
inside; one that is stored anyway is read back; anything else is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from rlx.codegen.kernel import Accumulate, Apply, Const, Declare, Expr, Let, Load, Local, Memory, Stmt, Store, Var
from rlx.codegen.lower.affine import Index
from rlx.codegen.lower.axes import Axis, Uses, make_axes, merged_extents, split_extents, trivial_extents
from rlx.codegen.lower.elementwise import cost_of
from rlx.codegen.lower.identity import identity
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.nest import Nest
from rlx.codegen.lower.reader import Reader, Values
from rlx.codegen.lower.view import View
from rlx.codegen.program import Launch
from rlx.ir.dtypes import DType
from rlx.ir.graph import Value
from rlx.ir.location import UNKNOWN, Location

#: Rows that run across the vector loop in one grid index.
ACROSS = 256
#: Bytes of local memory for elements kept between phases.
KEEP_BYTES = 40 << 10

#: The element at (row index, place in the row), for values that are not read through the graph.
Term = Callable[[Reader, Index, Index], Expr]


@dataclass(frozen=True)
class Reduction:
    """result = finish(combine over the row of term)."""

    result: Value
    combine: str
    dtype: DType
    term: Term
    finish: Callable[[Expr], Expr]


@dataclass(frozen=True)
class FullStore:
    """Store `value`'s element at every place of the space; `index` gives its own index."""

    value: Value
    view: View
    index: Callable[[Reader, Index, Index], Index]


@dataclass(frozen=True)
class Phase:
    """One pass over the row. keep: values to hold in local memory for later phases, read at (row, place)."""

    reductions: tuple[Reduction, ...] = ()
    stores: tuple[FullStore, ...] = ()
    keep: tuple[Value, ...] = ()


@dataclass(frozen=True)
class RowStore:
    """Store an expression of the row's results once a row."""

    view: View
    index: Callable[[Reader, Index], Index]
    value: Callable[[Reader, Index], Expr]


@dataclass(frozen=True)
class RowProgram:
    """What one row kernel does. place: joins a row index and a place into the index of full values of the space."""

    rows: tuple[int, ...]
    reduced: tuple[int, ...]
    phases: tuple[Phase, ...]
    row_stores: tuple[RowStore, ...]
    place: Callable[[Index, Index], Index]


@dataclass
class _Pass:
    accumulators: list[tuple[Var, Const]] = field(default_factory=list)
    locals: list[Local] = field(default_factory=list)
    arrays: list[tuple[Memory, Const]] = field(default_factory=list)
    statements: list[Stmt] = field(default_factory=list)
    results: list[tuple[Var, Expr]] = field(default_factory=list)
    finished: list[Store] = field(default_factory=list)


@dataclass
class _Built:
    builder: KernelBuilder
    rows: tuple[Axis, ...]
    reduced: tuple[Axis, ...]
    passes: list[_Pass]
    row_stores: list[Store]
    inside: set[Memory]

    def leaves(self) -> list[Stmt]:
        leaves: list[Stmt] = []
        for p in self.passes:
            leaves += p.statements
            leaves += [Let(var, value) for var, value in p.results]
            leaves += p.finished
        return leaves + list(self.row_stores)


class _Builder:
    """Builds the expressions of one row kernel over given axes."""

    def __init__(self, values: Values, program: RowProgram, across: bool) -> None:
        self.values, self.program, self.across = values, program, across

    def build(self, row_extents: tuple[int, ...], reduced_extents: tuple[int, ...], chunk: int = 0) -> _Built:
        builder = KernelBuilder()
        reader = Reader(self.values, builder)
        rows, row = make_axes(builder, self.program.rows, row_extents, "i", chunk)
        reduced, place = make_axes(builder, self.program.reduced, reduced_extents, "r")
        built = _Built(builder, rows, reduced, [], [], set())
        for phase in self.program.phases:
            built.passes.append(self._pass(phase, reader, built, row, place))
        for store in self.program.row_stores:
            value = store.value(reader, row)
            built.row_stores.append(builder.store(store.view, store.index(reader, row), value))
        return built

    def _pass(self, phase: Phase, reader: Reader, built: _Built, row: Index, place: Index) -> _Pass:
        done = _Pass()
        results: list[tuple[Value, Expr]] = []
        for reduction in phase.reductions:
            term = reduction.term(reader, row, place)
            start = identity(reduction.combine, reduction.dtype)
            if self.across:
                results.append((reduction.result, self._across(reduction, term, start, built, done)))
                continue
            var = built.builder.var("s", reduction.dtype)
            done.accumulators.append((var, start))
            done.statements.append(Accumulate(var, reduction.combine, term))
            finished = reduction.finish(var)
            result = built.builder.var("v", finished.dtype)
            done.results.append((result, finished))
            results.append((reduction.result, result))
        for store in phase.stores:
            index = store.index(reader, row, place)
            full = self.program.place(row, place)
            statement = built.builder.store(store.view, index, reader.read(store.value, full))
            done.statements.append(statement)
            self._read_back(reader, store.value, full, Load(statement.memory, statement.index), built)
        for value in () if self.across else phase.keep:
            full = self.program.place(row, place)
            memory = self._local(built, value.type.dtype, tuple(a.extent for a in built.reduced), done)
            index = tuple(a.var for a in built.reduced)
            done.statements.append(Store(memory, index, reader.read(value, full)))
            self._read_back(reader, value, full, Load(memory, index), built)
        for value, expression in results:
            reader.here[value] = lambda index, row=row, expression=expression: expression if index == row else None
        return done

    def _read_back(self, reader: Reader, value: Value, full: Index, load: Load, built: _Built) -> None:
        built.inside.add(load.memory)
        reader.here[value] = lambda index: load if index == full else None

    def _local(self, built: _Built, dtype: DType, shape: tuple[int, ...], done: _Pass) -> Memory:
        strides = [1] * len(shape)
        for i in range(len(shape) - 2, -1, -1):
            strides[i] = strides[i + 1] * shape[i + 1]
        memory = Memory(built.builder.name("l"), dtype, tuple(strides), 0, True)
        done.locals.append(Local(memory, max(1, math.prod(shape))))
        return memory

    def _across(self, reduction: Reduction, term: Expr, start: Const, built: _Built, done: _Pass) -> Expr:
        lane = built.rows[-1]
        memory = self._local(built, reduction.dtype, (lane.extent,), done)
        built.inside.add(memory)
        done.arrays.append((memory, start))
        held = Load(memory, (lane.var,))
        done.statements.append(Store(memory, (lane.var,), Apply(reduction.combine, (held, term), reduction.dtype)))
        finished = reduction.finish(held)
        if finished is held:
            return held
        result = self._local(built, finished.dtype, (lane.extent,), done)
        built.inside.add(result)
        done.finished.append(Store(result, (lane.var,), finished))
        return Load(result, (lane.var,))


def row_kernel(
    values: Values,
    program: RowProgram,
    *,
    label: str,
    location: Location = UNKNOWN,
    sources: tuple[str, ...] = (),
) -> Launch:
    """The kernel that runs `program` on every row."""
    inside = _Builder(values, program, across=False)
    rows, reduced = trivial_extents(program.rows), trivial_extents(program.reduced)
    built = inside.build(rows, reduced)
    for _ in range(3):
        finer = split_extents(built.rows, built.builder), split_extents(built.reduced, built.builder)
        if finer == (None, None):
            break
        rows, reduced = finer[0] or rows, finer[1] or reduced
        built = inside.build(rows, reduced)
    uses = Uses.of(built.leaves())
    chunk = 0
    if _runs_across(built, uses):
        # The lane axis may merge with its outer neighbours too: it then becomes longer.
        rows, reduced = merged_extents(built.rows, uses), merged_extents(built.reduced, uses)
        chunk = _lanes(rows[-1])
        built = _Builder(values, program, across=True).build(rows, reduced, chunk)
        return _assemble_across(built, label, location, sources)
    merged = merged_extents(built.rows, uses), merged_extents(built.reduced, uses)
    if merged != (rows, reduced):
        built = inside.build(*merged)
    return _assemble_inside(built, label, location, sources)


def _lanes(extent: int) -> int:
    if extent <= ACROSS:
        return extent
    for lanes in range(ACROSS, 63, -16):
        if extent % lanes == 0:
            return lanes
    return ACROSS


def _runs_across(built: _Built, uses: Uses) -> bool:
    """Whether more addresses are contiguous along the last row axis than along the last reduced one."""
    if not built.rows or not built.reduced:
        return False
    lane, inner = built.rows[-1], built.reduced[-1]
    score = 0
    for memory, terms in uses.addresses:
        if memory not in built.builder.args:
            continue  # private memory adapts to either way
        along_rows, along_row = uses.stride(terms, lane), uses.stride(terms, inner)
        if along_rows == 1 and along_row not in (0, 1):
            score += 1
        elif along_row == 1:
            score -= 1
    return score > 0 and lane.extent >= 4


def _assemble_inside(built: _Built, label: str, location: Location, sources: tuple[str, ...]) -> Launch:
    nest = Nest(built.builder)
    nest.kept_inside |= built.inside
    index, grid = nest.grid(built.rows)
    for p in built.passes:
        nest.add(*p.locals, *(Declare(var, start) for var, start in p.accumulators))
        if p.statements:
            nest.loops(built.reduced, p.statements)
        for var, value in p.results:
            nest.add(*nest.nested((), [Let(var, value)]))
    if built.row_stores:
        nest.loops((), built.row_stores)
    return _launch(built, nest, index, grid, label, location, sources)


def _assemble_across(built: _Built, label: str, location: Location, sources: tuple[str, ...]) -> Launch:
    nest = Nest(built.builder)
    nest.kept_inside |= built.inside
    index, grid = nest.grid(built.rows[:-1])
    lane = built.rows[-1:]
    for p in built.passes:
        nest.add(*p.locals)
        if p.arrays:
            nest.loops(lane, [Store(memory, (lane[0].var,), start) for memory, start in p.arrays])
        if p.statements:
            nest.loops((*built.reduced, *lane), p.statements)
        if p.finished:
            nest.loops(lane, p.finished)
    if built.row_stores:
        nest.loops(lane, built.row_stores)
    return _launch(built, nest, index, grid, label, location, sources)


def _launch(
    built: _Built, nest: Nest, index: Var, grid: Expr, label: str, location: Location, sources: tuple[str, ...]
) -> Launch:
    uses = Uses.of(built.leaves())
    return built.builder.launch(
        label,
        index,
        grid,
        tuple(nest.body),
        cost=cost_of(uses, (*built.rows, *built.reduced), built.builder),
        location=location,
        sources=sources,
    )
