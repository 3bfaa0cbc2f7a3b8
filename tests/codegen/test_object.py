"""Objects are self-contained: nothing undefined but libc and libm, no unwind tables, for every preset target."""

from __future__ import annotations

import struct

import pytest

from rlx.codegen.kernel import LoopKernel
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import assembly, compile_kernels, compile_module
from rlx.codegen.target import PRESETS, Target
from rlx.errors import EmitError
from rlx.ir import op as ops
from rlx.ir.dtypes import ALL, f32, from_numpy
from rlx.testing.kernel_runner import pointwise_kernel
from rlx.testing.op_samples import iter_samples

LIBM = {
    "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh",
    "acosh", "atanh", "erf", "cbrt", "pow", "atan2", "fmod", "hypot", "cexp", "clog", "csqrt", "csin", "ccos", "ctan",
    "csinh",
    "ccosh", "ctanh", "cpow", "casin", "cacos", "catan", "casinh", "cacosh", "catanh",
}  # fmt: skip
LIBC = {"memcpy", "memset", "memmove"}
EVERY_TARGET = [pytest.param(t, id=t.name) for t in PRESETS.values()]


def sections(image: bytes) -> dict[str, tuple[int, int, int]]:
    """name -> (offset, size, link) of a 64-bit little-endian ELF file."""
    assert image[:6] == b"\x7fELF\x02\x01"
    (start,) = struct.unpack_from("<Q", image, 0x28)
    size, count, names = struct.unpack_from("<HHH", image, 0x3A)
    rows = [struct.unpack_from("<IIQQQQIIQQ", image, start + i * size) for i in range(count)]
    texts = rows[names][4]
    return {string(image, texts + row[0]): (row[4], row[5], row[6]) for row in rows}


def string(image: bytes, at: int) -> str:
    return image[at : image.index(b"\0", at)].decode()


def undefined(image: bytes) -> set[str]:
    """Names of the symbols that a linker must find elsewhere."""
    found = sections(image)
    symbols, size, _ = found[".symtab"]
    texts = found[".strtab"][0]
    rows = [struct.unpack_from("<IBBHQQ", image, at) for at in range(symbols, symbols + size, 24)]
    return {string(image, texts + row[0]) for row in rows if row[3] == 0 and row[0]}


def every_primitive() -> dict[str, LoopKernel]:
    """A kernel of each pointwise primitive for each dtype it takes; conversions to and from all dtypes."""
    kernels = {}
    for record in ops.all_ops().values():
        if not record.pointwise or record.is_composite or record.name in ("convert", "bitcast_convert"):
            continue
        for _, sample, expected in iter_samples(record):
            sources = [from_numpy(x.dtype) for x in sample.arrays]
            name = "_".join(["k", record.name, *(d.name for d in sources)])
            kernels.setdefault(name, pointwise_kernel(record.name, sources, from_numpy(expected[0].dtype)))
    for source in ALL:
        for to in ALL[:: 1 if source.bits == 64 else 5]:
            kernels[f"k_convert_{source}_{to}"] = pointwise_kernel("convert", [source], to)
    return kernels


@pytest.mark.slow
@pytest.mark.parametrize("target", EVERY_TARGET)
def test_no_primitive_needs_a_run_time_library(target: Target) -> None:
    assert undefined(compile_kernels(every_primitive().items(), target)) <= LIBM | LIBC


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_conversions_of_narrow_floats_need_no_run_time_library(target: Target) -> None:
    pairs = [(a, b) for a in ALL for b in ALL if {"f16", "bf16"} & {a.name, b.name}]
    kernels = {f"k_{a}_{b}": pointwise_kernel("convert", [a], b) for a, b in pairs}
    assert undefined(compile_kernels(kernels.items(), target)) <= LIBC


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_an_object_carries_code_and_no_unwind_tables(target: Target) -> None:
    found = sections(compile_kernels([("k", pointwise_kernel("exp", [f32], f32))], target))
    assert ".text" in found
    assert not [name for name in found if name.startswith((".eh_frame", ".rela.eh_frame", ".debug"))]


def test_avx512_code_fills_whole_registers() -> None:
    module = new_module(PRESETS["avx512"])
    emit_kernel(module, "k", pointwise_kernel("add", [f32, f32], f32), PRESETS["avx512"])
    text = assembly(module, PRESETS["avx512"])
    assert "zmm" in text
    assert "{%k1}" in text


def test_equal_kernels_give_equal_objects() -> None:
    first, second = (compile_kernels([("k", pointwise_kernel("tanh", [f32], f32))], PRESETS["avx2"]) for _ in range(2))
    assert first == second


def test_extra_modules_become_part_of_the_object() -> None:
    text = "define i32 @answer() {\n  ret i32 42\n}\n"
    image = compile_kernels([("k", pointwise_kernel("neg", [f32], f32))], PRESETS["avx2"], extra=(text,))
    assert b"\0answer\0" in image
    assert undefined(image) == set()


def test_a_module_that_llvm_refuses_is_an_error_that_quotes_it() -> None:
    with pytest.raises(EmitError, match="expected top-level entity"):
        compile_module("this is not LLVM", PRESETS["avx2"])
