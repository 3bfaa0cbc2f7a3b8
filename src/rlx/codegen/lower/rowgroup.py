"""Groups of reductions over one space become row kernels: this file finds their phases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlx.codegen.kernel import Expr
from rlx.codegen.lower.affine import Affine, Index, as_dtype
from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.forward import carry_forward
from rlx.codegen.lower.identity import COMBINERS, accumulator_dtype
from rlx.codegen.lower.reader import Reader
from rlx.codegen.lower.rows import KEEP_BYTES, FullStore, Phase, Reduction, RowProgram, RowStore, row_kernel
from rlx.ir.dtypes import DType
from rlx.ir.graph import Node, Value
from rlx.passes.group import Group, is_expensive

#: Loads from which on an element is kept for later passes instead of being computed again.
DEAR = 4


def lower_rows(scope: Scope, group: Group) -> None:
    """One kernel for the group, and memory for its outputs."""
    views = {value: scope.allocate(value) for value in group.outputs}
    if any(0 not in v.type.sizes for v in group.outputs):
        launch = row_kernel(
            scope,
            row_program(group, views),
            label=group.label,
            location=group.nodes[0].location,
            sources=group.sources,
        )
        scope.emit(launch, group.outputs[0] in scope.static)
    scope.views.update(views)


def row_program(group: Group, views: dict[Value, Any]) -> RowProgram:
    """The phases of a group: each value at the first pass over the row in which all that it needs is known."""
    reduced = group.reduced
    rows = tuple(n for d, n in enumerate(group.space) if d not in reduced)
    row = tuple(group.space[d] for d in reduced)
    phase_of: dict[Value, int] = {}
    for node in group.nodes:
        known = [phase_of[v] for v in node.inputs if v in phase_of]
        phase = max(known, default=0)
        phase_of.update(dict.fromkeys(node.outputs, phase + 1 if node.op in COMBINERS else phase))
    place = joiner(len(group.space), reduced)
    count = max((phase_of[n.output] - (n.op in COMBINERS) for n in group.nodes), default=0) + 1

    def full_index(reader: Reader, row_index: Index, at: Index) -> dict[Value, Index]:
        known = dict.fromkeys((v for v in group.full if v.type.sizes == group.space), place(row_index, at))
        carry_forward(reader, group.nodes, known)
        return known

    def row_indices(reader: Reader, row_index: Index) -> dict[Value, Index]:
        known = {n.output: row_index for n in group.nodes if n.op in COMBINERS}
        carry_forward(reader, group.nodes, known)
        return known

    phases: list[Phase] = []
    kept_bytes = 0
    held: set[Value] = set(views)
    for p in range(count):
        stores = tuple(
            FullStore(v, views[v], lambda reader, r, at, v=v: full_index(reader, r, at)[v])
            for v in group.outputs
            if v in group.full and phase_of[v] == p
        )
        keep: list[Value] = []
        for node in group.nodes:
            value = node.outputs[0]
            if value not in group.full or phase_of[value] != p or value in held or effort(group, node, held) < DEAR:
                continue
            nbytes = value.type.dtype.itemsize * elements(row)
            needed = any(phase_used(n, phase_of) > p for n in group.nodes if value in n.inputs)
            if needed and kept_bytes + nbytes <= KEEP_BYTES:
                kept_bytes += nbytes
                keep.append(value)
                held.add(value)
        reductions = tuple(
            reduction(node, place) for node in group.nodes if node.op in COMBINERS and phase_of[node.output] == p + 1
        )
        if stores or keep or reductions:
            phases.append(Phase(reductions, stores, tuple(keep)))
    row_stores = tuple(
        RowStore(
            views[v],
            lambda reader, r, v=v: row_indices(reader, r)[v],
            lambda reader, r, v=v: reader.read(v, row_indices(reader, r)[v]),
        )
        for v in group.outputs
        if v not in group.full
    )
    return RowProgram(rows, row, tuple(phases), row_stores, place)


def effort(group: Group, node: Node, held: set[Value]) -> int:
    """What computing `node` again would take, in loads: of itself and of what it reads but is not `held` in memory."""
    makers = {v: n for n in (*group.inlined, *group.nodes) for v in n.outputs if v not in held}
    space = elements(group.space)
    seen: set[Node] = set()
    queue = [node]
    total = 0
    while queue and total < DEAR:
        made = queue.pop()
        total += DEAR if is_expensive(made) else 3 if made.op == "gather" else 0
        for value in dict.fromkeys(made.inputs):
            maker = makers.get(value)
            if maker is None:
                total += 2 * value.type.elements > space
            elif maker not in seen and maker.op not in COMBINERS:
                seen.add(maker)
                queue.append(maker)
    return total


def phase_used(node: Node, phase_of: dict[Value, int]) -> int:
    """The pass in which `node` is computed."""
    return phase_of[node.outputs[0]] - (node.op in COMBINERS)


def elements(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def joiner(rank: int, reduced: tuple[int, ...]) -> Callable[[Index, Index], Index]:
    """Joins a row index and a place in the row into an index of the space."""
    kept = tuple(d for d in range(rank) if d not in reduced)

    def place(row: Index, at: Index) -> Index:
        joined: list[Affine] = [Affine()] * rank
        for d, a in zip(kept, row, strict=True):
            joined[d] = a
        for d, a in zip(reduced, at, strict=True):
            joined[d] = a
        return tuple(joined)

    return place


def reduction(node: Node, place: Callable[[Index, Index], Index]) -> Reduction:
    """A reduce op as an accumulation of its operand's elements."""
    (x,) = node.inputs
    combine = COMBINERS[node.op]
    dtype = accumulator_dtype(combine, x.type.dtype)
    result: DType = node.output.type.dtype

    def term(reader: Reader, row: Index, at: Index) -> Expr:
        return as_dtype(reader.read(x, place(row, at)), dtype)

    return Reduction(node.output, combine, dtype, term, lambda e: as_dtype(e, result))
