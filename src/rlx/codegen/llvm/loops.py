"""Loop kernels: the grid, loops, vector loops, variables and branches.

A vector loop runs a full vector of lanes at a time, `unroll` vectors in one turn, or several that are computed before
the first is stored (`vectors_abreast`). What is left over runs in vectors with a mask, on targets that mask loads and
stores, and element by element elsewhere. Each of these is the same code on other values, and no product fuses with a
sum except where an accumulation says so, so that an element's result does not depend on where in the loop it stood.

Accumulation across a vector loop goes to `unroll` vectors of partial results, combined at the end: pairwise, then lanes
in a tree, then with the variable's value before. That order depends on the kernel and the target alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

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
    Stmt,
    Store,
    Var,
    While,
)
from rlx.codegen.llvm.body import (
    Accumulation,
    accumulations,
    choose_lanes,
    interleaving,
    is_vectorizable,
    memory_bits,
)
from rlx.codegen.llvm.frame import Cell
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.streamed import (
    Seam,
    bytes_ahead,
    fetch_torn_line,
    find_seam,
    iterations_before,
    iterations_of_a_line,
    streamed_store,
    vectors_abreast,
)
from rlx.codegen.llvm.turned import turn, turned_loads
from rlx.codegen.llvm.types import I64, Value, constant, dtype_constant, real
from rlx.errors import UnsupportedKernel
from rlx.ir import dtypes
from rlx.ir.ops import precision


def emit_loop_kernel(f: FunctionEmitter, kernel: LoopKernel) -> None:
    """The whole body of `kernel`, for grid indices from f.begin to f.end."""
    with f.loop(f.begin, f.end) as index:
        f.frame.env[kernel.index.name] = index
        emit_body(f, kernel.body)


def emit_body(f: FunctionEmitter, body: Sequence[Stmt]) -> None:
    """The statements, in order, in the current frame."""
    for stmt in body:
        _statement(f, stmt)


def _statement(f: FunctionEmitter, stmt: Stmt) -> None:
    match stmt:
        case Let():
            f.bind(stmt.var, stmt.value)
        case Store():
            f.emit_store(stmt)
        case Loop():
            _loop(f, stmt)
        case Declare():
            _declare(f, stmt)
        case Assign():
            _set(f, stmt.var, f.splat_value(f.value(stmt.value), f.frame.lanes))
        case Accumulate():
            _accumulate(f, stmt)
        case If():
            _if(f, stmt)
        case While():
            _while(f, stmt)
        case Local():
            f.pointers[stmt.memory.name] = f.local_memory(stmt.memory, stmt.elements)
            f.mutable_memories |= {stmt.memory.name}


# -- variables -----------------------------------------------------------------------------------------------------


def _declare(f: FunctionEmitter, stmt: Declare) -> None:
    f.frame.env[stmt.var.name] = f.cell(f.splat_value(f.value(stmt.init), f.frame.lanes))
    f.frame.definitions.pop(stmt.var.name, None)
    if f.frame.lanes > 1:
        f.frame.varying |= {stmt.var.name}


def _cell(f: FunctionEmitter, var: Var) -> Cell:
    cell = f.frame.env.get(var.name)
    if not isinstance(cell, Cell):
        raise UnsupportedKernel(f"{var.name!r} is set but was not declared", where=f"kernel {f.kernel.label!r}")
    return cell


def _set(f: FunctionEmitter, var: Var, value: Value) -> None:
    f.write_cell(_cell(f, var), value)
    f.frame.forget(f.dependencies, variable=var.name)


def _accumulate(f: FunctionEmitter, stmt: Accumulate) -> None:
    cell = _cell(f, stmt.var)
    before = f.read_cell(cell)
    after = _combined(f, stmt, before)
    active = f.frame.active
    if active is not None and stmt.var.name in f.frame.partial:
        after = f.select(active, after, before)
    _set(f, stmt.var, after)


def _combined(f: FunctionEmitter, stmt: Accumulate, before: Value) -> Value:
    lanes = f.frame.lanes
    value = stmt.value
    fuses = stmt.op == "add" and stmt.var.dtype in (dtypes.f32, dtypes.f64) and f.target.has_fma
    if fuses and isinstance(value, Apply) and value.op == "mul":
        a, b = (f.splat(real(f.value(x)), lanes) for x in value.args)
        return f.fma(a, b, real(before))
    if stmt.op == "max" and stmt.var.name in f.softmax.maxima:
        return f.first_if(">", f.splat(real(f.value(value)), lanes), real(before))
    return f.apply(stmt.op, [before, f.splat_value(f.value(value), lanes)], stmt.var.dtype)


# -- loops ---------------------------------------------------------------------------------------------------------


def _loop(f: FunctionEmitter, loop: Loop) -> None:
    extent = f.index_value(loop.extent)
    if f.varies(loop.extent):
        raise UnsupportedKernel("a loop's extent differs between lanes", where=f"kernel {f.kernel.label!r}")
    if loop.kind == "vector" and f.frame.lanes == 1 and is_vectorizable(loop.body):
        lanes = choose_lanes(loop, f.target, extent.constant if type(extent) is ir.Constant else None)
        if lanes > 1:
            vector_loop(f, loop, extent, lanes)
            return
    if loop.kind == "unrolled" and type(extent) is ir.Constant:
        for turn in range(extent.constant):
            with f.scope():
                f.frame.env[loop.var.name] = I64(turn)
                emit_body(f, loop.body)
        return
    inner = loop.body[0]
    if isinstance(inner, Loop) and (turned := turned_loads(f, loop, inner)):
        _turned_nest(f, loop, inner, turned)
        return
    with f.loop(I64(0), extent) as index:
        f.frame.env[loop.var.name] = index
        emit_body(f, loop.body)


def _turned_nest(f: FunctionEmitter, outer: Loop, inner: Loop, turned: Sequence[Load]) -> None:
    """The nest in square blocks of which the `turned` loads are turned in registers, then what is left over."""
    lanes = choose_lanes(inner, f.target, None)
    down, across = f.index_value(outer.extent), f.index_value(inner.extent)
    full_down, full_across = whole_part(f, I64(0), down, lanes), whole_part(f, I64(0), across, lanes)
    with f.loop(I64(0), full_down, lanes) as top, f.loop(I64(0), full_across, lanes) as left:
        columns = []
        for load in turned:
            rows = []
            for step in range(lanes):
                place = {outer.var: top, inner.var: f.integer_add(left, I64(step))}
                with f.lanes(place, lanes, outer.var, None):
                    rows.append(real(f.value(load)))
            columns.append(turn(f, rows))
        for step in range(lanes):
            with f.lanes({outer.var: f.integer_add(top, I64(step)), inner.var: left}, lanes, inner.var, None):
                for load, values in zip(turned, columns, strict=True):
                    f.frame.stable[(id(load), True)] = (load, values[step])
                emit_body(f, inner.body)
    for first, last, start in ((I64(0), full_down, full_across), (full_down, down, I64(0))):
        if _equal(first, last) or _equal(start, across):
            continue
        with f.loop(first, last) as index:
            f.frame.env[outer.var.name] = index
            if all(f.target.masks(bits) for bits in memory_bits(inner.body)):
                masked_part(f, inner, start, across, lanes, {}, None)
            else:
                _one_by_one(f, inner, start, across)


@dataclass(frozen=True)
class Beside:
    """What is done beside a loop: `emit` at iteration i, for i below `until` (i64), a multiple of the loop's lanes."""

    until: ir.Value
    emit: Callable[[ir.Value], None]


def vector_loop(f: FunctionEmitter, loop: Loop, extent: ir.Value, lanes: int, beside: Beside | None = None) -> None:
    """beside: what is done first for as many vectors of the loop as it says; only where one vector makes a turn."""
    crossing = accumulations(loop.body)
    unroll = loop.unroll if loop.unroll > 1 else interleaving(loop.body, crossing)
    if type(extent) is ir.Constant:
        unroll = max(1, min(unroll, extent.constant // lanes))
    streamed = None if crossing else streamed_store(f, loop, extent, lanes)
    if streamed is not None:
        unroll = max(unroll, iterations_of_a_line(streamed) // lanes)
    partials = [{a.var.name: f.cell(f.splat_value(_identity(a), lanes)) for a in crossing} for _ in range(unroll)]
    masked = all(f.target.masks(bits) for bits in memory_bits(loop.body))
    joint = None if streamed is None or unroll > 1 else find_seam(f, loop, streamed, extent, lanes)
    ahead = bytes_ahead(f, loop, extent, streamed)
    first: ir.Value = I64(0)
    if streamed is not None:
        first = iterations_before(f, loop, streamed, extent)
        if joint is None:
            fetch_torn_line(f, loop, streamed, extent)
        if joint is not None:
            _join(f, loop, first, lanes, streamed, joint)
        elif masked:
            masked_part(f, loop, I64(0), first, lanes, {}, streamed)
        else:
            _one_by_one(f, loop, I64(0), first)
    abreast = unroll if streamed is None else vectors_abreast(f)
    full = whole_part(f, first, extent, abreast * lanes)
    if beside is not None:
        first = beside.until
        with f.loop(I64(0), first, lanes) as index:
            beside.emit(index)
            lanes_body(f, loop, index, lanes, None, partials[0], ahead=ahead)
    if not _is_zero(full):
        with f.loop(first, full, abreast * lanes) as index:
            starts = [f.integer_add(index, I64(turn * lanes)) for turn in range(abreast)]
            if streamed is not None:
                _abreast(f, loop, starts, lanes, streamed, ahead)
            else:
                for start, partial in zip(starts, partials, strict=True):
                    lanes_body(f, loop, start, lanes, None, partial, ahead=ahead)
    if abreast > unroll:
        lines = whole_part(f, first, extent, unroll * lanes)
        with f.loop(full, lines, unroll * lanes) as index:
            starts = [f.integer_add(index, I64(turn * lanes)) for turn in range(unroll)]
            _abreast(f, loop, starts, lanes, streamed, ahead)
        full = lines
    rest = full if masked else whole_part(f, first, extent, lanes)
    if not masked and unroll > 1 and not _equal(full, rest):
        with f.loop(full, rest, lanes) as index:
            lanes_body(f, loop, index, lanes, None, partials[0])
    if joint is not None and streamed is not None:
        _keep(f, loop, rest, extent, lanes, streamed, joint)
    elif masked and not _equal(rest, extent):
        masked_part(f, loop, rest, extent, lanes, partials[0], streamed)
    for accumulation in crossing:
        _combine_partials(f, accumulation, [p[accumulation.var.name] for p in partials])
    if not masked and not _equal(rest, extent):
        _one_by_one(f, loop, rest, extent)


def masked_part(
    f: FunctionEmitter,
    loop: Loop,
    start: ir.Value,
    stop: ir.Value,
    lanes: int,
    partials: dict[str, Cell],
    streamed: Store | None,
) -> None:
    """Iterations from start to stop in vectors that count only as far as stop. partials: where the body accumulates."""
    with f.loop(start, stop, lanes) as index:
        left = f.builder.sub(stop, index)
        lanes_body(f, loop, index, lanes, f.mask_for(left, lanes), partials, streamed, left)


def _abreast(
    f: FunctionEmitter, loop: Loop, starts: Sequence[ir.Value], lanes: int, streamed: Store, ahead: int
) -> None:
    """The streamed loop's body for vectors from each start on: all are computed before the first is stored."""
    frames = []
    for start in starts:
        with f.lanes({loop.var: start}, lanes, loop.var, None) as frame:
            frame.ahead, frame.streamed = ahead, streamed.memory.name
            for stmt in loop.body:
                if isinstance(stmt, Let):
                    f.bind(stmt.var, stmt.value)
                elif isinstance(stmt, Store):
                    f.value(stmt.value)
            frames.append(frame)
    for frame in frames:
        with f.again(frame):
            for stmt in loop.body:
                if isinstance(stmt, Store):
                    f.emit_store(stmt)


def _join(f: FunctionEmitter, loop: Loop, first: ir.Value, lanes: int, streamed: Store, joint: Seam) -> None:
    """The iterations before `first`, where a line begins: with the end of the row before, or in pieces."""
    b = f.builder
    with b.if_else(joint.joins) as (joins, begins):
        with joins, b.if_then(b.icmp_signed(">", first, I64(0))):
            start = b.sub(first, I64(lanes))
            mask = b.not_(f.mask_for(b.neg(start), lanes))
            lanes_body(f, loop, start, lanes, mask, {}, streamed, line=joint.line)
        with begins:
            masked_part(f, loop, I64(0), first, lanes, {}, streamed)


def _keep(
    f: FunctionEmitter, loop: Loop, start: ir.Value, stop: ir.Value, lanes: int, streamed: Store, joint: Seam
) -> None:
    """The iterations from `start`, where the last line begins: kept for the next row, or in pieces."""
    b = f.builder
    left = b.sub(stop, start)
    with b.if_else(b.and_(joint.keeps, b.icmp_signed(">", left, I64(0)))) as (keeps, ends):
        with keeps:
            lanes_body(f, loop, start, lanes, f.mask_for(left, lanes), {}, streamed, left, line=joint.line)
        with ends:
            masked_part(f, loop, start, stop, lanes, {}, streamed)


def _one_by_one(f: FunctionEmitter, loop: Loop, start: ir.Value, stop: ir.Value) -> None:
    with f.loop(start, stop) as index:
        f.frame.env[loop.var.name] = index
        emit_body(f, loop.body)


def lanes_body(
    f: FunctionEmitter,
    loop: Loop,
    start: ir.Value,
    lanes: int,
    mask: ir.Value | None,
    partials: dict[str, Cell],
    streamed: Store | None = None,
    left: ir.Value | None = None,
    ahead: int = 0,
    line: ir.Value | None = None,
) -> None:
    """The loop's body for `lanes` iterations from start on, as far as the mask goes.

    partials: where it accumulates. streamed: the store that goes past the caches. left: how many of the lanes count, as
    the mask says too. ahead, line: see `Frame`.
    """
    with f.lanes({loop.var: start}, lanes, loop.var, mask):
        f.frame.ahead, f.frame.line = ahead, line
        if streamed is not None:
            f.frame.streamed = streamed.memory.name
            f.frame.first = None if left is None else f.intrinsic("smin", left, I64(lanes))
        f.frame.env.update(partials)
        f.frame.varying |= partials.keys()
        f.frame.partial = frozenset(partials)
        emit_body(f, loop.body)


def _combine_partials(f: FunctionEmitter, accumulation: Accumulation, cells: list[Cell]) -> None:
    var, op = accumulation.var, accumulation.op
    values = [f.read_cell(c) for c in cells]
    while len(values) > 1:
        pairs = [f.apply(op, [values[i], values[i + 1]], var.dtype) for i in range(0, len(values) - 1, 2)]
        values = pairs + values[len(pairs) * 2 :]
    total = f.horizontal(op, values[0], var.dtype)
    _set(f, var, f.apply(op, [f.read_cell(_cell(f, var)), total], var.dtype))


def _identity(accumulation: Accumulation) -> Value:
    """What combines with any value to that value; for sums the negative zero, which even keeps a zero's sign."""
    dtype = accumulation.var.dtype
    match accumulation.op:
        case "add":
            return dtype_constant(dtype, -0.0 if dtype.is_float else complex(-0.0, -0.0) if dtype.is_complex else 0)
        case "mul":
            return dtype_constant(dtype, 1)
        case "and":
            return dtype_constant(dtype, -1 if dtype.is_integer else True)
        case "or" | "xor":
            return dtype_constant(dtype, 0)
        case "max" | "min":
            limit = (precision.lowest if accumulation.op == "max" else precision.highest)(dtype.numpy)
            if dtype.is_float:
                return dtype_constant(dtype, float(limit))
            return dtype_constant(dtype, int(np.asarray(limit).astype(object)))
    raise UnsupportedKernel(f"{accumulation.op!r} cannot accumulate", hint="add, mul, max, min, and, or, xor can")


def whole_part(f: FunctionEmitter, first: ir.Value, extent: ir.Value, step: int) -> ir.Value:
    """The last stop not above extent that is a multiple of step (a power of two times a small number) from first."""
    if type(extent) is ir.Constant and type(first) is ir.Constant:
        return I64(first.constant + max(0, (extent.constant - first.constant) // step * step))
    left = f.integer_add(extent, f.integer_mul(first, I64(-1)))
    return f.builder.sub(extent, f.builder.srem(left, constant(I64, step)))


def _is_zero(value: ir.Value) -> bool:
    return type(value) is ir.Constant and value.constant == 0


def _equal(a: ir.Value, b: ir.Value) -> bool:
    return a is b or (type(a) is ir.Constant and type(b) is ir.Constant and a.constant == b.constant)


# -- branches ------------------------------------------------------------------------------------------------------


def _if(f: FunctionEmitter, stmt: If) -> None:
    condition = _uniform(f, stmt.condition)
    if not stmt.orelse:
        with f.builder.if_then(condition), f.scope():
            emit_body(f, stmt.then)
        return
    with f.builder.if_else(condition) as (then, orelse):
        with then, f.scope():
            emit_body(f, stmt.then)
        with orelse, f.scope():
            emit_body(f, stmt.orelse)


def _while(f: FunctionEmitter, stmt: While) -> None:
    b = f.builder
    test, body, after = (b.append_basic_block(n) for n in ("test", "while", "after"))
    b.branch(test)
    b.position_at_end(test)
    with f.scope():
        b.cbranch(_uniform(f, stmt.condition), body, after)
    b.position_at_end(body)
    with f.scope():
        emit_body(f, stmt.body)
    b.branch(test)
    b.position_at_end(after)


def _uniform(f: FunctionEmitter, condition: Expr) -> ir.Value:
    if f.varies(condition):
        raise UnsupportedKernel("a branch's condition differs between lanes", where=f"kernel {f.kernel.label!r}")
    return real(f.value(condition))
