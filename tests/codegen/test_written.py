"""Modules that are written down as they grow say what whole modules say, and keep no instructions."""

from __future__ import annotations

import gc

from llvmlite import ir

from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import compile_module
from rlx.codegen.llvm.written import WrittenModule
from rlx.codegen.target import PRESETS
from rlx.ir.dtypes import f32
from rlx.testing.kernel_runner import pointwise_kernel

TARGET = PRESETS["avx2"]
# exp and expm1 share functions; the second kernel must find those of the first
OPS = ("exp", "expm1", "logistic", "sin", "exp")
KERNELS = [(f"k{i}", pointwise_kernel(op, [f32], f32)) for i, op in enumerate(OPS)]


def test_a_module_in_pieces_defines_what_the_whole_one_does_and_compiles_to_the_same_code() -> None:
    whole, written = new_module(TARGET), WrittenModule(TARGET)
    for symbol, kernel in KERNELS:
        emit_kernel(whole, symbol, kernel, TARGET)
        written.add(symbol, kernel)
    text = written.text()
    assert sorted(filter(None, text.splitlines())) == sorted(filter(None, str(whole).splitlines()))
    assert compile_module(text, TARGET) == compile_module(whole, TARGET)


def test_instructions_end_with_the_kernel_without_a_collection() -> None:
    gc.collect()
    gc.disable()
    try:
        written = WrittenModule(TARGET)
        for symbol, kernel in KERNELS:
            written.add(symbol, kernel)
            left = [o for o in gc.get_objects() if isinstance(o, ir.Instruction)]
            assert not left, left[:3]
    finally:
        gc.enable()
    assert "define" in written.text()
