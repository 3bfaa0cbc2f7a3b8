"""Run kernels in this process: emit, compile to an object as the backend does, load it, call it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import llvmlite.binding as llvm
import numpy as np

from rlx.backends.cpu.host import supported_targets
from rlx.codegen.kernel import Apply, Const, Expr, Kernel, Load, Loop, LoopKernel, Memory, Store, Var
from rlx.codegen.llvm.object import compile_kernels, target_machine
from rlx.codegen.target import PRESETS, Target
from rlx.ir.dtypes import DType, from_numpy, i64

TARGETS = [PRESETS[name] for name in supported_targets()]
SIZES = (0, 1, 15, 16, 17, 33, 1000)


class Loaded:
    """Kernels loaded from one object: name -> call."""

    def __init__(self, kernels: Mapping[str, Kernel], target: Target) -> None:
        self._kernels = dict(kernels)
        self.object = compile_kernels([(_symbol(n), k) for n, k in kernels.items()], target)
        machine = target_machine(target)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(self.object))
        self._engine.finalize_object()

    def __call__(
        self, name: str, *arrays: np.ndarray, grid: int | tuple[int, int] = 1, sizes: tuple[int, ...] = ()
    ) -> None:
        """Run grid indices of one kernel; arrays match its arguments and are written in place."""
        kernel = self._kernels[name]
        begin, end = (0, grid) if isinstance(grid, int) else grid
        addresses = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        values = (ctypes.c_int64 * max(1, len(sizes)))(*sizes)
        scratch = np.zeros(kernel.scratch_bytes + 64, np.uint8)
        aligned = scratch.ctypes.data + -scratch.ctypes.data % 64
        prototype = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
        )
        function = prototype(self._engine.get_function_address(_symbol(name)))
        function(ctypes.addressof(addresses), ctypes.addressof(values), aligned, begin, end)


def _symbol(name: str) -> str:
    """No kernel may bear the name of a function of libc."""
    return f"kernel_{name}"


def index(value: int) -> Const:
    return Const(value, i64)


def pointwise_kernel(op: str, sources: list[DType], to: DType, *, unroll: int = 1) -> LoopKernel:
    """out[i] = op(x0[i], ...) over sizes[0] elements."""
    count, i = Var("n"), Var("i")
    inputs = [Memory(f"x{j}", d, (1,)) for j, d in enumerate(sources)]
    out = Memory("out", to, (1,), writable=True)
    value: Expr = Apply(op, tuple(Load(m, (i,)) for m in inputs), to)
    loop = Loop(i, count, (Store(out, (i,), value),), "vector", unroll)
    return LoopKernel(op, (*inputs, out), Var("g"), index(1), (loop,), sizes=(count,))


def guarded(values: np.ndarray) -> np.ndarray:
    """A copy at an address that is aligned for its elements alone."""
    item = values.dtype.itemsize
    raw = np.empty(values.nbytes + 64 + item, np.uint8)
    start = -raw.ctypes.data % 64 + item
    copy = raw[start : start + values.nbytes].view(values.dtype)
    copy[...] = values.reshape(-1)
    return copy


def dtype_of(array: np.ndarray) -> DType:
    return from_numpy(array.dtype)
