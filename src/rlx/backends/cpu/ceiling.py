"""What this machine can do at best: f32 multiply-adds and reads from each level of memory, measured, never looked up.

Two loops that LLVM cannot shorten run on as many threads as a program would use: one keeps a dozen vector accumulators
of fused multiply-adds in registers, the other adds up an array, again and again: half of a cache for that cache's rate,
an array far larger than all of them for DRAM's. The best of several rounds counts, since other work on the machine can
only make a round slower. Only the caches' sizes are taken from the system; where it does not tell, there are none.

Imports llvmlite; takes about a second. Threads are started and joined inside the call.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterable

import llvmlite.binding as llvm
import numpy as np

from rlx.backends.cpu.host import cache_sizes, resolve_target
from rlx.codegen.target import PRESETS, Target
from rlx.driver import Ceilings, MemoryLevel

_ACCUMULATORS = 12
_ROUNDS = 7
_FMA_STEPS = 2_000_000
_READ_BYTES = 256 << 20


def measure_ceilings(threads: int) -> Ceilings:
    """Measure with `threads` threads at once. Raises OptionError where this machine has no target."""
    target = PRESETS[resolve_target("native")]
    lanes = target.lanes(32)
    engine = _compile(_module(target, lanes), target)
    fma = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(engine.get_function_address("fma"))
    read = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 2)(engine.get_function_address("read"))
    sinks = [np.zeros(lanes, np.float32) for _ in range(threads)]
    step = lanes * 4 * _ACCUMULATORS

    def reads(nbytes: int) -> float:
        """Bytes a second when each thread reads its own share of nbytes bytes, over and over."""
        steps = max(1, nbytes // threads // step)
        turns = -(-_READ_BYTES // (steps * step * threads))
        arrays = [np.ones(steps * step // 4, np.float32) for _ in range(threads)]
        seconds = _fastest(
            [
                lambda a=array, s=sink: read(turns, steps, a.ctypes.data, s.ctypes.data)
                for array, sink in zip(arrays, sinks, strict=True)
            ]
        )
        return turns * steps * step * threads / seconds

    flops = 2.0 * lanes * _ACCUMULATORS * _FMA_STEPS * threads
    seconds = _fastest([lambda s=sink: fma(_FMA_STEPS, s.ctypes.data) for sink in sinks])
    levels = [(name, size * (threads if private else 1)) for name, size, private in cache_sizes()]
    return Ceilings(
        threads=threads,
        flops=flops / seconds,
        read_bytes=reads(_READ_BYTES),
        levels=tuple(MemoryLevel(name, size, reads(size // 2)) for name, size in levels),
    )


def _fastest(works: list[Callable[[], None]]) -> float:
    """Seconds of the best round in which all works run at once, each on its own thread."""
    gate = threading.Barrier(len(works) + 1)

    def loop(work: Callable[[], None]) -> None:
        for _ in range(_ROUNDS):
            gate.wait()
            work()
            gate.wait()

    workers = [threading.Thread(target=loop, args=(work,), daemon=True) for work in works]
    for worker in workers:
        worker.start()
    rounds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()  # before the gate opens: a worker may run on before this thread does
        gate.wait()
        gate.wait()
        rounds.append(time.perf_counter() - start)
    for worker in workers:
        worker.join()
    return min(rounds)


def _compile(text: str, target: Target) -> llvm.ExecutionEngine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=",".join(target.features), opt=2
    )
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def _module(target: Target, lanes: int) -> str:
    """LLVM IR of `fma(steps, sink)` and `read(turns, steps, source, sink)`."""
    vector = f"<{lanes} x float>"
    every = range(_ACCUMULATORS)
    multiply = f"""
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
define void @fma(i64 %steps, ptr %sink) {{
entry:
  %x = load {vector}, ptr %sink, align 4
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{_lines(f"  %a{k} = phi {vector} [ %x, %entry ], [ %b{k}, %loop ]" for k in every)}
{_lines(f"  %b{k} = call {vector} @llvm.fma.v{lanes}f32({vector} %a{k}, {vector} %x, {vector} %x)" for k in every)}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %steps
  br i1 %more, label %loop, label %exit
exit:
{_sum(vector)}
  store {vector} %s{_ACCUMULATORS - 1}, ptr %sink, align 4
  ret void
}}"""
    read = f"""
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
  %base = mul i64 %i, {_ACCUMULATORS}
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
{_sum(vector)}
  store {vector} %s{_ACCUMULATORS - 1}, ptr %sink, align 4
  ret void
}}"""
    return f'target triple = "{target.triple}"\n{multiply}\n{read}\n'


def _sum(vector: str) -> str:
    """The accumulators %b0.. added up, so that none can be dropped."""
    first = f"  %s1 = fadd {vector} %b0, %b1"
    return _lines([first, *(f"  %s{k} = fadd {vector} %s{k - 1}, %b{k}" for k in range(2, _ACCUMULATORS))])


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
