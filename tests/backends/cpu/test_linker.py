"""Several objects make one image: each keeps its own constants, and calls what another defines."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from rlx.backends.cpu.host import resolve_target
from rlx.backends.cpu.image import Image
from rlx.backends.cpu.linker import link
from rlx.codegen.llvm.object import compile_module, compile_together
from rlx.codegen.target import PRESETS
from rlx.errors import EmitError
from rlx.ir.dtypes import f32
from rlx.testing.kernel_runner import pointwise_kernel

TARGET = PRESETS[resolve_target("native")]
#: A table in read-only data, behind an internal name that another object has too.
TABLE = """
@table = internal constant [4 x i64] [i64 {0}, i64 {1}, i64 {2}, i64 {3}]
define i64 @{name}(i64 %i) {{
  %p = getelementptr [4 x i64], ptr @table, i64 0, i64 %i
  %x = load volatile i64, ptr %p
  ret i64 %x
}}
"""
SUM = """
declare i64 @first(i64)
declare i64 @second(i64)
define i64 @sum(i64 %i) {
  %a = call i64 @first(i64 %i)
  %b = call i64 @second(i64 %i)
  %c = add i64 %a, %b
  ret i64 %c
}
"""


def test_objects_call_each_other_and_keep_their_own_constants() -> None:
    first, second = np.random.default_rng(3).integers(0, 1 << 40, (2, 4))
    texts = [SUM, TABLE.format(*first, name="first"), TABLE.format(*second, name="second")]
    linked = link(*(compile_module(text, TARGET) for text in texts))
    image = Image(linked.data, linked.code_bytes, linked.functions, linked.externals, linked.absolute)
    total = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(image.function("sum"))
    assert [total(i) for i in range(4)] == (first + second).tolist()
    assert linked.externals == {}


def test_objects_do_not_depend_on_how_many_threads_compile_them() -> None:
    kernels = [(f"k{i}", pointwise_kernel(op, [f32], f32)) for i, op in enumerate(("exp", "tanh", "neg", "log") * 3)]
    alone = compile_together(kernels, TARGET, (SUM,))
    assert len(alone) == 3
    assert compile_together(kernels, TARGET, (SUM,), threads=3) == alone


def test_a_module_that_llvm_refuses_fails_the_whole_compilation() -> None:
    kernels = [("k", pointwise_kernel("exp", [f32], f32))]
    with pytest.raises(EmitError, match="LLVM refuses"):
        compile_together(kernels, TARGET, ("define i32 @f( {",), threads=2)
