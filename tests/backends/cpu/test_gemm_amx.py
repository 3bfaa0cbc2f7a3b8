"""Tiles in AMX's matrix registers: the code, and what it computes on registers that NumPy plays.

No processor with AMX is needed: the tile instructions of the emitted code are replaced by calls into this file, which
keeps the registers, refuses accesses outside the operands, and computes as the instruction set's manual says.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest

from rlx.backends.cpu.host import PRECISION_FLAGS, cpu_flags
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.kernel import Memory, Store, TemplateKernel, Var
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import assembly, target_machine
from rlx.codegen.lower.templates import Epilogue, MatmulSpec
from rlx.codegen.target import PRESETS, Target
from rlx.ir.dtypes import DType, bf16, f32, i8, i32

AMX, AMX_INT8 = PRESETS["amx_bf16"], PRESETS["amx_int8"]
_SIGNATURES = {
    "ldtilecfg": [ctypes.c_void_p],
    "tilerelease": [],
    "tilezero": [ctypes.c_int8],
    "tileloadd64": [ctypes.c_int8, ctypes.c_void_p, ctypes.c_int64],
    "tilestored64": [ctypes.c_int8, ctypes.c_void_p, ctypes.c_int64],
    "tdpbf16ps": [ctypes.c_int8, ctypes.c_int8, ctypes.c_int8],
    "tdpbssd": [ctypes.c_int8, ctypes.c_int8, ctypes.c_int8],
}


class Registers:
    """Eight registers of 16 x 64 bytes; every access must lie in `memories`."""

    def __init__(self) -> None:
        self.tiles = np.zeros((8, 16, 64), np.uint8)
        self.rows = [0] * 8
        self.memories: list[tuple[int, int]] = []
        self.faults: list[str] = []

    def _line(self, address: int) -> np.ndarray:
        if not any(start <= address and address + 64 <= end for start, end in self.memories):
            self.faults.append(hex(address))
            return np.zeros(64, np.uint8)
        return np.ctypeslib.as_array((ctypes.c_uint8 * 64).from_address(address))

    def ldtilecfg(self, place: int) -> None:
        data = ctypes.string_at(place, 64)
        assert data[0] == 1
        self.rows = list(data[48:56])
        assert all(int.from_bytes(data[16 + 2 * i : 18 + 2 * i], "little") == 64 * bool(self.rows[i]) for i in range(8))
        self.tiles[:] = 0

    def tilerelease(self) -> None:
        self.rows = [0] * 8

    def tilezero(self, tile: int) -> None:
        assert self.rows[tile]
        self.tiles[tile] = 0

    def tileloadd64(self, tile: int, place: int, stride: int) -> None:
        self.tiles[tile] = 0
        for row in range(self.rows[tile]):
            self.tiles[tile, row] = self._line(place + row * stride)

    def tilestored64(self, tile: int, place: int, stride: int) -> None:
        for row in range(self.rows[tile]):
            self._line(place + row * stride)[:] = self.tiles[tile, row]

    def tdpbf16ps(self, c: int, a: int, b: int) -> None:
        assert self.rows[c] == self.rows[a]
        assert self.rows[b] == 16
        left, right = (self.tiles[t].view(ml_dtypes.bfloat16).astype(np.float32) for t in (a, b))
        sums = self.tiles[c].view(np.float32)
        for k in range(16):
            for pair in range(2):
                sums += left[:, 2 * k + pair, None] * right[None, k, pair::2]

    def tdpbssd(self, c: int, a: int, b: int) -> None:
        assert self.rows[c] == self.rows[a]
        assert self.rows[b] == 16
        left, right = (self.tiles[t].view(np.int8).astype(np.int32) for t in (a, b))
        for byte in range(4):
            self.tiles[c].view(np.int32)[:] += left[:, byte::4] @ right[:, byte::4]


def play(text: str, registers: Registers, kept: list[object]) -> str:
    """LLVM IR whose tile instructions are calls of `registers`, for as long as `kept` is."""
    for name, types in _SIGNATURES.items():
        text = text.replace(f"@llvm.x86.{name}(", f"@played_{name}(").replace(f'@"llvm.x86.{name}"', f"@played_{name}")
        played = ctypes.CFUNCTYPE(None, *types)(getattr(registers, name))
        kept.append(played)
        llvm.add_symbol(f"played_{name}", ctypes.cast(played, ctypes.c_void_p).value)
    return text.replace(" immarg", "")  # which intrinsics alone may have


def compiled(
    kernel: TemplateKernel, registers: Registers, kept: list[object], target: Target = AMX
) -> Callable[..., None]:
    """The kernel with its tile instructions played by `registers`; the rest is AVX-512, and VNNI for integers."""
    module = new_module(target)
    emit_kernel(module, "kernel", kernel, target)
    text = str(module).replace("+amx-tile,+amx-bf16", "").replace("+avx512bf16,", "").replace("+amx-tile,+amx-int8", "")
    text = play(text, registers, kept)
    plain = PRESETS["avx512" if target is AMX else "avx512_vnni"]
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), target_machine(plain))
    engine.finalize_object()
    kept.append(engine)
    types = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2
    entry = ctypes.CFUNCTYPE(None, *types)(engine.get_function_address("kernel"))

    def run(arrays: list[np.ndarray]) -> None:
        scratch = np.full(kernel.scratch_bytes + 64, 0xFB, np.uint8)
        scratch = scratch[-scratch.ctypes.data % 64 :]
        registers.memories = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in (*arrays, scratch)]
        pointers = (ctypes.c_void_p * len(arrays))(*[a.ctypes.data for a in arrays])
        entry(pointers, None, scratch.ctypes.data, 0, kernel.grid)
        assert registers.faults == []
        assert registers.rows == [0] * 8, "the registers were not released"

    return run


def product(m: int, n: int, k: int, row: int, factors: DType = bf16) -> tuple[MatmulSpec, Epilogue]:
    sums = f32 if factors is bf16 else i32
    acc, i, j = Var("acc", sums), Var("i"), Var("j")
    out = Memory("out", sums, (n, 1), writable=True)
    a, b = Memory("a", factors, (row, 1)), Memory("b", factors, (n, 1))
    spec = MatmulSpec(factors, factors, sums, (), (m,), (n,), (k,), a, b, b_constant=True)
    return spec, Epilogue(acc, (i, j), (Store(out, (i, j), acc),), (out,))


@pytest.mark.skipif(not PRECISION_FLAGS["bf16"]["avx512_bf16"] - {"avx512_bf16"} <= cpu_flags(), reason="no AVX-512")
@pytest.mark.parametrize(
    ("m", "n", "k", "row"), [(32, 32, 32, 32), (16, 40, 64, 64), (75, 33, 96, 96), (19, 70, 31, 35), (40, 32, 64, 67)]
)
def test_tiles_of_all_heights_agree_with_float64(m: int, n: int, k: int, row: int) -> None:
    rng = np.random.default_rng([m, n, k])
    spec, epilogue = product(m, n, k, row)
    kernels = CpuTemplates(AMX).matmul(spec, epilogue)
    assert kernels is not None and kernels.pack is not None
    a = rng.standard_normal((m, row)).astype(ml_dtypes.bfloat16)
    b = rng.standard_normal((k, n)).astype(ml_dtypes.bfloat16)
    packed, out = np.full(kernels.packed_nbytes, 0xFB, np.uint8), np.full((m, n), 77, np.float32)
    kept: list[object] = []
    registers = Registers()
    compiled(kernels.pack, registers, kept)([b, packed])
    compiled(kernels.compute, registers, kept)([a, packed, out])
    exact = a[:, :k].astype(np.float64) @ b.astype(np.float64)
    bound = np.abs(a[:, :k].astype(np.float64)) @ np.abs(b.astype(np.float64))
    assert np.all(np.abs(out - exact) <= 2.0**-23 * k * bound)


@pytest.mark.skipif(not PRECISION_FLAGS["int8-dynamic"]["avx512_vnni"] <= cpu_flags(), reason="no AVX512-VNNI")
@pytest.mark.parametrize(
    ("m", "n", "k", "row"),
    [(32, 32, 64, 64), (16, 40, 128, 128), (75, 33, 192, 192), (19, 70, 62, 67), (40, 32, 64, 68)],
)
def test_tiles_of_8_bit_integers_are_exact(m: int, n: int, k: int, row: int) -> None:
    rng = np.random.default_rng([m, n, k])
    spec, epilogue = product(m, n, k, row, i8)
    kernels = CpuTemplates(AMX_INT8).matmul(spec, epilogue)
    assert kernels is not None and kernels.pack is not None
    a, b = (rng.integers(-128, 128, sizes, np.int8) for sizes in ((m, row), (k, n)))
    a[0], b[:, 0] = -128, -128
    packed, out = np.full(kernels.packed_nbytes, 0xFB, np.uint8), np.full((m, n), 77, np.int32)
    kept: list[object] = []
    registers = Registers()
    compiled(kernels.pack, registers, kept, AMX_INT8)([b, packed])
    compiled(kernels.compute, registers, kept, AMX_INT8)([a, packed, out])
    np.testing.assert_array_equal(out, a[:, :k].astype(np.int32) @ b.astype(np.int32))


def instructions(m: int, k: int, factors: DType = bf16, target: Target = AMX) -> set[str]:
    spec, epilogue = product(m, 64, k, k, factors)
    kernels = CpuTemplates(target).matmul(spec, epilogue)
    assert kernels is not None
    module = new_module(target)
    emit_kernel(module, "product", kernels.compute, target)
    words = {line.split()[0] for line in assembly(module, target).splitlines() if line.strip()}
    tiles = {"ldtilecfg", "tilerelease", "tileloadd", "tdpbf16ps", "tdpbssd", "tilestored"}
    return words & {*tiles, "vdpbf16ps", "vpdpbusd"}


def test_products_of_few_rows_or_odd_depth_stay_in_lanes() -> None:
    assert instructions(48, 64) == {"ldtilecfg", "tilerelease", "tileloadd", "tdpbf16ps", "tilestored"}
    assert instructions(8, 64) == {"vdpbf16ps"}
    assert instructions(48, 66) == {"vdpbf16ps"}
    eights = {"factors": i8, "target": AMX_INT8}
    assert instructions(48, 128, **eights) == {"ldtilecfg", "tilerelease", "tileloadd", "tdpbssd", "tilestored"}
    assert instructions(8, 128, **eights) == {"vpdpbusd"}
    assert instructions(48, 68, **eights) == {"vpdpbusd"}
