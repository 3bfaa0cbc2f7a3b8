"""Which of the weights a program keeps: those that its runs read."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from rlx.driver.memory import device_memory
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32, i32
from rlx.options import Options
from rlx.runtime import CompiledGraph, Session


def _program(weight: np.ndarray, added: np.ndarray) -> CompiledGraph:
    """y = x @ weight + added, for x of 64 rows."""
    b = GraphBuilder("affine")
    x = b.input("x", TensorType((64, weight.shape[0]), f32))
    product = b.emit("dot_general", x, b.parameter("w", weight), lhs_contract=(1,), rhs_contract=(0,))
    graph = b.build({"y": b.binary("add", product, b.parameter("c", added))})
    program = Session("cpu", Options(cache=False)).compile(graph)
    assert isinstance(program, CompiledGraph)
    return program


def test_a_matrix_that_setup_packed_is_let_go_and_a_weight_that_runs_read_is_kept() -> None:
    rng = np.random.default_rng(4)
    weight, added = (rng.normal(size=shape).astype(np.float32) for shape in ((192, 160), (64, 160)))
    x = rng.normal(size=(64, 192)).astype(np.float32)
    expected = x @ weight + added
    packed, kept = weakref.ref(weight), weakref.ref(added)
    program = _program(weight, added)
    del weight, added
    gc.collect()
    assert packed() is None
    assert kept() is not None
    for _ in range(2):
        np.testing.assert_allclose(program.run({"x": x})["y"], expected, atol=1e-4)


def test_a_large_weight_that_runs_read_as_it_is_lies_in_huge_pages_and_one_that_they_pick_rows_of_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "rlx.backends.cpu.executable.ask_for_huge_pages", lambda address, nbytes: asked.append((address, nbytes))
    )
    streamed, gathered = (np.ones((8192, 512), np.float32) for _ in range(2))
    b = GraphBuilder("head")
    x = b.input("x", TensorType((1, 512), f32))
    row = b.input("row", TensorType((1, 1), i32))
    maps = {"offset_dims": (1,), "collapsed_slice_dims": (0,), "start_index_map": (0,), "slice_sizes": (1, 512)}
    total = b.binary("add", x, b.emit("gather", b.parameter("table", gathered), row, **maps))
    y = b.emit("dot_general", total, b.parameter("w", streamed), lhs_contract=(1,), rhs_contract=(1,))
    program = Session("cpu", Options(cache=False)).compile(b.build({"y": y}))
    feeds = {"x": np.zeros((1, 512), np.float32), "row": np.array([[3]], np.int32)}
    np.testing.assert_allclose(program.run(feeds)["y"], np.full((1, 8192), 512))
    assert asked == [(streamed.ctypes.data, streamed.nbytes)]


def test_memory_that_only_setup_needed_goes_back_to_the_system() -> None:
    device_memory("cpu").trim()
    before = device_memory("cpu").statistics
    weight = np.ones((1024, 1024), np.float32)
    b = GraphBuilder("scaled")
    x = b.input("x", TensorType((8, 1024), f32))
    scaled = b.binary("mul", b.parameter("w", weight), b.parameter("c", weight[:, :1].copy()))
    y = b.emit("dot_general", x, scaled, lhs_contract=(1,), rhs_contract=(0,))
    program = Session("cpu", Options(cache=False)).compile(b.build({"y": y}))
    after = device_memory("cpu").statistics
    assert after.device_allocations - before.device_allocations > 1  # one was setup's
    assert after.reserved - after.in_use < weight.nbytes
    program.close()
