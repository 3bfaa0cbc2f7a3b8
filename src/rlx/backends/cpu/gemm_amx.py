"""The tile of products on AMX: matrix registers of 16 rows of 64 bytes, two by two, instead of lanes.

A tile of up to 32 rows by 32 columns keeps its sums in four registers while the loop over k loads two registers of a
(16 rows of 16 words along k) and two of b (16 words of k, 16 columns each). A word is a pair of bf16, summed in f32, or
four 8-bit integers, summed in 32 bits. Operands lie as they do for such words in lanes (see `gemm_tile`), so that
packed weights are the same; both factors are signed here, and the row before b's fours is passed over. k is a multiple
of 16 words, so that no register is partly used.

State. A kernel configures the registers when it begins and releases them when it ends; a tile of fewer rows configures
them for itself and restores. The process asks the system for the registers once, before it runs such code
(`rlx.backends.cpu.host.request_tiles`).

Order of sums: k ascending, a pair of bf16 a step, in f32; denormals are zeros, as the instruction has it. Sums of
integers are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from rlx.backends.cpu.gemm_pack import head
from rlx.backends.cpu.gemm_plan import Tile
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I8, I64, PTR, VOID
from rlx.codegen.llvm.values import ValueEmitter, function_attributes
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType, bf16, i8

#: Rows of a register, and bytes of each row.
ROWS, ROW_BYTES = 16, 64
#: Words of k that one step takes.
STEP = 16
#: Columns of a tile.
COLUMNS = 32
#: The registers: sums by rows, a by rows, b by columns.
_SUMS, _A, _B = ((0, 1), (2, 3)), (4, 5), (6, 7)
#: What adds the products of two registers to a third, by what their words hold.
_MULTIPLY = {bf16: "llvm.x86.tdpbf16ps", i8: "llvm.x86.tdpbssd"}


def suits(target: Target, rows: int, words: int) -> bool:
    """Whether products of words, with this many rows and words of k, go through matrix registers."""
    return target.has("amx-tile") and rows >= ROWS and words % STEP == 0


def tile(rows: int) -> Tile:
    """The tile that matrix registers compute."""
    return Tile(min(rows, 2 * ROWS), COLUMNS // 16, COLUMNS)


@dataclass(frozen=True)
class MatrixTile:
    """One tile function: rows up to 32; a_row: words from row to row of a; factors: what a word holds."""

    rows: int
    a_row: int
    factors: DType

    @property
    def name(self) -> str:
        return f"matrix_tile_{self.factors.name}_{self.rows}_{self.a_row}"


def configure(e: ValueEmitter, rows: int) -> None:
    """Configure the registers for tiles of `rows` rows."""
    e.void_call("llvm.x86.ldtilecfg", [_configuration(e.module, _heights(rows))])


def release(e: ValueEmitter) -> None:
    """Give the registers back."""
    e.void_call("llvm.x86.tilerelease", [])


def matrix_tile(e: FunctionEmitter, code: MatrixTile, configured: int) -> ir.Function:
    """The module's function `void tile(ptr a, ptr b, i64 words, ptr c)`, words > 0, emitted on first use.

    c receives rows x 32 sums without gaps. configured: rows for which the registers are, before and after.
    """
    found = e.module.globals.get(code.name)
    if found is not None:
        return found
    function = ir.Function(e.module, ir.FunctionType(VOID, [PTR, PTR, I64, PTR]), code.name)
    function.linkage = "internal"
    function.attributes = function_attributes(e.target, "noinline")
    values = ValueEmitter(e.module, ir.IRBuilder(function.append_basic_block("entry")), e.target)
    if code.rows != configured:
        configure(values, code.rows)
    _emit(function, values, code)
    if code.rows != configured:
        configure(values, configured)
    values.builder.ret_void()
    return function


def _emit(function: ir.Function, values: ValueEmitter, code: MatrixTile) -> None:
    b = values.builder
    a, panel, words, c = function.args
    panel = b.gep(panel, [I64(4 * COLUMNS * head(32 // code.factors.bits))], source_etype=I8)
    heights = _heights(code.rows)
    sums = [register for _, pair in zip(heights, _SUMS, strict=False) for register in pair]
    for register in sums:
        values.void_call("llvm.x86.tilezero", [I8(register)])
    entry, body, done = b.block, function.append_basic_block("k"), function.append_basic_block("done")
    b.branch(body)
    b.position_at_end(body)
    word = b.phi(I64)
    word.add_incoming(I64(0), entry)
    a_at = b.gep(a, [b.mul(word, I64(4))], source_etype=I8)
    b_at = b.gep(panel, [b.mul(word, I64(4 * COLUMNS))], source_etype=I8)
    for j, register in enumerate(_B):
        place = b.gep(b_at, [I64(ROW_BYTES * j)], source_etype=I8)
        values.void_call("llvm.x86.tileloadd64", [I8(register), place, I64(4 * COLUMNS)])
    for i, register in zip(range(len(heights)), _A, strict=False):
        place = b.gep(a_at, [I64(4 * code.a_row * ROWS * i)], source_etype=I8)
        values.void_call("llvm.x86.tileloadd64", [I8(register), place, I64(4 * code.a_row)])
        for j in range(len(_B)):
            values.void_call(_MULTIPLY[code.factors], [I8(_SUMS[i][j]), I8(register), I8(_B[j])])
    following = b.add(word, I64(STEP))
    word.add_incoming(following, body)
    b.cbranch(b.icmp_signed("<", following, words), body, done)
    b.position_at_end(done)
    for i in range(len(heights)):
        for j in range(len(_B)):
            place = b.gep(c, [I64(4 * COLUMNS * ROWS * i + ROW_BYTES * j)], source_etype=I8)
            values.void_call("llvm.x86.tilestored64", [I8(_SUMS[i][j]), place, I64(4 * COLUMNS)])


def _heights(rows: int) -> list[int]:
    """Rows of each of the one or two rows of registers that make a tile of `rows` rows."""
    return [min(rows, ROWS), *([rows - ROWS] if rows > ROWS else [])]


def _configuration(module: ir.Module, heights: list[int]) -> ir.Value:
    """The 64 bytes that say what each register holds: palette 1, bytes a row, rows."""
    name = f"tiles_{'_'.join(map(str, heights))}"
    found = module.globals.get(name)
    if found is not None:
        return found
    rows = dict.fromkeys(_B, ROWS)
    for height, sums, a in zip(heights, _SUMS, _A, strict=False):
        rows |= dict.fromkeys((*sums, a), height)
    data = bytearray(64)
    data[0] = 1
    for register, height in rows.items():
        data[16 + 2 * register] = ROW_BYTES
        data[48 + register] = height
    type_ = ir.ArrayType(I8, 64)
    variable = ir.GlobalVariable(module, type_, name)
    variable.linkage = "internal"
    variable.global_constant = True
    variable.align = 64
    variable.initializer = ir.Constant(type_, data)
    return variable
