"""Running one kernel on NumPy arrays: JIT compiled, every operand at the very end of its mapped memory."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from rlx.backends.cpu.host import PRECISION_FLAGS, cpu_flags, supported_targets
from rlx.codegen.kernel import Kernel
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import target_machine
from rlx.codegen.target import PRESETS, Target

sys.path.insert(0, str(Path(__file__).parent))

_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Guarded:
    """`nbytes` bytes that end where an unreadable page begins, another such page before them; filled with poison."""

    def __init__(self, nbytes: int) -> None:
        self._size = (-(-nbytes // _PAGE) + 2) * _PAGE
        self._base = _libc.mmap(None, self._size, mmap.PROT_READ | mmap.PROT_WRITE, 0x22, -1, 0)
        for page in (self._base, self._base + self._size - _PAGE):
            assert _libc.mprotect(page, _PAGE, 0) == 0
        self.address = self._base + self._size - _PAGE - nbytes
        self.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.address))
        self.bytes[:] = 0xFB  # a NaN-like pattern that no correct result contains

    def __del__(self) -> None:
        _libc.munmap(self._base, self._size)


class KernelRunner:
    """Compiles kernels for one target and runs them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._engines: list[llvm.ExecutionEngine] = []

    def compile(self, kernel: Kernel) -> Callable[..., None]:
        """A call that takes one array an argument (C order; writable ones are written back) and maybe grid ranges."""
        machine = target_machine(self.target)
        module = new_module(self.target)
        emit_kernel(module, "kernel", kernel, self.target)
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        engine = llvm.create_mcjit_compiler(parsed, machine)
        engine.finalize_object()
        self._engines.append(engine)
        entry = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
        )(engine.get_function_address("kernel"))

        def run(arrays: Sequence[np.ndarray], ranges: Sequence[tuple[int, int]] | None = None) -> None:
            scratch = Guarded(-(-kernel.scratch_bytes // 64) * 64)
            scratch.bytes[:] = 0xFF  # NaN in every float
            places = [Guarded(a.nbytes) for a in arrays]
            for place, array in zip(places, arrays, strict=True):
                place.bytes[:] = array.reshape(-1).view(np.uint8)
            pointers = (ctypes.c_void_p * len(places))(*[p.address for p in places])
            for begin, end in ranges or [(0, kernel.grid)]:
                entry(pointers, None, scratch.address, begin, end)
            for place, array in zip(places, arrays, strict=True):
                if array.flags.writeable:
                    array.reshape(-1).view(np.uint8)[:] = place.bytes

        return run


@pytest.fixture(params=[name for name in ("avx512", "avx2", "portable") if name in supported_targets()])
def runner(request: pytest.FixtureRequest) -> KernelRunner:
    """A runner for each instruction set that this machine has."""
    return KernelRunner(PRESETS[request.param])


@pytest.fixture
def bf16_runner() -> KernelRunner:
    """A runner for the instruction set that multiplies pairs of bf16."""
    if not PRECISION_FLAGS["bf16"]["avx512_bf16"] <= cpu_flags():
        pytest.skip("this processor has no AVX512-BF16")
    return KernelRunner(PRESETS["avx512_bf16"])


@pytest.fixture
def vnni_runner() -> KernelRunner:
    """A runner for the instruction set that multiplies fours of 8-bit integers."""
    if not PRECISION_FLAGS["int8-dynamic"]["avx512_vnni"] <= cpu_flags():
        pytest.skip("this processor has no AVX512-VNNI")
    return KernelRunner(PRESETS["avx512_vnni"])
