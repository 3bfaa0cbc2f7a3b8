"""LLVM IR of the loops that measure a machine: arithmetic in registers, reading, copying. LLVM cannot shorten them.

Each function works on one thread. Arithmetic keeps a dozen vector accumulators busy, enough to hide the latency of any
processor we know, or four of AMX's matrix registers, which take 16 cycles each; reading adds up what it loads; copying
stores past the caches, as a result that nobody reads soon.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rlx.codegen.target import Target

ACCUMULATORS = 12
#: Bytes that one step of `copy` moves: lines of the cache, whole.
COPY_STEP = 256
#: Bytes of the sink of arithmetic: a matrix register.
SINK_BYTES = 1024


@dataclass(frozen=True)
class Arithmetic:
    """One multiply-add instruction: `sums` = `call` of factors read as `factors`, and how many operations it does.

    needs: the target feature without which the instruction is missing; "" where there is always one.
    steps: how many make a measurement of some milliseconds.
    """

    name: str
    needs: str
    sums: str
    factors: str
    call: str
    operations: int
    steps: int = 2_000_000

    @property
    def in_matrix_registers(self) -> bool:
        return self.needs.startswith("amx")


def arithmetic(target: Target) -> list[Arithmetic]:
    """The multiply-adds of the target, f32's first: vectors of f32 and f64, pairs of bf16, fours of 8-bit integers."""
    lanes, doubles = target.lanes(32), target.lanes(64)
    own, wide = f"<{lanes} x float>", f"<{doubles} x double>"
    found = [
        Arithmetic("f32", "", own, own, f"@llvm.fma.v{lanes}f32", 2 * lanes),
        Arithmetic("f64", "", wide, wide, f"@llvm.fma.v{doubles}f64", 2 * doubles),
    ]
    if target.has("avx512bf16"):
        pairs = "<32 x bfloat>"
        found.append(Arithmetic("bf16", "avx512bf16", own, pairs, "@llvm.x86.avx512bf16.dpbf16ps.512", 4 * lanes))
    if target.has("avx512vnni"):
        found.append(
            Arithmetic("i8", "avx512vnni", "<16 x i32>", "<64 x i8>", "@llvm.x86.avx512.vpdpbusd.512", 8 * lanes)
        )
    if target.has("amx-bf16"):
        found.append(Arithmetic("bf16", "amx-bf16", "", "", "@llvm.x86.tdpbf16ps", 2 * 16 * 16 * 32, 100_000))
    if target.has("amx-int8"):
        found.append(Arithmetic("i8", "amx-int8", "", "", "@llvm.x86.tdpbssd", 2 * 16 * 16 * 64, 100_000))
    return found


def multiply_loop(kind: Arithmetic) -> str:
    """`void NAME(i64 steps, ptr sink)`: ACCUMULATORS multiply-adds a step; sink, SINK_BYTES, is read and written."""
    if kind.in_matrix_registers:
        return _tile_loop(kind)
    every, sums, factors = range(ACCUMULATORS), kind.sums, kind.factors
    if not kind.needs:  # fma(a, b, sum): the sum comes last, in dot products first
        signature, steps = f"{factors}, {factors}, {sums}", [f"{factors} %x, {factors} %x, {sums} %a{k}" for k in every]
    else:
        signature, steps = f"{sums}, {factors}, {factors}", [f"{sums} %a{k}, {factors} %x, {factors} %x" for k in every]
    return f"""
declare {sums} {kind.call}({signature})
define void @{kind.name}(i64 %steps, ptr %sink) {{
entry:
  %first = load {sums}, ptr %sink, align 4
  %x = load {factors}, ptr %sink, align 4
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{_lines(f"  %a{k} = phi {sums} [ %first, %entry ], [ %b{k}, %loop ]" for k in every)}
{_lines(f"  %b{k} = call {sums} {kind.call}({steps[k]})" for k in every)}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %steps
  br i1 %more, label %loop, label %exit
exit:
{_total(sums)}
  ret void
}}"""


def _tile_loop(kind: Arithmetic) -> str:
    """As `multiply_loop`: products of the registers 4 and 5 by 6 and 7 in turns, summed in the registers 0 to 3."""
    every = range(8)
    configuration = [1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8]  # palette; bytes a row; rows
    calls = (f"  call void {kind.call}(i8 {k % 4}, i8 {4 + k % 4 // 2}, i8 {6 + k % 2})" for k in range(ACCUMULATORS))
    return f"""
@tiles = internal constant [64 x i8] [{", ".join(f"i8 {n}" for n in configuration)}], align 64
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)
declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)
declare void {kind.call}(i8 immarg, i8 immarg, i8 immarg)
define void @{kind.name}(i64 %steps, ptr %sink) {{
entry:
  call void @llvm.x86.ldtilecfg(ptr @tiles)
{_lines(f"  call void @llvm.x86.tileloadd64(i8 {k}, ptr %sink, i64 64)" for k in every)}
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{_lines(calls)}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %steps
  br i1 %more, label %loop, label %exit
exit:
{_lines(f"  call void @llvm.x86.tilestored64(i8 {k}, ptr %sink, i64 64)" for k in range(4))}
  call void @llvm.x86.tilerelease()
  ret void
}}"""


def read_loop(lanes: int) -> str:
    """`void read(i64 turns, i64 steps, ptr source, ptr sink)`: the source, steps x ACCUMULATORS vectors, each turn."""
    vector, every = f"<{lanes} x float>", range(ACCUMULATORS)
    return f"""
define void @read(i64 %turns, i64 %steps, ptr %source, ptr %sink) {{
entry:
  br label %turn
turn:
  %t = phi i64 [ 0, %entry ], [ %later, %again ]
{_lines(f"  %c{k} = phi {vector} [ zeroinitializer, %entry ], [ %b{k}, %again ]" for k in every)}
  br label %loop
loop:
  %i = phi i64 [ 0, %turn ], [ %next, %loop ]
{_lines(f"  %a{k} = phi {vector} [ %c{k}, %turn ], [ %b{k}, %loop ]" for k in every)}
  %base = mul i64 %i, {ACCUMULATORS}
{_lines(f"  %i{k} = add i64 %base, {k}" for k in every)}
{_lines(f"  %p{k} = getelementptr {vector}, ptr %source, i64 %i{k}" for k in every)}
{_lines(f"  %v{k} = load {vector}, ptr %p{k}, align 4" for k in every)}
{_lines(f"  %b{k} = fadd {vector} %a{k}, %v{k}" for k in every)}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %steps
  br i1 %more, label %loop, label %again
again:
  %later = add i64 %t, 1
  %on = icmp slt i64 %later, %turns
  br i1 %on, label %turn, label %exit
exit:
{_total(vector)}
  ret void
}}"""


def copy_loop(lanes: int) -> str:
    """`void copy(i64 steps, ptr source, ptr target)`: COPY_STEP bytes a step, both pointers on lines of 64 bytes."""
    vector, every = f"<{lanes} x float>", range(COPY_STEP // (4 * lanes))
    return f"""
define void @copy(i64 %steps, ptr %source, ptr %target) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %base = mul i64 %i, {len(every)}
{_lines(f"  %i{k} = add i64 %base, {k}" for k in every)}
{_lines(f"  %p{k} = getelementptr {vector}, ptr %source, i64 %i{k}" for k in every)}
{_lines(f"  %v{k} = load {vector}, ptr %p{k}, align {4 * lanes}" for k in every)}
{_lines(f"  %q{k} = getelementptr {vector}, ptr %target, i64 %i{k}" for k in every)}
{_lines(f"  store {vector} %v{k}, ptr %q{k}, align {4 * lanes}, !nontemporal !0" for k in every)}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %steps
  br i1 %more, label %loop, label %exit
exit:
  fence seq_cst
  ret void
}}
!0 = !{{i32 1}}"""


def _total(vector: str) -> str:
    """The accumulators %b0.. added up and stored to %sink, so that none can be dropped."""
    add = "add" if "i32" in vector else "fadd"
    sums = [f"  %s1 = {add} {vector} %b0, %b1"]
    sums += [f"  %s{k} = {add} {vector} %s{k - 1}, %b{k}" for k in range(2, ACCUMULATORS)]
    return _lines([*sums, f"  store {vector} %s{ACCUMULATORS - 1}, ptr %sink, align 4"])


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
