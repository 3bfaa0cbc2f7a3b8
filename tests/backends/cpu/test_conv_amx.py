"""Convolutions of one kernel position in AMX's matrix registers, played by NumPy as products' are."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from convolution_cases import Case, channels_last, contiguous, direct, epilogue_for, strided
from test_gemm_amx import AMX, Registers, compiled

from rlx.backends.cpu.conv import pixels_of
from rlx.backends.cpu.host import PRECISION_FLAGS, cpu_flags
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import assembly
from rlx.ir.dtypes import bf16

CASES = [
    Case(1, 32, 40, (5, 7), (1, 1), dtype=bf16),
    Case(2, 64, 33, (9, 10), (1, 1), strides=(2, 3), dtype=bf16),
    Case(2, 32, 70, (19,), (1,), dtype=bf16),
]


def lies_last(case: Case) -> Case:
    return replace(case, x_strides=channels_last(case.x_sizes))


@pytest.mark.skipif(not PRECISION_FLAGS["bf16"]["avx512_bf16"] - {"avx512_bf16"} <= cpu_flags(), reason="no AVX-512")
@pytest.mark.parametrize("case", [lies_last(case) for case in CASES], ids=str)
def test_pixels_by_weights_agree_with_float64(case: Case) -> None:
    rng = np.random.default_rng([case.channels, case.features])
    kernels = CpuTemplates(AMX).conv(case.spec(), epilogue_for(case, False, last=True))
    assert kernels is not None and kernels.pack is not None and kernels.in_place
    x = rng.standard_normal(int(np.prod(case.x_sizes))).astype(ml_dtypes.bfloat16)
    w = rng.standard_normal(case.w_sizes).astype(ml_dtypes.bfloat16)
    sizes = (case.batch, case.features, *case.out)
    packed, raw = np.full(kernels.packed_nbytes, 0xFB, np.uint8), np.full(int(np.prod(sizes)), 77, np.float32)
    kept: list[object] = []
    registers = Registers()
    compiled(kernels.pack, registers, kept)([w, packed])
    compiled(kernels.compute, registers, kept)([x, packed, raw])
    assert case.x_strides is not None
    image = strided(x, case.x_sizes, case.x_strides).astype(np.float64)
    exact, bound = direct(case, image, w.astype(np.float64)), direct(case, np.abs(image), np.abs(w.astype(np.float64)))
    out = strided(raw, sizes, channels_last(sizes))
    assert np.all(np.abs(out - exact) <= 2.0**-23 * case.channels * bound)


def multiplies(case: Case) -> set[str]:
    kernels = CpuTemplates(AMX).conv(case.spec(), epilogue_for(case, False, last=True))
    assert kernels is not None
    module = new_module(AMX)
    emit_kernel(module, "conv", kernels.compute, AMX)
    words = {line.split()[0] for line in assembly(module, AMX).splitlines() if line.strip()}
    return words & {"tdpbf16ps", "vdpbf16ps"}


def test_what_does_not_fit_the_registers_stays_in_lanes() -> None:
    fits = lies_last(CASES[0])
    assert multiplies(fits) == {"tdpbf16ps"}
    for change in ({"kernel": (3, 1)}, {"padding": ((1, 0), (0, 0))}, {"size": (3, 5)}, {"channels": 34}):
        case = lies_last(replace(fits, **change))
        assert multiplies(case) == {"vdpbf16ps"}, change
    assert multiplies(replace(fits, x_strides=contiguous(fits.x_sizes))) == {"vdpbf16ps"}


def test_only_convolutions_in_lanes_have_plans_to_choose_from() -> None:
    fits = lies_last(CASES[0])
    wide = lies_last(replace(fits, kernel=(3, 1)))
    assert pixels_of(AMX, fits.spec(), epilogue_for(fits, False, last=True)) is None
    assert pixels_of(AMX, wide.spec(), epilogue_for(wide, False, last=True)) is not None
