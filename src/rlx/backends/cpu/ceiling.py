"""What this machine can do at best: multiply-adds, reads from each level of memory, copies; measured, never looked up.

Loops that LLVM cannot shorten (`rlx.backends.cpu.ceiling_loops`) run on as many threads as a program would use: fused
multiply-adds of f32 and f64 in registers, and the dot products of bf16 and of 8-bit integers, in vectors and in AMX's
matrix registers, the fastest of which counts; sums of an array, again and again: half of a cache for that cache's rate,
an array far larger than all of them for DRAM's; a copy of such an array past the caches. The best of several rounds
counts, since other work on the machine can only make a round slower. Only the caches' sizes are taken from the system;
where it does not tell, there are none.

Imports llvmlite; takes about a second. Threads are started and joined inside the call.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

import llvmlite.binding as llvm
import numpy as np

from rlx.backends.cpu.ceiling_loops import (
    ACCUMULATORS,
    COPY_STEP,
    SINK_BYTES,
    arithmetic,
    copy_loop,
    multiply_loop,
    read_loop,
)
from rlx.backends.cpu.host import PRECISION_FLAGS, cache_sizes, resolve_target, suited_targets
from rlx.codegen.target import PRESETS, Target
from rlx.driver import Ceilings, MemoryLevel

_ROUNDS = 7
_READ_BYTES = 256 << 20
_COPY_BYTES = 128 << 20
_LINE = 64


def measure_ceilings(threads: int) -> Ceilings:
    """Measure with `threads` threads at once. Raises OptionError where this machine has no target."""
    target = PRESETS[resolve_target("native")]
    engine = _compile(read_loop(target.lanes(32)) + copy_loop(target.lanes(32)), target)
    read = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 2)(engine.get_function_address("read"))
    copy = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 2)(engine.get_function_address("copy"))
    sinks = [np.zeros(SINK_BYTES, np.uint8) for _ in range(threads)]
    step = target.lanes(32) * 4 * ACCUMULATORS

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

    def copies() -> float:
        """Bytes a second, read and written, when each thread copies its own share of a large array."""
        steps = _COPY_BYTES // threads // COPY_STEP
        pairs = [[np.ones(steps * COPY_STEP + _LINE, np.uint8) for _ in range(2)] for _ in range(threads)]
        lines = [[_first_line(array) for array in pair] for pair in pairs]
        seconds = _fastest([lambda s=source, t=target: copy(steps, s, t) for source, target in lines])
        return 2 * steps * COPY_STEP * threads / seconds

    operations = _operations(sinks)
    levels = [(name, size * (threads if private else 1)) for name, size, private in cache_sizes()]
    return Ceilings(
        threads=threads,
        flops=operations.pop("f32"),
        read_bytes=reads(_READ_BYTES),
        levels=tuple(MemoryLevel(name, size, reads(size // 2)) for name, size in levels),
        copy_bytes=copies(),
        products=operations,
    )


def _operations(sinks: list[np.ndarray]) -> dict[str, float]:
    """Operations a second of the fastest multiply-add that there is here for each dtype of factors."""
    found: dict[str, float] = {}
    measured: set[str] = set()
    suited = [target for precision in PRECISION_FLAGS for target in suited_targets(precision)]
    for target in (PRESETS[name] for name in (resolve_target("native"), *suited)):
        for kind in arithmetic(target):
            if kind.call in measured:
                continue
            measured.add(kind.call)
            engine = _compile(multiply_loop(kind), target)
            loop = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(engine.get_function_address(kind.name))
            seconds = _fastest([lambda s=sink, f=loop, n=kind.steps: f(n, s.ctypes.data) for sink in sinks])
            rate = kind.operations * ACCUMULATORS * kind.steps * len(sinks) / seconds
            found[kind.name] = max(rate, found.get(kind.name, 0.0))
    return found


def _first_line(array: np.ndarray) -> int:
    """The first address in the array at which a line begins."""
    return -(-array.ctypes.data // _LINE) * _LINE


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
    module = llvm.parse_assembly(f'target triple = "{target.triple}"\n{text}')
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=",".join(target.features), opt=2
    )
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine
