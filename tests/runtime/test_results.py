"""Large results: arrays of the caller's own, in memory that earlier ones have left."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import rlx
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
