"""A file that is loaded again finds its program without its graph; any other file, and any other content, does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import rlx
from rlx.frontends.onnx.model import OnnxModel, load_onnx
from rlx.frontends.onnx.partial import PartialBuilder
from rlx.runtime.cache import MemoryCache

WEIGHT = np.random.default_rng(8).standard_normal((32, 16), np.float32)


def _model(weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    """y = leaky_relu(x @ w + 2), reshaped to rows of 8."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "two"], ["sum"]),
        helper.make_node("LeakyRelu", ["sum"], ["leaky"], alpha=0.25),
        helper.make_node("Reshape", ["leaky", "shape"], ["y"]),
    ]
    constants = {"w": weight, "two": np.array(2, np.float32), "shape": np.array([-1, 8], np.int64)}
    graph = helper.make_graph(
        nodes,
        "known",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 8])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _save(model: onnx.ModelProto, path: Path) -> OnnxModel:
    onnx.save(model, str(path))
    return load_onnx(path)


def _expected(x: np.ndarray, weight: np.ndarray = WEIGHT) -> np.ndarray:
    sums = x @ weight + 2
    return np.where(sums < 0, np.float32(0.25) * sums, sums).reshape(-1, 8)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> rlx.Session:
    monkeypatch.setattr("rlx.runtime.session._memory", MemoryCache())
    return rlx.Session("reference", rlx.Options(threads=1, cache_dir=tmp_path / "cache"))


def _run(session: rlx.Session, model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, int]:
    """The answer for ones, and how many graphs were built for it."""
    built: list[object] = []
    original = OnnxModel.specialize

    def counted(self: OnnxModel, *sizes: Any) -> rlx.Graph:
        built.append(sizes)
        return original(self, *sizes)

    x = np.ones((4, 32), np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(OnnxModel, "specialize", counted)
        with session.compile(model, {"x": x.shape}) as program:
            return program(x=x)["y"], len(built)


def test_a_second_load_builds_no_graph_wherever_the_file_lies(
    session: rlx.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _expected(np.ones((4, 32), np.float32))
    for name, graphs in (("a.onnx", 1), ("a.onnx", 0), ("b.onnx", 0)):
        answer, built = _run(session, _save(_model(), tmp_path / name), monkeypatch)
        np.testing.assert_allclose(answer, expected, rtol=1e-5)
        assert built == graphs


def test_changed_weights_in_the_same_place_are_the_ones_that_count(
    session: rlx.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(session, _save(_model(), tmp_path / "a.onnx"), monkeypatch)
    answer, built = _run(session, _save(_model(-WEIGHT), tmp_path / "a.onnx"), monkeypatch)
    np.testing.assert_allclose(answer, _expected(np.ones((4, 32), np.float32), -WEIGHT), rtol=1e-5)
    assert built == 0


def _alpha(model: onnx.ModelProto) -> None:
    model.graph.node[2].attribute[0].f = 0.5


def _op(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Sub"


def _operands(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[:] = ["two", "xw"]


def _small_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array(3, np.float32), "two"))


def _shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.array([8, -1], np.int64), "shape"))


def _opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def _input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def _output(model: onnx.ModelProto) -> None:
    model.graph.node[3].output[0] = model.graph.output[0].name = "z"


def _weight_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((32, 24), np.float32), "w"))


def _weight_dtype(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHT.astype(np.float64), "w"))


@pytest.mark.parametrize(
    "change",
    [_alpha, _op, _operands, _small_constant, _shape, _opset, _input, _output, _weight_shape, _weight_dtype],
)
def test_any_other_content_is_another_identity(tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    changed = _model()
    change(changed)
    one, other = _save(_model(), tmp_path / "a.onnx"), _save(changed, tmp_path / "b.onnx")
    assert one.identity != other.identity
    assert one.identity == _save(_model(), tmp_path / "c.onnx").identity


def test_a_model_whose_import_looked_at_a_weight_is_never_noted(
    session: rlx.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PartialBuilder.parameter

    def looking(self: PartialBuilder, name: str, data: np.ndarray) -> Any:
        value = original(self, name, data)
        assert self.data_of(value) is data
        return value

    monkeypatch.setattr(PartialBuilder, "parameter", looking)
    for _ in range(2):
        model = _save(_model(), tmp_path / "a.onnx")
        assert _run(session, model, monkeypatch)[1] == 1
        assert model.identity is None
