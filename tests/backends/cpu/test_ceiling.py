"""Measured ceilings: what they are made of. How high they are is the machine's business."""

import ctypes
import threading

import llvmlite.binding as llvm
import numpy as np
import pytest
from test_gemm_amx import Registers, play

from rlx.backends.cpu.ceiling import measure_ceilings
from rlx.backends.cpu.ceiling_loops import ACCUMULATORS, SINK_BYTES, arithmetic, copy_loop, multiply_loop, read_loop
from rlx.backends.cpu.host import supported_targets
from rlx.codegen.llvm.object import target_machine
from rlx.codegen.target import PRESETS
from rlx.driver import Ceilings, MemoryLevel


def test_the_least_time_is_that_of_the_longer_of_arithmetic_and_reading():
    ceilings = Ceilings(threads=1, flops=1e9, read_bytes=1e8)
    assert ceilings.least_seconds(2e9, 1e8) == 2.0
    assert ceilings.least_seconds(1e9, 5e8) == 5.0


@pytest.mark.parametrize("threads", [1, 3])
def test_measuring_gives_believable_rates_and_leaves_no_thread_behind(threads):
    before = threading.active_count()
    ceilings = measure_ceilings(threads)
    assert ceilings.threads == threads
    # No processor of the last twenty years is slower, and none of this decade does 10 TFLOP/s a thread.
    assert 1e8 < ceilings.flops < 1e13 * threads
    assert 1e7 < ceilings.read_bytes < 1e12 * threads
    assert ceilings.copy_bytes is not None
    assert 1e7 < ceilings.copy_bytes < 1e12 * threads
    assert "f64" in ceilings.products
    assert all(rate > 1e8 for rate in ceilings.products.values())
    assert threading.active_count() == before


def test_data_is_read_at_the_rate_of_the_nearest_level_that_holds_it():
    levels = (MemoryLevel("L2", 1000, 8e8), MemoryLevel("L3", 9000, 4e8))
    ceilings = Ceilings(threads=1, flops=1e9, read_bytes=1e8, levels=levels)
    assert [ceilings.rate(n) for n in (0, 1000, 1001, 9000, 9001)] == [8e8, 8e8, 4e8, 4e8, 1e8]
    assert ceilings.least_seconds(0, 9001) == 9001 / 1e8


def test_products_of_a_narrow_dtype_have_a_limit_of_their_own_where_one_was_measured():
    ceilings = Ceilings(threads=1, flops=1e9, read_bytes=1e8, products={"bf16": 4e9})
    assert [ceilings.least_seconds(8e9, 0, dtype) for dtype in ("f32", "bf16", "i8")] == [8.0, 2.0, 8.0]


@pytest.mark.parametrize(
    "target", [*(name for name in supported_targets() if name != "portable"), "amx_bf16", "amx_int8"]
)
def test_every_loop_that_a_target_has_is_accepted_by_llvm(target):
    preset = PRESETS[target]
    for kind in arithmetic(preset):
        text = multiply_loop(kind)
        assert kind.call in text
        llvm.parse_assembly(text).verify()
    llvm.parse_assembly(read_loop(preset.lanes(32)) + copy_loop(preset.lanes(32))).verify()


@pytest.mark.parametrize(("target", "instruction"), [("amx_bf16", "tdpbf16ps"), ("amx_int8", "tdpbssd")])
def test_matrix_registers_are_multiplied_as_often_as_is_counted_and_released(target: str, instruction: str) -> None:
    kind = arithmetic(PRESETS[target])[-1]
    registers, turns, kept = Registers(), [], []
    multiply = getattr(registers, instruction)

    def counted(c: int, a: int, b: int) -> None:
        turns.append(c)
        multiply(c, a, b)

    setattr(registers, instruction, counted)
    engine = llvm.create_mcjit_compiler(
        llvm.parse_assembly(play(multiply_loop(kind), registers, kept)), target_machine(PRESETS[supported_targets()[0]])
    )
    engine.finalize_object()
    sink = np.zeros(SINK_BYTES, np.uint8)
    registers.memories = [(sink.ctypes.data, sink.ctypes.data + sink.nbytes)]
    run = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(engine.get_function_address(kind.name))
    run(5, sink.ctypes.data)
    assert len(turns) == 5 * ACCUMULATORS
    assert set(turns) == {0, 1, 2, 3}
    assert kind.operations == 2 * 16 * 16 * (32 if kind.name == "bf16" else 64)
    assert registers.faults == []
    assert registers.rows == [0] * 8, "the registers were not released"
