"""Results in the memory of operands: a pointwise kernel whose operand dies there overwrites it element for element.

Two halves. `in_place_operands` looks at a kernel's stores and says which operands a result may overwrite: each element
of the space is stored once, and the operand is read at the very address that is stored to, never after it is stored.
`share_memory` looks at the whole program and does so where the operand lives in temporary memory that nothing touches
later and the result's memory begins: from there on the result's buffer is the operand's. A loop kernel then reads and
writes one argument; a template's arguments have equal addresses, and one says that it aliases the other. Parameters are
never written, nor are inputs, save those that the caller donates: their memory dies as a temporary's does, and an
output may lie in it for good. A copy out of such an input, dying, is no step at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from rlx.codegen.kernel import (
    Accumulate,
    Apply,
    Assign,
    Declare,
    Expr,
    If,
    Let,
    Load,
    Local,
    Loop,
    LoopKernel,
    Memory,
    Stmt,
    Store,
    TemplateKernel,
    While,
)
from rlx.codegen.lower.axes import Axis
from rlx.codegen.lower.setup import renamed, touched
from rlx.codegen.program import Copy, Launch, Operand, Step, VirtualBuffer


def in_place_operands(
    stores: Sequence[Store], axes: Sequence[Axis], args: Sequence[Memory], operands: Sequence[Operand]
) -> tuple[tuple[int, int], ...]:
    """(result, operand) as places among `args`: the result may have the operand's memory.

    stores: what the kernel does, in this order, at each index of the axes' space and nowhere else.
    """
    place = {memory: i for i, memory in enumerate(args)}
    found: list[tuple[int, int]] = []
    for position, store in enumerate(stores):
        result = place[store.memory]
        if store.mask is not None or not _covers_its_buffer(store, axes, operands[result]):
            continue
        if any(operands[place[s.memory]].buffer is operands[result].buffer for s in stores if s is not store):
            continue
        later = {operands[place[load.memory]].buffer for s in stores[position + 1 :] for load in _loads(s)}
        now: dict[VirtualBuffer, list[Load]] = {}
        for s in stores[: position + 1]:
            for load in _loads(s):
                now.setdefault(operands[place[load.memory]].buffer, []).append(load)
        for buffer, loads in now.items():
            if buffer in later or buffer is operands[result].buffer or buffer.nbytes != operands[result].buffer.nbytes:
                continue
            if all(_same_address(load, store) and not operands[place[load.memory]].byte_offset for load in loads):
                found.append((result, place[loads[0].memory]))
    return tuple(found)


def _covers_its_buffer(store: Store, axes: Sequence[Axis], operand: Operand) -> bool:
    """Whether the space's indices and the buffer's elements are one to one."""
    memory = store.memory
    extents: dict[Expr, int] = {axis.var: axis.extent for axis in axes}
    if operand.byte_offset or memory.offset != 0 or set(store.index) != set(extents):
        return False
    strides = [(stride, extents[var]) for stride, var in zip(memory.strides, store.index, strict=True)]
    reach = 1
    for stride, extent in sorted((s, e) for s, e in strides if isinstance(s, int)):
        if stride != reach:
            return False
        reach *= extent
    return reach * memory.dtype.itemsize == operand.buffer.nbytes


def _same_address(load: Load, store: Store) -> bool:
    a, b = load.memory, store.memory
    return (a.dtype, a.strides, a.offset, load.index) == (b.dtype, b.strides, b.offset, store.index)


def _loads(statement: Store) -> Iterator[Load]:
    seen: set[Expr] = set()
    stack = [statement.value, *statement.index, *([statement.mask] if statement.mask is not None else [])]
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        seen.add(e)
        if isinstance(e, Apply):
            stack += e.args
        elif isinstance(e, Load):
            yield e
            stack += [*e.index, *(x for x in (e.mask, e.other) if x is not None)]


def share_memory(
    steps: Sequence[Step], donated: Mapping[VirtualBuffer, Collection[int]] | None = None
) -> tuple[tuple[Step, ...], dict[int, int]]:
    """The steps, in the order in which they will run, with results in their operands' memory where nothing is lost.

    donated: inputs that may be overwritten, each with the indices of the outputs that may lie in it.

    Gives the steps, and output -> input for those outputs that now lie in an input: no step names their own memory.
    """
    free = dict(donated or {})
    outputs: dict[int, int] = {}
    last: dict[VirtualBuffer, int] = {}
    first: dict[VirtualBuffer, int] = {}
    for position, step in enumerate(steps):
        for buffer in touched([step]):
            first.setdefault(buffer, position)
            last[buffer] = position
    to: dict[VirtualBuffer, VirtualBuffer] = {}
    done: list[Step] = []

    def may_take(target: VirtualBuffer, source: VirtualBuffer, position: int) -> bool:
        if first[target] != position or last[source] != position:
            return False
        if target.kind == "output":
            return target.index in free.get(source, ())
        return target.kind == "temporary" and (source.kind == "temporary" or source in free)

    def take(target: VirtualBuffer, source: VirtualBuffer) -> None:
        to[target] = source
        last[source] = last[target]
        if target.kind == "output":
            outputs[target.index] = source.index
            del free[source]  # what it holds from now on is a result

    for position, given in enumerate(steps):
        step = renamed(given, to)
        if isinstance(step, Launch):
            for result, operand in step.in_place:
                target, source = step.operands[result].buffer, step.operands[operand].buffer
                alone = isinstance(step.kernel, LoopKernel) or _count(step, source) == 1
                if alone and _count(step, target) == 1 and may_take(target, source, position):
                    take(target, source)
                    shared = renamed(step, to)
                    assert isinstance(shared, Launch)
                    step = _merged(shared, result, operand)
                    break
        elif isinstance(step, Copy) and _is_whole(step):
            target, source = step.destination.buffer, step.source.buffer
            if source in free and may_take(target, source, position):
                take(target, source)
                continue
        done.append(step)
    return tuple(done), outputs


def _is_whole(step: Copy) -> bool:
    """Whether the copy is of all of a buffer, to all of another."""
    sizes = {step.nbytes, step.source.buffer.nbytes, step.destination.buffer.nbytes}
    return len(sizes) == 1 and not step.source.byte_offset and not step.destination.byte_offset


def _count(step: Launch, buffer: VirtualBuffer) -> int:
    return sum(o.buffer is buffer for o in step.operands)


def _merged(step: Launch, result: int, operand: int) -> Launch:
    """The launch for equal memory behind its arguments `result` and `operand`: a loop kernel gets one for both."""
    kernel, buffer = step.kernel, step.operands[result].buffer
    one = kernel.args[result]
    if isinstance(kernel, TemplateKernel):
        alias = replace(one, aliases=kernel.args[operand].name)
        args = tuple(alias if m is one else m for m in kernel.args)
        return replace(step, kernel=replace(kernel, args=args), in_place=())
    gone = {m for m, o in zip(kernel.args, step.operands, strict=True) if o.buffer is buffer and m is not one}
    body = _Substitution(gone, one).statements(kernel.body)
    args = tuple(m for m in kernel.args if m not in gone)
    operands = tuple(o for m, o in zip(kernel.args, step.operands, strict=True) if m not in gone)
    return replace(step, kernel=replace(kernel, args=args, body=body), operands=operands, in_place=())


class _Substitution:
    """Puts one memory in the place of others. Expressions that were shared stay shared."""

    def __init__(self, gone: Collection[Memory], one: Memory) -> None:
        self._gone, self._one = gone, one
        self._known: dict[Expr, Expr] = {}

    def statements(self, body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        return tuple(self._statement(s) for s in body)

    def _statement(self, s: Stmt) -> Stmt:
        if isinstance(s, Loop):
            return replace(s, extent=self._expr(s.extent), body=self.statements(s.body))
        if isinstance(s, Let | Assign | Accumulate):
            return replace(s, value=self._expr(s.value))
        if isinstance(s, Declare):
            return replace(s, init=self._expr(s.init))
        if isinstance(s, Store):
            return replace(s, index=self._all(s.index), value=self._expr(s.value), mask=self._optional(s.mask))
        if isinstance(s, If):
            then, orelse = self.statements(s.then), self.statements(s.orelse)
            return replace(s, condition=self._expr(s.condition), then=then, orelse=orelse)
        if isinstance(s, While):
            return replace(s, condition=self._expr(s.condition), body=self.statements(s.body))
        assert isinstance(s, Local)
        return s

    def _all(self, expressions: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(self._expr(e) for e in expressions)

    def _optional(self, e: Expr | None) -> Expr | None:
        return None if e is None else self._expr(e)

    def _expr(self, e: Expr) -> Expr:
        if not isinstance(e, Apply | Load):
            return e
        found = self._known.get(e)
        if found is None:
            if isinstance(e, Apply):
                found = Apply(e.op, self._all(e.args), e.dtype)
            else:
                memory = self._one if e.memory in self._gone else e.memory
                found = Load(memory, self._all(e.index), self._optional(e.mask), self._optional(e.other))
            self._known[e] = found
        return found
