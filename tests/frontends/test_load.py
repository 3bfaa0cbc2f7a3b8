"""`rlx.frontends.load`: which files it takes for what, and how it refuses the rest."""

from __future__ import annotations

import os

import numpy as np
import pytest

from rlx.errors import DamagedModel, FrontendError, ModelNotFound, NotAModel, TextError
from rlx.frontends.load import load
from rlx.frontends.onnx import OnnxModel
from rlx.ir.builder import GraphBuilder
from rlx.ir.dtypes import f32
from rlx.ir.graph import Graph
from rlx.ir.types import TensorType

onnx = pytest.importorskip("onnx")


@pytest.fixture
def small_model():
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = onnx.helper.make_graph([node], "small", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_an_onnx_file_is_known_by_its_name(tmp_path, small_model):
    path = tmp_path / "small.onnx"
    path.write_bytes(small_model.SerializeToString())
    model = load(path)
    assert isinstance(model, OnnxModel)
    assert model.name == "small"
    assert model.source == str(path)


def test_an_onnx_file_is_known_by_its_content_under_another_name(tmp_path, small_model):
    path = tmp_path / "small.bin"
    path.write_bytes(small_model.SerializeToString())
    assert isinstance(load(str(path)), OnnxModel)


def test_rlx_text_is_read_back_as_a_graph(tmp_path):
    b = GraphBuilder("double")
    x = b.input("x", TensorType((2, 3), f32))
    graph = b.build({"y": b.emit("add", x, x)})
    path = tmp_path / "double.rlx.txt"
    path.write_text(str(graph), encoding="utf-8")
    back = load(path)
    assert isinstance(back, Graph)
    assert str(back) == str(graph)


def test_rlx_text_that_does_not_parse_says_where(tmp_path):
    path = tmp_path / "broken.rlx.txt"
    path.write_text('graph "broken" {', encoding="utf-8")
    with pytest.raises(TextError, match="line 1"):
        load(path)


def test_a_missing_file_is_named_with_its_nearest_neighbour(tmp_path, small_model):
    (tmp_path / "small.onnx").write_bytes(small_model.SerializeToString())
    with pytest.raises(ModelNotFound, match=r"there is no file or directory '.*smal\.onnx'") as caught:
        load(tmp_path / "smal.onnx")
    assert "did you mean" in str(caught.value)
    assert "small.onnx" in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


def test_a_missing_folder_is_said_to_be_missing(tmp_path):
    with pytest.raises(ModelNotFound, match="the folder .* does not exist either"):
        load(tmp_path / "nowhere" / "model.onnx")


def test_a_file_of_another_kind_is_no_model(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("nothing to run", encoding="utf-8")
    with pytest.raises(NotAModel, match=r"'.*notes\.txt' is not a model that RLX reads") as caught:
        load(path)
    assert ".onnx file" in caught.value.hint


@pytest.mark.parametrize("content", [b"nothing to run", b"PK\x03\x04 a zip file", bytes(64)])
def test_a_file_that_only_calls_itself_onnx_is_no_model(tmp_path, content):
    path = tmp_path / "fake.onnx"
    path.write_bytes(content)
    with pytest.raises(NotAModel, match="is not an ONNX model"):
        load(path)


def test_an_empty_file_is_no_model(tmp_path):
    path = tmp_path / "empty.onnx"
    path.touch()
    with pytest.raises(NotAModel, match="is empty"):
        load(path)


def test_a_directory_without_a_configuration_points_at_the_models_in_it(tmp_path, small_model):
    (tmp_path / "small.onnx").write_bytes(small_model.SerializeToString())
    with pytest.raises(NotAModel, match=r"has no config\.json") as caught:
        load(tmp_path)
    assert "it holds small.onnx" in caught.value.hint


def test_a_file_cut_short_anywhere_is_refused_with_a_type_of_ours(tmp_path):
    weights = np.arange(600, dtype=np.float32).reshape(20, 30)
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    x = onnx.helper.make_tensor_value_info("x", 1, [2, 20])
    y = onnx.helper.make_tensor_value_info("y", 1, [2, 30])
    graph = onnx.helper.make_graph(nodes, "cut", [x], [y], [onnx.numpy_helper.from_array(weights, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    whole = model.SerializeToString()
    path = tmp_path / "cut.onnx"
    for size in range(1, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises((DamagedModel, NotAModel)) as caught:
            load(path)
        assert "cut.onnx" in str(caught.value)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedModel, match="do not decode") as caught:
        load(path)
    assert "cut short" in caught.value.hint


def test_rlx_text_that_is_not_utf_8_is_damaged(tmp_path):
    file = tmp_path / "net.rlx.txt"
    file.write_bytes(b"graph \xff")
    with pytest.raises(DamagedModel, match="UTF-8 at byte 6"):
        load(file)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    pipe = tmp_path / "net.onnx"
    os.mkfifo(pipe)
    with pytest.raises(NotAModel, match="pipe"):
        load(pipe)


def test_what_the_system_refuses_to_read_is_an_error_of_ours(tmp_path):
    (tmp_path / "net.rlx.txt").symlink_to(tmp_path / "net.rlx.txt")
    for path in (tmp_path / "net.rlx.txt" / "x", tmp_path / ("n" * 5000)):
        with pytest.raises(FrontendError):
            load(path)


def test_an_onnx_file_with_a_name_that_is_not_utf_8_is_damaged(tmp_path, small_model):
    data = small_model.SerializeToString()
    for name in (small_model.graph.name, small_model.graph.node[0].op_type, small_model.graph.input[0].name):
        at = data.index(name.encode())
        (tmp_path / "net.onnx").write_bytes(data[:at] + b"\xff" + data[at + 1 :])
        with pytest.raises(DamagedModel, match="not UTF-8"):
            load(tmp_path / "net.onnx")
