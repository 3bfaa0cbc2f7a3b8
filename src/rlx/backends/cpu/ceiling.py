"""What this machine can do at best: f32 multiply-adds and reads from memory, measured, never looked up.

Two loops that LLVM cannot shorten run on as many threads as a program would use: one keeps a dozen vector accumulators
of fused multiply-adds in registers, the other adds up an array far larger than the caches. The best of several rounds
counts, since other work on the machine can only make a round slower. Shares of these ceilings say how much of the
machine a program uses.

Imports llvmlite; takes about a second. Threads are started and joined inside the call.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import llvmlite.binding as llvm
import numpy as np

from rlx.backends.cpu.host import resolve_target
from rlx.codegen.target import PRESETS, Target

_ACCUMULATORS = 12
_ROUNDS = 7
_FMA_STEPS = 2_000_000
_READ_BYTES = 256 << 20


@dataclass(frozen=True)
class Ceilings:
    """Of `threads` threads together: f32 floating-point operations (an FMA is two) and bytes read, each a second."""

    threads: int
    flops: float
    read_bytes: float

    def least_seconds(self, flops: float, read_bytes: float) -> float:
        """The least time that this work can take: the arithmetic or the reading, whichever is longer."""
        return max(flops / self.flops, read_bytes / self.read_bytes)


def measure_ceilings(threads: int) -> Ceilings:
    """Measure with `threads` threads at once. Raises OptionError where this machine has no target."""
    target = PRESETS[resolve_target("native")]
    lanes = target.lanes(32)
    engine = _compile(_module(target, lanes), target)
    fma = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(engine.get_function_address("fma"))
    read = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address("read"))
    sinks = [np.zeros(lanes, np.float32) for _ in range(threads)]
    share = _READ_BYTES // threads // (lanes * 4 * _ACCUMULATORS) * (lanes * 4 * _ACCUMULATORS)
    arrays = [np.ones(share // 4, np.float32) for _ in range(threads)]
    flops = 2.0 * lanes * _ACCUMULATORS * _FMA_STEPS * threads
    return Ceilings(
        threads=threads,
        flops=flops / _fastest([lambda s=sink: fma(_FMA_STEPS, s.ctypes.data) for sink in sinks]),
        read_bytes=share
        * threads
        / _fastest(
            [
                lambda a=array, s=sink: read(share // (lanes * 4 * _ACCUMULATORS), a.ctypes.data, s.ctypes.data)
                for array, sink in zip(arrays, sinks, strict=True)
            ]
        ),
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
    """LLVM IR of `fma(steps, sink)` and `read(steps, source, sink)`."""
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
define void @read(i64 %steps, ptr %source, ptr %sink) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{_lines(f"  %a{k} = phi {vector} [ zeroinitializer, %entry ], [ %b{k}, %loop ]" for k in every)}
  %base = mul i64 %i, {_ACCUMULATORS}
{_lines(f"  %i{k} = add i64 %base, {k}" for k in every)}
{_lines(f"  %p{k} = getelementptr {vector}, ptr %source, i64 %i{k}" for k in every)}
{_lines(f"  %v{k} = load {vector}, ptr %p{k}, align 4" for k in every)}
{_lines(f"  %b{k} = fadd {vector} %a{k}, %v{k}" for k in every)}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %steps
  br i1 %more, label %loop, label %exit
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
