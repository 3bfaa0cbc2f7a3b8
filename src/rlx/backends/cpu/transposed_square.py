"""Squares of elements, transposed in registers: one function a module and element type, called by all that copies so.

Spelt out at each place, the shuffles of a square are most of what the compiler reads of a kernel that packs.
"""

from __future__ import annotations

from llvmlite import ir

from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I8, I64, PTR, VOID, memory_type
from rlx.codegen.llvm.values import ValueEmitter, function_attributes
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType


def copy_transposed(
    e: FunctionEmitter,
    dtype: DType,
    source: ir.Value,
    step: int,
    last: ir.Value,
    target: ir.Value,
    pitch: int,
) -> None:
    """Copy a square of lanes x lanes: element (i, j) of the source becomes (j, i) of the target.

    source: row i is `lanes` neighbours, `min(i, last) * step` elements from the first. target: rows `pitch` elements
    apart, written whole.
    """
    size = dtype.itemsize
    function = _function(e.module, e.target, dtype)
    e.builder.call(function, [source, I64(step * size), last, target, I64(pitch * size)])


def _function(module: ir.Module, target: Target, dtype: DType) -> ir.Function:
    name = f"copy_transposed_{dtype.name}"
    found = module.globals.get(name)
    if found is not None:
        return found
    function = ir.Function(module, ir.FunctionType(VOID, [PTR, I64, I64, PTR, I64]), name)
    function.linkage = "internal"
    function.attributes = function_attributes(target, "noinline")
    source, step, last, to, pitch = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    lanes, size = target.lanes(dtype.bits), dtype.itemsize
    vector = ir.VectorType(memory_type(dtype), lanes)
    rows = []
    for i in range(lanes):
        row = b.select(b.icmp_signed("<", I64(i), last), I64(i), last)
        rows.append(b.load(b.gep(source, [b.mul(row, step)], source_etype=I8), align=1, typ=vector))
    for j, value in enumerate(transpose(ValueEmitter(module, b, target), rows)):
        b.store(value, b.gep(to, [b.mul(I64(j), pitch)], source_etype=I8), align=size)
    b.ret_void()
    return function


def transpose(e: ValueEmitter, rows: list[ir.Value]) -> list[ir.Value]:
    """A square of lanes, transposed: swaps of ever larger halves between ever nearer rows."""
    lanes = len(rows)
    step = lanes // 2
    while step:
        swapped: list[ir.Value] = list(rows)
        low = [i if not i & step else i - step + lanes for i in range(lanes)]
        high = [i + step if not i & step else i + lanes for i in range(lanes)]
        for i in range(lanes):
            if not i & step:
                swapped[i] = e.shuffle(rows[i], low, rows[i + step])
                swapped[i + step] = e.shuffle(rows[i], high, rows[i + step])
        rows = swapped
        step //= 2
    return rows
