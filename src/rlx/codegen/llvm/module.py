"""Modules of kernels: what one object file is made from."""

from __future__ import annotations

from llvmlite import ir

from rlx.codegen.kernel import Kernel, LoopKernel
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.loops import emit_loop_kernel
from rlx.codegen.llvm.overlap import emit_overlapped
from rlx.codegen.target import Target


def new_module(target: Target, name: str = "rlx") -> ir.Module:
    """An empty module for `target`, with a context of its own."""
    module = ir.Module(name, ir.Context())
    module.triple = target.triple
    return module


def emit_kernel(module: ir.Module, symbol: str, kernel: Kernel, target: Target) -> None:
    """Add `kernel` to `module` as the function `symbol` of the native kernel ABI. Raises UnsupportedKernel."""
    f = FunctionEmitter(module, symbol, kernel, target)
    if isinstance(kernel, LoopKernel):
        if not emit_overlapped(f, kernel):
            emit_loop_kernel(f, kernel)
    else:
        kernel.emit(f)
    f.finish()
