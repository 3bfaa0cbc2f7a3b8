"""The register tile: the innermost loop of every matrix product and convolution on the CPU.

One generator serves all instruction sets, element types and operand layouts. A tile of `rows` x `vectors` accumulators
stays in registers while the loop over k loads `vectors` vectors of b and broadcasts `rows` elements of a. Strides are
constants of the code, so that each access is one displacement from two moving pointers. The tile function is private to
its module and shared by all kernels that need the same one.

Where the instruction set multiplies pairs of bf16 into f32 sums, or fours of 8-bit integers into 32-bit sums, an
operand's elements are 32-bit words, each of so many neighbours along k, and a step of the loop takes a word. The
instruction for fours takes one factor unsigned: a's bytes are raised by 128, and sums begin not at 0 but at a row that
stands before b's, -128 times the sum of each column. Integers wrap, so results are exact.

Order of sums: k ascending, one fused (on targets without the instruction: separate) multiply and add a step. It depends
on nothing but k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from rlx.codegen.llvm.types import BFLOAT, I8, I32, I64, PTR, VOID, constant, register_type
from rlx.codegen.llvm.values import ValueEmitter, function_attributes
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType, bf16, f32, i8, i32

#: What raises the four signed bytes of a word by 128: their highest bits, turned.
RAISED = 0x80808080
#: Multiply-adds that hide the counting of one turn of the tile's loop.
_TURN = 16


@dataclass(frozen=True)
class TileCode:
    """What one tile function is made for; strides count elements.

    rows, vectors: accumulators, rows by vectors of lanes.
    a_row, a_k: from one row, one k of a to the next; b_k: from one k of b to the next (a row of b is contiguous).
    c_row: from one row of sums to the next; 0: without gaps.
    factors: what the operands' words hold; None where they hold an element of `dtype` each.
    near: bytes a k that are brought into the second-level cache meanwhile, from an address that is the function's
        last argument; 0: none, and no such argument.
    below: bytes a k of a's rows behind the tile's last one that are brought into the second-level cache meanwhile.
    """

    dtype: DType
    rows: int
    vectors: int
    a_row: int
    a_k: int
    b_k: int
    c_row: int = 0
    factors: DType | None = None
    near: int = 0
    below: int = 0

    @property
    def unroll(self) -> int:
        """Steps of k that one turn of the loop takes; a tail takes them one at a time."""
        return -(-_TURN // (self.rows * self.vectors))

    @property
    def name(self) -> str:
        strides = f"{self.a_row}_{self.a_k}_{self.b_k}_{self.c_row}"
        factors = f"{self.factors.name}_" if self.factors else ""
        near = f"_near_{self.near}" if self.near else ""
        below = f"_below_{self.below}" if self.below else ""
        return f"tile_{factors}{self.dtype.name}_{self.rows}x{self.vectors}_{strides}{near}{below}"


def words_of_products(target: Target, factors: DType, sums: DType) -> int:
    """How many neighbours along k one multiply-add takes: 1 where the operands are converted to the sums' dtype."""
    if factors is bf16 and sums is f32 and target.has("avx512bf16"):
        return 2
    return 4 if factors is i8 and sums is i32 and target.has("avx512vnni") else 1


def multiply_add(e: ValueEmitter, a: ir.Value, b: ir.Value, c: ir.Value, factors: DType) -> ir.Value:
    """c + a * b in each lane. For bf16 and i8 a and b are lanes of words (of any 32-bit type), a's bytes unsigned."""
    if factors is i8:
        fours = ir.VectorType(I8, 4 * c.type.count)
        a, b = (e.builder.bitcast(v, fours) for v in (a, b))
        return e.call("llvm.x86.avx512.vpdpbusd.512", c.type, [c, a, b])
    if factors is bf16:
        pairs = ir.VectorType(BFLOAT, 2 * c.type.count)
        a, b = (e.builder.bitcast(v, pairs) for v in (a, b))
        return e.call("llvm.x86.avx512bf16.dpbf16ps.512", c.type, [c, a, b])
    if factors.is_float:
        return e.fma(a, b, c)
    return e.builder.add(e.builder.mul(a, b), c)


def registers(target: Target) -> int:
    """Vector registers of the instruction set."""
    return 32 if target.vector_bits == 512 or not target.is_x86 else 16


def tile_function(module: ir.Module, target: Target, code: TileCode) -> ir.Function:
    """The module's function `void tile(ptr a, ptr b, i64 k, ptr c[, ptr near])`, k >= 1, emitted on first use.

    c receives rows x vectors x lanes sums, row by row. Loads need no alignment.
    """
    found = module.globals.get(code.name)
    if found is not None:
        return found
    types = [PTR, PTR, I64, PTR, *([PTR] if code.near else [])]
    function = ir.Function(module, ir.FunctionType(VOID, types), code.name)
    function.linkage = "internal"
    function.attributes = function_attributes(target, "noinline")
    a, b, _, c = function.args[:4]
    for pointer in (a, b, c):
        pointer.add_attribute("noalias")
    _Tile(function, target, code).emit()
    return function


class _Tile:
    def __init__(self, function: ir.Function, target: Target, code: TileCode) -> None:
        self.function = function
        self.code = code
        self.element = register_type(code.dtype) if code.factors is None else I32
        self.lanes = target.lanes(code.dtype.bits)
        self.vector = ir.VectorType(self.element, self.lanes)
        self.sum = ir.VectorType(register_type(code.dtype), self.lanes)
        self.size = code.dtype.itemsize
        self.values = ValueEmitter(function.module, ir.IRBuilder(function.append_basic_block("entry")), target)

    @property
    def builder(self) -> ir.IRBuilder:
        return self.values.builder

    def emit(self) -> None:
        a, b, k, c = self.function.args[:4]
        unroll = self.code.unroll
        sums: list[ir.Value] = [constant(self.sum, 0)] * (self.code.rows * self.code.vectors)
        if self.code.factors is i8:
            sums = [self._load_vector(b, j * self.lanes) for j in range(self.code.vectors)] * self.code.rows
            b = self._at(b, self.code.b_k)
        if unroll > 1:
            turns = self.builder.sub(k, self.builder.urem(k, I64(unroll)))
            a, b, sums = self._loop(a, b, turns, sums, unroll)
            k = self.builder.sub(k, turns)
        _, _, sums = self._loop(a, b, k, sums, 1)
        pitch = self.code.c_row or self.code.vectors * self.lanes
        for i, value in enumerate(sums):
            row, vector = divmod(i, self.code.vectors)
            self.builder.store(value, self._at(c, row * pitch + vector * self.lanes), align=self.size)
        self.builder.ret_void()

    def _loop(
        self, a: ir.Value, b: ir.Value, k: ir.Value, sums: Sequence[ir.Value], unroll: int
    ) -> tuple[ir.Value, ir.Value, list[ir.Value]]:
        """k steps (a multiple of `unroll`, maybe none); gives the pointers behind them and the sums."""
        before = self.builder.block
        body = self.function.append_basic_block("k")
        after = self.function.append_basic_block("done")
        self.builder.cbranch(self.builder.icmp_signed(">", k, I64(0)), body, after)
        start = [I64(0), a, b, *sums]
        self.builder.position_at_end(body)
        moving = [self.builder.phi(v.type) for v in start]
        index, a_now, b_now, *values = moving
        for step in range(unroll):
            if self.code.near:
                self._bring_near(self.function.args[4], self.builder.add(index, I64(step)), self.code.near)
            if self.code.below:
                rows = self._at(self.function.args[0], self.code.rows * self.code.a_row)
                self._bring_near(rows, self.builder.add(index, I64(step)), self.code.below)
            values = self._step(a_now, b_now, step, values)
        following = [
            self.builder.add(index, I64(unroll)),
            self._at(a_now, unroll * self.code.a_k),
            self._at(b_now, unroll * self.code.b_k),
            *values,
        ]
        for phi, first, following_value in zip(moving, start, following, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(following_value, body)
        self.builder.cbranch(self.builder.icmp_signed("<", following[0], k), body, after)
        self.builder.position_at_end(after)
        results = []
        for first, following_value in zip(start[1:], following[1:], strict=True):
            phi = self.builder.phi(first.type)
            phi.add_incoming(first, before)
            phi.add_incoming(following_value, body)
            results.append(phi)
        return results[0], results[1], results[2:]

    def _step(self, a: ir.Value, b: ir.Value, step: int, sums: Sequence[ir.Value]) -> list[ir.Value]:
        code = self.code
        columns = [self._load_vector(b, step * code.b_k + j * self.lanes) for j in range(code.vectors)]
        result = list(sums)
        for row in range(code.rows):
            pointer = self._at(a, step * code.a_k + row * code.a_row)
            one = self.values.splat(self.builder.load(pointer, align=1, typ=self.element), self.lanes)
            if code.factors is i8:
                one = self.builder.xor(one, constant(self.vector, RAISED))
            for j, column in enumerate(columns):
                at = row * code.vectors + j
                result[at] = multiply_add(self.values, one, column, result[at], self.code.factors or self.code.dtype)
        return result

    def _bring_near(self, start: ir.Value, k: ir.Value, share: int) -> None:
        """Ask for the lines of the k-th `share` bytes from `start` on."""
        place = self.builder.mul(k, I64(share))
        for line in range(0, share, 64):
            at = self.builder.gep(start, [self.builder.add(place, I64(line))], source_etype=I8)
            self.values.call("llvm.prefetch.p0", VOID, [at, I32(0), I32(2), I32(1)])

    def _load_vector(self, pointer: ir.Value, offset: int) -> ir.Value:
        return self.builder.load(self._at(pointer, offset), align=1, typ=self.vector)

    def _at(self, pointer: ir.Value, offset: int) -> ir.Value:
        return self.builder.gep(pointer, [I64(offset * self.size)], source_etype=I8) if offset else pointer
