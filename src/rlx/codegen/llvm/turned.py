"""Nests that load along one axis and store along another, as transposes do: square blocks turned in registers.

A vector loop inside a serial one, where a load's neighbours in memory are the serial loop's iterations, would gather
each vector from as many cache lines as it has lanes. As many loads along the serial loop as there are lanes give the
same elements in whole vectors; shuffles turn them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from llvmlite import ir

from rlx.codegen.kernel import Let, Load, Loop, Store
from rlx.codegen.llvm.body import choose_lanes, expressions
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64

#: Bytes of the elements that are turned; narrower ones would need more vectors than there are registers.
_SIZES = (4, 8)


def turned_loads(f: FunctionEmitter, outer: Loop, inner: Loop) -> list[Load]:
    """The loads that are contiguous along `outer` and not along `inner`; none where the nest is not to be turned."""
    if inner.kind != "vector" or outer.kind != "serial" or outer.body != (inner,) or inner.unroll > 1:
        return []
    if not all(isinstance(s, Let | Store) for s in inner.body) or f.frame.lanes > 1:
        return []
    lanes = choose_lanes(inner, f.target, None)
    loads = [e for e in expressions(inner.body) if isinstance(e, Load)]
    written = {s.memory.name for s in inner.body if isinstance(s, Store)}
    if lanes < 4 or any(e.memory.name in written for e in loads):
        return []
    found = []
    for load in loads:
        if load.mask is not None or load.memory.dtype.itemsize not in _SIZES or load.memory.dtype.is_complex:
            continue
        strides = []
        for loop, other in ((outer, inner), (inner, outer)):
            with f.lanes({loop.var: I64(0), other.var: I64(0)}, lanes, loop.var, None):
                strides.append(f.stride_along(load.memory, load.index))
        if strides[0] == 1 and strides[1] is not None and abs(strides[1]) > 1:
            found.append(load)
    return found


def turn(f: FunctionEmitter, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """The columns of a square block of vectors: the lanes of two at a time, first the even ones, then the odd ones."""
    if len(rows) == 1:
        return list(rows)
    lanes = rows[0].type.count
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    even, odd = (turn(f, [f.shuffle(a, range(at, 2 * lanes, 2), b) for a, b in pairs]) for at in (0, 1))
    return list(chain.from_iterable(zip(even, odd, strict=True)))
