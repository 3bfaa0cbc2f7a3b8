"""Weights that lie in files, at any byte: read where they lie when a program gets them, and by no run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx.driver.file_map import file_map_of, let_pages_go, map_open_file
from rlx.errors import FileMapError
from rlx.ir import Graph, GraphBuilder, TensorType, interpret
from rlx.ir.dtypes import DType, bf16, f16, f32, f64, i8, i32
from rlx.options import Options
from rlx.runtime import CompiledGraph, Session


def _in_file(path: Path, array: np.ndarray, offset: int) -> np.ndarray:
    """The array, read-only, behind `offset` bytes of a file."""
    path.write_bytes(b"\xff" * offset + array.tobytes() + b"\xff" * 3)
    with path.open("rb") as file:
        found = map_open_file(file, path)
    return found.array(offset, offset + array.nbytes).view(array.dtype).reshape(array.shape)


def _some(shape: tuple[int, ...], dtype: DType = f32, seed: int = 1) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=shape)
    return (np.round(9 * values) if dtype.kind == "int" else values).astype(dtype.numpy)


def _linear(weight: np.ndarray) -> Graph:
    """Products of both ways to lie, packed; a bias that runs read; a table that they pick rows of."""
    b = GraphBuilder("linear")
    x = b.input("x", TensorType((20, weight.shape[0]), f32))
    row = b.input("row", TensorType((20, 1), i32))
    maps = {"offset_dims": (1,), "collapsed_slice_dims": (0,), "start_index_map": (0,)}
    w = b.parameter("w", weight)
    table = b.emit("gather", w, row, **maps, slice_sizes=(1, weight.shape[1]))
    y = b.emit("dot_general", b.binary("add", x, table), w, lhs_contract=(1,), rhs_contract=(0,))
    z = b.emit("dot_general", y, w, lhs_contract=(1,), rhs_contract=(1,))
    return b.build({"z": b.binary("mul", z, table)})


def _compile(graph: Graph, **options: Any) -> CompiledGraph:
    program = Session("cpu", Options(cache=False, threads=2, **options)).compile(graph)
    assert isinstance(program, CompiledGraph)
    return program


def _feeds(graph: Graph) -> dict[str, np.ndarray]:
    return {"x": _some((20, graph.input_types["x"].sizes[1]), seed=2), "row": np.arange(20, dtype=np.int32)[:, None]}


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 61, 4095])
def test_a_weight_is_read_wherever_it_begins(tmp_path: Path, offset: int) -> None:
    weight = _some((97, 97))
    graph = _linear(_in_file(tmp_path / "w", weight, offset))
    expected = _compile(_linear(weight)).run(_feeds(graph))["z"]
    np.testing.assert_array_equal(_compile(graph).run(_feeds(graph))["z"], expected)


@pytest.mark.parametrize("target", ["portable", "native"])
@pytest.mark.parametrize("dtype", [bf16, f16, f64, i8, i32], ids=str)
def test_setup_reads_any_dtype_at_an_odd_byte(tmp_path: Path, dtype: DType, target: str) -> None:
    """Each kind of load, of weights alone, so that it is setup that reads them."""
    weight, other = (_in_file(tmp_path / name, _some((33, 70), dtype, n), n) for n, name in enumerate(("w", "o"), 1))
    assert dtype is i8 or not weight.flags.aligned
    b = GraphBuilder("loads")
    x = b.input("x", TensorType((), dtype))
    w, o = b.parameter("w", weight), b.parameter("o", other)
    read = {
        "plain": b.binary("add", w, o),
        "turned": b.binary(
            "add", b.emit("transpose", w, permutation=(1, 0)), b.emit("transpose", o, permutation=(1, 0))
        ),
        "strided": b.emit("neg", b.emit("slice", w, starts=(0, 1), limits=(33, 70), strides=(2, 3))),
        "reversed": b.emit("neg", b.emit("rev", w, dimensions=(1,))),
        "greatest": b.emit("reduce_max", w, dimensions=(0,)),
    }
    graph = b.build({name: b.binary("mul", value, x) for name, value in read.items()})
    feeds = {"x": np.array(3, dtype.numpy)}
    program = _compile(graph, target=target)
    assert _compile(graph, target=target).report.memory.shared_bytes == 0  # no copy of a weight is kept for runs
    found = program.run(feeds)
    for name, array in interpret(graph, feeds).items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("convolution", ["direct", "winograd-2x2"])
def test_filters_are_packed_from_an_odd_byte(tmp_path: Path, convolution: str) -> None:
    filters = _some((24, 16, 3, 3))
    b = GraphBuilder("convolution")
    x = b.input("x", TensorType((1, 16, 12, 12), f32))
    ones = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1)}
    y = b.emit("conv_general", x, b.parameter("w", _in_file(tmp_path / "w", filters, 3)), **ones)
    graph = b.build({"y": y})
    feeds = {"x": _some((1, 16, 12, 12), seed=2)}
    (expected,) = interpret(graph, feeds).values()
    found = _compile(graph, convolution=convolution).run(feeds)["y"]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_program_reads_its_weights_file_no_more(tmp_path: Path) -> None:
    graph = _linear(_in_file(tmp_path / "w", _some((97, 97)), 2))
    program = _compile(graph)
    expected = program.run(_feeds(graph))["z"]
    (tmp_path / "w").write_bytes(b"")  # a run that looked would end the process
    np.testing.assert_array_equal(program.run(_feeds(graph))["z"], expected)


def test_a_file_that_was_written_to_since_it_was_loaded_is_refused(tmp_path: Path) -> None:
    graph = _linear(_in_file(tmp_path / "w", _some((97, 97)), 2))
    os.truncate(tmp_path / "w", 10)
    with pytest.raises(FileMapError, match="written to since"):
        Session("cpu", Options(threads=2)).compile(graph)


def test_two_programs_share_the_copy_of_a_weight_that_their_runs_read(tmp_path: Path) -> None:
    weight = _in_file(tmp_path / "w", _some((97, 97)), 2)
    one, two = _compile(_linear(weight)), _compile(_linear(weight))
    assert one.report.memory.shared_bytes == 0
    assert two.report.memory.shared_bytes >= 2 * weight.nbytes  # packed, and as it is
    one.close()
    feeds = _feeds(_linear(weight))
    np.testing.assert_array_equal(two.run(feeds)["z"], _compile(_linear(weight.copy())).run(feeds)["z"])


def test_pages_are_let_go_when_setup_has_read_them_for_the_last_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[int] = []

    def let_go(array: np.ndarray) -> None:
        gone.append(array.ctypes.data)
        let_pages_go(array)

    monkeypatch.setattr("rlx.backends.cpu.executable.let_pages_go", let_go)
    monkeypatch.setattr("rlx.backends.cpu.executable._SETUP_SLICE_NS", 0)  # come back after every step
    weights = [_in_file(tmp_path / f"w{i}", _some((128, 128), seed=i), i) for i in range(4)]
    b = GraphBuilder("layers")
    x = b.input("x", TensorType((64, 128), f32))
    for i, weight in enumerate(weights):
        x = b.emit("tanh", b.emit("dot_general", x, b.parameter(f"w{i}", weight), lhs_contract=(1,), rhs_contract=(0,)))
    graph = b.build({"y": x})
    feeds = {"x": _some((64, 128))}
    found = _compile(graph).run(feeds)["y"]
    assert sorted(gone) == sorted(w.ctypes.data for w in weights)
    assert all(file_map_of(w) is not None for w in weights)
    (expected,) = interpret(graph, feeds).values()
    np.testing.assert_allclose(found, expected, atol=2e-4)
