"""Large results: arrays of the caller's own, in memory that earlier ones have left."""

from __future__ import annotations

import gc
import resource

import numpy as np
import pytest

import rlx
from rlx.driver import HOST, device_memory
from rlx.ir import GraphBuilder, TensorType, dtypes

ELEMENTS = 1 << 19


@pytest.fixture
def program():
    builder = GraphBuilder("double")
    x = builder.input("x", TensorType((ELEMENTS,), dtypes.f32))
    with rlx.Session("cpu").compile(builder.build({"y": builder.binary("mul", x, 2.0)})) as program:
        yield program


def feed(value: float) -> np.ndarray:
    return np.full(ELEMENTS, value, np.float32)


def test_results_that_are_alive_share_no_memory(program):
    results = [program(x=feed(i))["y"] for i in range(4)]
    for i, result in enumerate(results):
        assert (result == 2 * i).all()
        assert result.flags.writeable and result.flags.c_contiguous


def test_a_dead_result_s_memory_serves_the_next(program):
    address = program(x=feed(1))["y"].ctypes.data
    gc.collect()
    assert program(x=feed(2))["y"].ctypes.data == address


def test_a_view_keeps_its_result_s_memory(program):
    view = program(x=feed(1))["y"][100:200].reshape(10, 10)
    for i in range(3):
        program(x=feed(i))
    assert (view == 2).all()


def test_a_result_outlives_its_program():
    builder = GraphBuilder("copy")
    x = builder.input("x", TensorType((ELEMENTS,), dtypes.f32))
    program = rlx.Session("cpu").compile(builder.build({"y": builder.binary("add", x, 1.0)}))
    result = program(x=feed(1))["y"]
    program.close()
    del program
    gc.collect()
    assert (result == 2).all()


def test_the_first_run_faults_no_page_of_the_arena():
    elements = 96 << 20  # 48 huge pages, or many small ones
    builder = GraphBuilder("twice summed")
    x = builder.input("x", TensorType((elements,), dtypes.u8))
    graph = builder.build({"y": builder.emit("cumsum", builder.emit("cumsum", x, dimension=0), dimension=0)})
    given, result = np.full(elements, 1, np.uint8), np.full(elements, 1, np.uint8)
    device_memory(HOST).trim()
    with rlx.Session("cpu", rlx.Options(threads=1)).compile(graph) as program:
        assert program.report.memory.arena_bytes >= elements
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        program.run({"x": given}, out={"y": result})
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 24
    assert result[:3].tolist() == [1, 3, 6]
