"""Our matrix products beside NumPy's and PyTorch's, and beside the multiply-add ceiling.

    python bench/gemm.py [--threads N] [--rounds R] [--shapes all|minilm|square|skinny] [--precision f32|bf16]

For each shape (M x K) by (K x N), B packed beforehand as weights are: GFLOP/s of each, the ratio to the best peer, and
the share of the ceiling: a loop that multiplies and adds registers, with the same instruction. The ceiling and the
contenders take turns within each round, so that noise on a shared machine hits all alike; the best round counts. With
one thread the clock is that thread's own, which stands still while another process has the processor. Answers are
compared first. NumPy computes in f32 whatever the precision.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
from llvmlite import ir

from rlx.backends.cpu.gemm_tile import multiply_add, words_of_products
from rlx.backends.cpu.host import resolve_target
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.kernel import Memory, Store, TemplateKernel, Var
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import optimized_text, target_machine
from rlx.codegen.llvm.types import I64, real
from rlx.codegen.lower.templates import Epilogue, MatmulSpec
from rlx.codegen.target import PRESETS, Target
from rlx.ir import dtypes
from rlx.ir.dtypes import DType

try:
    import torch
except ImportError:
    torch = None

SHAPES = {
    "square": [(n, n, n) for n in (256, 512, 1024, 2048, 4096)],
    "minilm": [(m, k, n) for m in (16, 128, 4096) for k, n in ((384, 384), (384, 1152), (384, 1536), (1536, 384))],
    "skinny": [(m, k, n) for m in (1, 2, 4) for k, n in ((384, 1536), (768, 3072), (2048, 8192))],
}
#: Accumulators of the ceiling's loop and its turns: some 2 ms.
CHAINS, TURNS = 24, 100_000
DTYPES = {"f32": dtypes.f32, "bf16": dtypes.bf16}


class Engine:
    """Machine code for kernels, and threads that share a grid."""

    def __init__(self, target: Target, threads: int) -> None:
        self.target, self.threads = target, threads
        self._kept: list[object] = []
        self._workers = ThreadPoolExecutor(threads)

    def code(self, module: ir.Module, name: str) -> int:
        machine = target_machine(self.target)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(optimized_text(module, self.target)), machine)
        engine.finalize_object()
        self._kept.append(engine)
        return engine.get_function_address(name)

    def kernel(self, kernel: TemplateKernel, arrays: Sequence[np.ndarray]) -> tuple[Callable[[], None], float]:
        """A call that runs the kernel over its whole grid, and the seconds that compiling took."""
        started = time.perf_counter()
        module = new_module(self.target)
        emit_kernel(module, "kernel", kernel, self.target)
        address = self.code(module, "kernel")
        seconds = time.perf_counter() - started
        types = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2
        entry = ctypes.CFUNCTYPE(None, *types)(address)
        pointers = (ctypes.c_void_p * len(arrays))(*[a.ctypes.data for a in arrays])
        scratch = [aligned(kernel.scratch_bytes) for _ in range(self.threads)]
        grid, threads = kernel.grid, self.threads
        parts = [(grid * t // threads, grid * (t + 1) // threads) for t in range(threads)]

        def run_part(t: int) -> None:
            entry(pointers, None, scratch[t].ctypes.data, *parts[t])

        def run() -> None:
            for part in [self._workers.submit(run_part, t) for t in range(1, threads)]:
                run_part(0)
                part.result()
            if threads == 1:
                run_part(0)

        self._kept += [scratch, pointers, list(arrays)]
        return run, seconds


def aligned(nbytes: int) -> np.ndarray:
    """Zeroed bytes from a cache line on."""
    raw = np.zeros(nbytes + 64, np.uint8)
    return raw[-raw.ctypes.data % 64 :]


def ceiling(engine: Engine, dtype: DType) -> tuple[Callable[[], None], float]:
    """A call that multiplies and adds registers on every thread, and how many operations that is."""
    target, sink = engine.target, Memory("sink", dtypes.f32, (1,), writable=True)
    lanes = target.lanes(32)

    def emit(e: FunctionEmitter) -> None:
        place = e.element_pointer(e.scratch, dtypes.f32, I64(0))
        x = real(e.load_lanes(place, dtypes.f32, lanes))
        sums = [e.cell(x) for _ in range(CHAINS)]
        with e.loop(I64(0), I64(TURNS)):
            for cell in sums:
                e.write_cell(cell, multiply_add(e, x, x, real(e.read_cell(cell)), dtype))
        for cell in sums:
            x = e.builder.fadd(x, real(e.read_cell(cell)))
        e.store_lanes(place, dtypes.f32, x, lanes)

    kernel = TemplateKernel("ceiling", (sink,), engine.threads, "ceiling", emit, scratch_bytes=lanes * 4)
    factors = words_of_products(target, dtype, dtypes.f32)
    run, _ = engine.kernel(kernel, [np.zeros(lanes, np.float32)])
    return run, 2.0 * factors * lanes * CHAINS * TURNS * engine.threads


def ours(
    engine: Engine, a: np.ndarray, b: np.ndarray, out: np.ndarray, dtype: DType
) -> tuple[Callable[[], None], float]:
    m, k = a.shape
    n = b.shape[1]
    acc, i, j = Var("acc", dtypes.f32), Var("i"), Var("j")
    c = Memory("c", dtypes.f32, (n, 1), writable=True)
    left, right = Memory("a", dtype, (k, 1)), Memory("b", dtype, (n, 1))
    spec = MatmulSpec(dtype, dtype, dtypes.f32, (), (m,), (n,), (k,), left, right, b_constant=True)
    kernels = CpuTemplates(engine.target).matmul(spec, Epilogue(acc, (i, j), (Store(c, (i, j), acc),), (c,)))
    assert kernels is not None
    operand = b
    if kernels.pack is not None:
        operand = aligned(kernels.packed_nbytes)
        engine.kernel(kernels.pack, [b, operand])[0]()
    return engine.kernel(kernels.compute, [a, operand, out])


def contenders(
    engine: Engine, a: np.ndarray, b: np.ndarray, dtype: DType
) -> tuple[dict[str, Callable[[], None]], np.ndarray, np.ndarray, float]:
    """A call each, our result and NumPy's, and the seconds that compiling ours took."""
    out, peer = np.zeros((2, a.shape[0], b.shape[1]), np.float32)
    run, seconds = ours(engine, *(np.ascontiguousarray(x.astype(dtype.numpy)) for x in (a, b)), out, dtype)
    calls: dict[str, Callable[[], None]] = {"rlx": run, "numpy": lambda: np.matmul(a, b, out=peer)}
    if torch is not None:
        kind = torch.float32 if dtype is dtypes.f32 else torch.bfloat16
        ta, tb = torch.from_numpy(a).to(kind), torch.from_numpy(b).to(kind)
        tc = torch.empty(*out.shape, dtype=kind)
        calls["torch"] = lambda: torch.mm(ta, tb, out=tc)
    return calls, out, peer, seconds


def measure(calls: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Best seconds of each call; they take turns."""
    best = dict.fromkeys(calls, float("inf"))
    repeats = {}
    for name, call in calls.items():
        call()
        started = clock()
        call()
        repeats[name] = max(1, int(0.005 / (clock() - started)))
    for _ in range(rounds):
        for name, call in calls.items():
            started = clock()
            for _ in range(repeats[name]):
                call()
            best[name] = min(best[name], (clock() - started) / repeats[name])
    return best


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--shapes", choices=["all", *SHAPES], default="all")
    parser.add_argument("--target", default="native")
    parser.add_argument("--precision", choices=list(DTYPES), default="f32")
    options = parser.parse_args(argv)
    if os.environ.get("OPENBLAS_NUM_THREADS") != str(options.threads):  # NumPy's BLAS reads it when it is loaded
        os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)
        os.execv(sys.executable, [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)])
    if torch is not None:
        torch.set_num_threads(options.threads)
    dtype = DTYPES[options.precision]
    engine = Engine(PRESETS[resolve_target(options.target, options.precision)], options.threads)
    limit, operations = ceiling(engine, dtype)
    print(f"{engine.target.name}, {options.threads} threads, {options.precision}; GFLOP/s")
    print(f"{'M x K x N':>18} {'rlx':>7} {'numpy':>7} {'torch':>7}   rlx/best {'ceiling':>9}  share  compile ms")
    names = list(SHAPES) if options.shapes == "all" else [options.shapes]
    rng = np.random.default_rng(0)
    for m, k, n in [shape for name in names for shape in SHAPES[name]]:
        # whole bf16 numbers, so that every contender has the same operands
        a, b = (rng.standard_normal(s).astype(ml_dtypes.bfloat16).astype(np.float32) for s in ((m, k), (k, n)))
        calls, out, peer, seconds = contenders(engine, a, b, dtype)
        for call in calls.values():
            call()
        error = np.abs(out - peer).max() / np.abs(peer).max()
        if error > 1e-4:
            print(f"answers differ for {m} x {k} x {n}: {error}", file=sys.stderr)
            return 1
        clock = time.thread_time if options.threads == 1 else time.perf_counter
        best = measure({"ceiling": limit, **calls}, options.rounds, clock)
        top = 1e-9 * operations / best.pop("ceiling")
        rate = {name: 2e-9 * m * k * n / t for name, t in best.items()}
        peers = max(rate[name] for name in rate if name != "rlx")
        print(
            f"{m:>6} x{k:>5} x{n:>5} {rate['rlx']:7.1f} {rate['numpy']:7.1f} {rate.get('torch', 0):7.1f} "
            f"{rate['rlx'] / peers:10.2f} {top:9.1f} {rate['rlx'] / top:6.0%} {seconds * 1e3:11.0f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
