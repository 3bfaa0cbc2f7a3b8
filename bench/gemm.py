"""Our matrix products beside NumPy's and PyTorch's, and beside the multiply-add ceiling measured in the same run.

    python bench/gemm.py [--threads N] [--rounds R] [--shapes all|minilm|square|skinny]

For each shape (M x K) by (K x N), f32, B packed beforehand as weights are: GFLOP/s of each, the ratio to the best peer,
and the share of the ceiling. Contenders take turns within each round, so that noise on a shared machine hits all alike;
the best round counts. Answers are compared first.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from rlx.backends.cpu.ceiling import measure_ceilings
from rlx.backends.cpu.host import resolve_target
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.kernel import Memory, Store, TemplateKernel, Var
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import optimized_text, target_machine
from rlx.codegen.lower.templates import Epilogue, MatmulSpec
from rlx.codegen.target import PRESETS, Target
from rlx.ir import dtypes

try:
    import torch
except ImportError:
    torch = None

SHAPES = {
    "square": [(n, n, n) for n in (256, 512, 1024, 2048)],
    "minilm": [(m, k, n) for m in (16, 128, 4096) for k, n in ((384, 384), (384, 1152), (384, 1536), (1536, 384))],
    "skinny": [(m, k, n) for m in (1, 2, 4) for k, n in ((384, 1536), (768, 3072), (2048, 8192))],
}


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


def ours(engine: Engine, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> tuple[Callable[[], None], float]:
    m, k = a.shape
    n = b.shape[1]
    acc, i, j = Var("acc", dtypes.f32), Var("i"), Var("j")
    c = Memory("c", dtypes.f32, (n, 1), writable=True)
    left = Memory("a", dtypes.f32, (k, 1))
    right = Memory("b", dtypes.f32, (n, 1))
    spec = MatmulSpec(dtypes.f32, dtypes.f32, dtypes.f32, (), (m,), (n,), (k,), left, right, b_constant=True)
    kernels = CpuTemplates(engine.target).matmul(spec, Epilogue(acc, (i, j), (Store(c, (i, j), acc),), (c,)))
    assert kernels is not None
    operand = b
    if kernels.pack is not None:
        operand = aligned(kernels.packed_nbytes)
        engine.kernel(kernels.pack, [b, operand])[0]()
    return engine.kernel(kernels.compute, [a, operand, out])


def contenders(
    engine: Engine, a: np.ndarray, b: np.ndarray
) -> tuple[dict[str, Callable[[], None]], np.ndarray, np.ndarray, float]:
    """A call each, our result and NumPy's, and the seconds that compiling ours took."""
    out, peer = np.zeros((2, a.shape[0], b.shape[1]), np.float32)
    run, seconds = ours(engine, a, b, out)
    calls: dict[str, Callable[[], None]] = {"rlx": run, "numpy": lambda: np.matmul(a, b, out=peer)}
    if torch is not None:
        ta, tb, tc = torch.from_numpy(a), torch.from_numpy(b), torch.empty(*out.shape)
        calls["torch"] = lambda: torch.mm(ta, tb, out=tc)
    return calls, out, peer, seconds


def measure(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Best seconds of each call; they take turns."""
    best = dict.fromkeys(calls, float("inf"))
    repeats = {}
    for name, call in calls.items():
        call()
        started = time.perf_counter()
        call()
        repeats[name] = max(1, int(0.02 / (time.perf_counter() - started)))
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            best[name] = min(best[name], (time.perf_counter() - started) / repeats[name])
    return best


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--shapes", choices=["all", *SHAPES], default="all")
    parser.add_argument("--target", default="native")
    options = parser.parse_args(argv)
    if torch is not None:
        torch.set_num_threads(options.threads)
    engine = Engine(PRESETS[resolve_target(options.target)], options.threads)
    ceiling = measure_ceilings(options.threads).flops / 1e9
    print(f"{engine.target.name}; ceiling of {options.threads} threads: {ceiling:.0f} GFLOP/s")
    print(f"{'M x K x N':>18} {'rlx':>7} {'numpy':>7} {'torch':>7}   GFLOP/s   rlx/best   of ceiling   compile ms")
    names = list(SHAPES) if options.shapes == "all" else [options.shapes]
    rng = np.random.default_rng(0)
    for m, k, n in [shape for name in names for shape in SHAPES[name]]:
        a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
        calls, out, peer, seconds = contenders(engine, a, b)
        for call in calls.values():
            call()
        error = np.abs(out - peer).max() / np.abs(peer).max()
        if error > 1e-4:
            print(f"answers differ for {m} x {k} x {n}: {error}", file=sys.stderr)
            return 1
        flops = 2e-9 * m * k * n
        rate = {name: flops / t for name, t in measure(calls, options.rounds).items()}
        best = max(rate[name] for name in rate if name != "rlx")
        print(
            f"{m:>6} x{k:>5} x{n:>5} {rate['rlx']:7.1f} {rate['numpy']:7.1f} {rate.get('torch', 0):7.1f} "
            f"{rate['rlx'] / best:18.2f} {rate['rlx'] / ceiling:12.0%} {seconds * 1e3:12.0f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
