"""From modules to object code: optimise, then emit ELF.

Kernels arrive as vectors already, so LLVM's own vectorisers and unroller stay off and what is left of its pipeline is
the scalar part: promotion to registers, common subexpressions, invariant code, addresses. Objects are relocatable,
position independent, small code model, and carry no unwind tables; their undefined symbols are those of libc and libm.

LLVM is initialised on first use, once a process. One module is compiled by one thread at a time; different modules are
compiled by different threads at once. How kernels are shared out among modules does not depend on how many threads
there are, and so neither does their code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from llvmlite.binding import ffi

from rlx.codegen.kernel import Kernel
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.written import WrittenModule
from rlx.codegen.target import Target
from rlx.errors import EmitError

#: Kernels of one module: they share the functions that several of them call, which are then compiled once.
TOGETHER = 8


def compile_kernels(kernels: Iterable[tuple[str, Kernel]], target: Target, extra: Sequence[str] = ()) -> bytes:
    """One object that defines each kernel under its symbol, and what the LLVM modules in `extra` define.

    Raises UnsupportedKernel for a kernel without code, EmitError where LLVM refuses what was emitted.
    """
    module = new_module(target)
    for symbol, kernel in kernels:
        emit_kernel(module, symbol, kernel, target)
    return compile_module(module, target, extra)


def compile_together(
    kernels: Iterable[tuple[str, Kernel]], target: Target, extra: Sequence[str] = (), *, threads: int = 1
) -> list[bytes]:
    """Objects, each of which defines the next TOGETHER kernels or what one of the modules in `extra` defines.

    threads: how many compile at once. An interrupt (KeyboardInterrupt) waits for the modules that they are at.
    Raises as `compile_kernels`.
    """
    _initialize()
    with ThreadPoolExecutor(threads, "rlx-compile") as pool:
        try:
            pending = [pool.submit(compile_module, text, target) for text in extra]
            named = list(kernels)
            for at in range(0, len(named), TOGETHER):
                module = WrittenModule(target)
                for symbol, kernel in named[at : at + TOGETHER]:
                    module.add(symbol, kernel)
                pending.append(pool.submit(compile_module, module.text(), target))
            objects = [each.result() for each in pending]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [*objects[len(extra) :], *objects[: len(extra)]]


def compile_module(module: ir.Module | str, target: Target, extra: Sequence[str] = ()) -> bytes:
    """The relocatable ELF object of a module (and of `extra`, linked into it)."""
    with _optimized(module, target, extra) as (parsed, machine):
        return _emit_object(parsed, machine)


def assembly(module: ir.Module | str, target: Target) -> str:
    """The module as the target's assembler text, for people."""
    with _optimized(module, target, ()) as (parsed, machine):
        return machine.emit_assembly(parsed)


def optimized_text(module: ir.Module | str, target: Target) -> str:
    """The module as LLVM text after the passes, for people."""
    with _optimized(module, target, ()) as (parsed, _):
        return str(parsed)


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def target_machine(target: Target) -> llvm.TargetMachine:
    """LLVM's code generator for the target. Machines keep state: make one for each compilation."""
    _initialize()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=",".join(target.features), opt=2, reloc="pic", codemodel="small"
    )


@contextmanager
def _optimized(
    module: ir.Module | str, target: Target, extra: Sequence[str]
) -> Iterator[tuple[llvm.ModuleRef, llvm.TargetMachine]]:
    machine = target_machine(target)
    try:
        context = llvm.create_context()
        parsed = llvm.parse_assembly(str(module), context)
        parsed.data_layout = str(machine.target_data)
        parsed.triple = target.triple
        for text in extra:
            other = llvm.parse_assembly(text, context)
            other.data_layout = str(machine.target_data)
            other.triple = target.triple
            parsed.link_in(other)
        parsed.verify()
    except RuntimeError as error:
        raise EmitError("LLVM refuses an emitted module", where=str(error)) from error
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_interleaving = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    _unlocked(ffi.lib.LLVMPY_RunNewModulePassManager)(passes, parsed, builder)
    _dispose(passes)
    yield parsed, machine
    parsed.close()


def _dispose(passes: llvm.ModulePassManager) -> None:
    """Free a pass manager, some 60 KB: llvmlite 0.50 means to when the object ends, and does not."""
    pointer = passes._ptr
    passes.detach()
    ffi.lib.LLVMPY_DisposeNewModulePassManger(pointer)


def _emit_object(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> bytes:
    """As `machine.emit_object(module)`, beside other threads."""
    with ffi.OutputString() as refusal:
        buffer = _unlocked(ffi.lib.LLVMPY_TargetMachineEmitToMemory)(machine, module, 1, refusal)
        if not buffer:
            raise EmitError("LLVM cannot emit a module", where=str(refusal))
    try:
        return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def _unlocked(function: Any) -> Callable[..., Any]:
    """A function of llvmlite's library without the lock that llvmlite holds around every call of any.

    LLVM lets threads work at once on modules of different contexts, and every module here has a context of its own.
    """
    return getattr(function, "_cfn", function)
