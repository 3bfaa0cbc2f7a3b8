"""LLVM IR from kernels: explicit vectors, our own elementary functions, object code."""

from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import assembly, compile_module

__all__ = ["FunctionEmitter", "assembly", "compile_module", "emit_kernel", "new_module"]
