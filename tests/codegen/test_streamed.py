"""Stores past the caches: the same bits wherever memory begins, nothing outside, and only where they pay."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from rlx.codegen.kernel import Accumulate, Apply, Const, Declare, Load, Loop, LoopKernel, Memory, Store, Var
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import assembly
from rlx.codegen.lower.elementwise import elementwise
from rlx.codegen.lower.kernel_builder import STREAMED_BYTES
from rlx.codegen.lower.view import dense
from rlx.codegen.program import VirtualBuffer
from rlx.codegen.target import PRESETS, Target
from rlx.ir.dtypes import DType, bf16, bool_, c64, f16, f32, f64, i8, i32
from rlx.testing.kernel_runner import TARGETS, Loaded, index

I, G, N = Var("i"), Var("g"), Var("n")  # noqa: E741  # indices, as kernels print them


def erf_to(dtype: DType, *, streamed: bool, source: DType = f32) -> LoopKernel:
    """out[i] = erf(x[i]), as `dtype`; for other sources than floats, -x[i]."""
    x = Memory("x", source, (1,))
    out = Memory("out", dtype, (1,), writable=True, streamed=streamed)
    value = Apply("erf" if source.is_float else "neg", (Load(x, (I,)),), source)
    if dtype is bool_:
        value = Apply("gt", (value, Const(0.5, source)), bool_)
    elif dtype is not source:
        value = Apply("convert", (value,), dtype)
    loop = Loop(I, N, (Store(out, (I,), value),), "vector")
    return LoopKernel("test", (x, out), G, index(1), (loop,), sizes=(N,))


def at_byte(memory: np.ndarray, offset: int, count: int, dtype: np.dtype) -> np.ndarray:
    """`count` elements from `offset` bytes behind a cache line on."""
    start = -memory.ctypes.data % 64 + offset
    return memory[start : start + count * dtype.itemsize].view(dtype)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_every_size_at_every_place_in_a_cache_line_has_the_bits_of_plain_stores(target: Target) -> None:
    kernels = Loaded({"streamed": erf_to(f32, streamed=True), "plain": erf_to(f32, streamed=False)}, target)
    rng = np.random.default_rng(0)
    given = np.zeros(2048, np.uint8)
    for size in range(281):
        for offset in range(size % 4 * 4, 64, 16):
            x = at_byte(given, int(rng.integers(16)) * 4, size, np.dtype(np.float32))
            x[:] = rng.standard_normal(size)
            x[rng.integers(0, 10, size) == 0] = np.nan
            expected = np.empty(size, np.float32)
            kernels("plain", x, expected, sizes=(size,))
            memory = np.full(2048, 0xA5, np.uint8)
            got = at_byte(memory, offset, size, np.dtype(np.float32))
            kernels("streamed", x, got, sizes=(size,))
            np.testing.assert_array_equal(got.view(np.int32), expected.view(np.int32))
            got.view(np.uint8)[:] = 0xA5
            assert (memory == 0xA5).all(), f"{size} elements at byte {offset} wrote outside"


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("source", "to"),
    [(f32, bf16), (f32, bool_), (f64, f64), (i8, i8), (i32, i32), (f16, f16), (f32, f64), (f64, f32), (c64, c64)],
    ids=str,
)
def test_vectors_of_every_width_are_stored_where_they_belong(target: Target, source: DType, to: DType) -> None:
    kernels = Loaded({n: erf_to(to, streamed=n == "streamed", source=source) for n in ("streamed", "plain")}, target)
    x = np.arange(-70, 70).astype(source.numpy)
    for offset in range(0, 64, to.itemsize):
        expected = np.zeros(140, to.numpy)
        kernels("plain", x, expected, sizes=(140,))
        got = at_byte(np.zeros(4096, np.uint8), offset, 140, np.dtype(to.numpy))
        kernels("streamed", x, got, sizes=(140,))
        np.testing.assert_array_equal(got.view(np.uint8), expected.view(np.uint8))


def test_memory_that_is_not_even_aligned_to_its_elements_is_written_all_the_same() -> None:
    target = TARGETS[-1]
    kernels = Loaded({"k": erf_to(f32, streamed=True)}, target)
    x = np.linspace(-2, 2, 100, dtype=np.float32)
    expected, memory = np.empty_like(x), np.zeros(1024, np.uint8)
    kernels("k", x, expected, sizes=(100,))
    got = at_byte(memory, 2, 100, np.dtype(np.float32))
    kernels("k", x, got, sizes=(100,))
    np.testing.assert_array_equal(got, expected)


def text(kernel: LoopKernel, target: str = "avx512") -> str:
    module = new_module(PRESETS[target])
    emit_kernel(module, "k", kernel, PRESETS[target])
    return assembly(module, PRESETS[target])


@pytest.mark.parametrize("target", ["avx512", "avx2", "portable"])
def test_streamed_stores_bypass_the_caches_and_are_fenced(target: str) -> None:
    code = text(erf_to(f32, streamed=True), target)
    assert "movnt" in code and "sfence" in code
    plain = text(erf_to(f32, streamed=False), target)
    assert "movnt" not in plain and "sfence" not in plain


def test_what_streamed_results_are_made_of_is_fetched_ahead() -> None:
    assert "prefetcht0" in text(erf_to(f32, streamed=True))
    assert "prefetcht0" not in text(erf_to(f32, streamed=False))


@pytest.mark.parametrize(("target", "abreast"), [("avx512", 8), ("avx2", 4)])
def test_a_turn_loads_all_its_vectors_before_it_stores_the_first(target: str, abreast: int) -> None:
    blocks = re.split(r"^[\w.]+:.*$", text(erf_to(i32, streamed=True, source=i32), target), flags=re.MULTILINE)
    turn = max((b.splitlines() for b in blocks), key=lambda lines: sum("movnt" in line for line in lines))
    stores = [at for at, line in enumerate(turn) if "movnt" in line]
    loads = [at for at, line in enumerate(turn) if "(%rdi" in line]
    assert len(stores) == len(loads) == abreast
    assert max(loads) < min(stores)


def test_what_the_kernel_reads_back_stays_in_the_caches() -> None:
    kernel = erf_to(f32, streamed=True)
    (out,) = (m for m in kernel.args if m.writable)
    again = Loop(I, N, (Store(out, (I,), Apply("neg", (Load(out, (I,)),), f32)),), "vector")
    assert "movnt" not in text(replace(kernel, body=(*kernel.body, again)))


def test_what_the_loop_stores_before_it_reads_it_has_the_bits_of_plain_stores() -> None:
    x, out = erf_to(i32, streamed=True, source=i32).args
    kept = Memory("kept", i32, (1,), writable=True)
    body = (Store(kept, (I,), Load(x, (I,))), Store(out, (I,), Apply("neg", (Load(kept, (I,)),), i32)))
    kernel = LoopKernel("test", (x, kept, out), G, index(1), (Loop(I, N, body, "vector"),), sizes=(N,))
    given, between, got = np.arange(300, dtype=np.int32), np.zeros(300, np.int32), np.zeros(300, np.int32)
    Loaded({"k": kernel}, TARGETS[-1])("k", given, between, got, sizes=(300,))
    np.testing.assert_array_equal(got, -given)


def test_a_loop_that_also_adds_up_keeps_the_order_of_its_sum() -> None:
    kernel = erf_to(f32, streamed=True)
    (loop,) = kernel.body
    assert isinstance(loop, Loop)
    (store,) = loop.body
    assert isinstance(store, Store)
    total = Var("s", f32)
    both = replace(loop, body=(store, Accumulate(total, "add", store.value)))
    assert "movnt" not in text(replace(kernel, body=(Declare(total, Const(0.0, f32)), both)))


@pytest.mark.parametrize("nbytes", [STREAMED_BYTES - 4, STREAMED_BYTES])
def test_results_are_streamed_from_a_size_on(nbytes: int) -> None:
    shape = (nbytes // 4,)
    source, into = (dense(VirtualBuffer(n, nbytes, "temporary"), f32, shape) for n in ("x", "y"))
    launch = elementwise(
        None,  # type: ignore[arg-type]  # no value is read through the graph
        shape,
        lambda reader, i: [reader.builder.store(into, i, reader.builder.load(source, i))],
        label="copy",
    )
    written = [m.streamed for m in launch.kernel.args if m.writable]
    assert written == [nbytes >= STREAMED_BYTES]
    assert not any(m.streamed for m in launch.kernel.args if not m.writable)
