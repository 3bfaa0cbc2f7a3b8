"""Older opsets: each rewritten form gives what it meant in its own time."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from rlx.errors import UnsupportedModel
from rlx.frontends.onnx import OnnxModel, load_onnx
from rlx.frontends.onnx.node import decode_model
from rlx.ir.interpret import interpret

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
WHEEL = Path(onnx.__file__).parent / "backend" / "test" / "data"
RNG = np.random.default_rng(3)
X = RNG.normal(size=(2, 3, 4, 6)).astype(np.float32)


def import_node(op, opset, inputs, outputs=1, **attrs):
    """A model of one node, as proto, and as RLX imports it; `inputs` are arrays, those after the first constants."""
    names = [f"i{i}" for i in range(len(inputs))]
    node = onnx.helper.make_node(op, names, [f"o{i}" for i in range(outputs)], **attrs)
    info = onnx.helper.make_tensor_value_info(
        "i0", onnx.helper.np_dtype_to_tensor_dtype(inputs[0].dtype), inputs[0].shape
    )
    results = [onnx.ValueInfoProto(name=f"o{i}") for i in range(outputs)]
    constants = [onnx.numpy_helper.from_array(a, n) for n, a in zip(names[1:], inputs[1:], strict=True)]
    graph = onnx.helper.make_graph([node], "g", [info], results, constants)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=7)
    return proto, OnnxModel(decode_model(proto, Path("old.onnx")), "old.onnx")


def run(model, x):
    return list(interpret(model.specialize(), {"i0": x}).values())


#: op, opset, further inputs, attributes, outputs; onnxruntime still runs these forms.
CASES = [
    ("Softmax", 11, [], {"axis": 1}, 1),
    ("Softmax", 11, [], {}, 1),
    ("LogSoftmax", 9, [], {"axis": 2}, 1),
    ("Hardmax", 11, [], {"axis": 1}, 1),
    ("Softmax", 13, [], {"axis": 1}, 1),
    ("Clip", 6, [], {"min": -0.5, "max": 0.25}, 1),
    ("Clip", 6, [], {"max": 0.25}, 1),
    ("Slice", 9, [], {"starts": [1, -3], "ends": [100, -1], "axes": [1, 3]}, 1),
    ("Slice", 9, [], {"starts": [0, 1], "ends": [1, 3]}, 1),
    ("Split", 11, [], {"axis": 3, "split": [1, 2, 3]}, 3),
    ("Split", 11, [], {"axis": 3}, 2),
    ("Squeeze", 11, [], {}, 1),
    ("Unsqueeze", 11, [], {"axes": [0, 3]}, 1),
    ("ReduceSum", 11, [], {"axes": [1, 3], "keepdims": 0}, 1),
    ("ReduceMean", 11, [], {"axes": [-1]}, 1),
    ("ReduceMax", 12, [], {}, 1),
    ("TopK", 9, [], {"k": 2, "axis": 3}, 2),
    ("TopK", 10, [np.array([3])], {"axis": 1}, 2),
    ("Pad", 10, [], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 1.5}, 1),
    ("Pad", 10, [], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": "reflect"}, 1),
    ("Upsample", 7, [], {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 3.0]}, 1),
    ("Upsample", 9, [np.array([1, 1, 2, 1.5], np.float32)], {"mode": "linear"}, 1),
    ("Resize", 10, [np.array([1, 1, 0.5, 2], np.float32)], {"mode": "nearest"}, 1),
    ("Dropout", 7, [], {"ratio": 0.4}, 1),
    ("Dropout", 10, [], {}, 1),
    ("BatchNormalization", 9, [np.array(v, np.float32) for v in ([1, 2, 3], [0, 1, 0], [0.1, 0, 0], [1, 2, 3])], {}, 1),
    ("BatchNormalization", 7, [np.array(v, np.float32) for v in ([1, 2, 3], [0, 1, 0], [0.1, 0, 0], [1, 2, 3])], {}, 1),
    ("Cast", 9, [], {"to": 7}, 1),
    ("Scatter", 10, [np.zeros((2, 3, 4, 1), np.int64), np.ones((2, 3, 4, 1), np.float32)], {"axis": 3}, 1),
    ("Gemm", 7, None, {}, 1),
]  # fmt: skip


@pytest.mark.parametrize(("op", "opset", "more", "attrs", "outputs"), CASES)
def test_an_older_form_agrees_with_onnxruntime(op, opset, more, attrs, outputs):
    x = X
    if op == "Squeeze":
        x = X[:1, :, :1]
    if more is None:
        x, more = X[0, 0], [RNG.normal(size=(6, 5)).astype(np.float32), np.ones(5, np.float32)]
    proto, model = import_node(op, opset, [x, *more], outputs, **attrs)
    onnxruntime.set_default_logger_severity(3)
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"i0": x})
    for got, want in zip(run(model, x), expected, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# -- forms older than onnxruntime reads ----------------------------------------------------------------------------


def test_broadcasting_by_axis_aligns_the_second_operand_where_it_says():
    bias = np.array([1, 2, 3], np.float32)
    _, model = import_node("Add", 6, [X, bias], axis=1, broadcast=1)
    np.testing.assert_array_equal(run(model, X)[0], X + bias[:, None, None])


def test_reshape_of_opset_1_has_its_shape_in_an_attribute():
    _, model = import_node("Reshape", 1, [X], shape=[0, -1])
    np.testing.assert_array_equal(run(model, X)[0], X.reshape(2, -1))


def test_cast_of_opset_1_names_its_type():
    _, model = import_node("Cast", 1, [X], to="INT32")
    np.testing.assert_array_equal(run(model, X)[0], X.astype(np.int32))


def test_concat_of_opset_1_joins_channels_by_default():
    _, model = import_node("Concat", 1, [X, X])
    np.testing.assert_array_equal(run(model, X)[0], np.concatenate([X, X], 1))


def test_pad_of_opset_1_calls_its_pads_paddings():
    _, model = import_node("Pad", 1, [X], paddings=[0, 0, 0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(run(model, X)[0], np.pad(X, ((0, 0), (0, 0), (0, 0), (1, 1))))


def test_prelu_before_opset_7_has_one_slope_for_each_channel():
    slope = np.array([0.1, 0.2, 0.3], np.float32)
    _, model = import_node("PRelu", 6, [X, slope])
    np.testing.assert_allclose(run(model, X)[0], np.where(X < 0, X * slope[:, None, None], X), rtol=1e-6)


def test_group_normalization_before_opset_21_has_one_scale_for_each_group():
    x = RNG.normal(size=(2, 4, 5)).astype(np.float32)
    scale, bias = np.array([1, 3], np.float32), np.array([0, 1], np.float32)
    _, model = import_node("GroupNormalization", 18, [x, scale, bias], num_groups=2)
    grouped = x.reshape(2, 2, 10)
    centred = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
    expected = (centred * scale[:, None] + bias[:, None]).reshape(x.shape)
    np.testing.assert_allclose(run(model, x)[0], expected, atol=1e-5)


def test_statistics_for_each_activation_are_refused():
    stats = [np.ones(3, np.float32)] * 4
    _, model = import_node("BatchNormalization", 8, [X, *stats], spatial=0)
    with pytest.raises(UnsupportedModel, match="spatial=0"):
        model.specialize()


# -- models in the onnx wheel, written by exporters of their time --------------------------------------------------


def arrays(folder, kind):
    found = []
    for i in range(len(list(folder.glob(f"{kind}_*.pb")))):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((folder / f"{kind}_{i}.pb").read_bytes())
        found.append(onnx.numpy_helper.to_array(tensor))
    return found


def exported():
    return [p.name for kind in ("pytorch-converted", "pytorch-operator") for p in sorted((WHEEL / kind).glob("test_*"))]


@pytest.mark.parametrize("name", exported())
def test_a_model_exported_long_ago_gives_what_was_recorded_with_it(name):
    (folder,) = WHEEL.glob(f"pytorch-*/{name}")
    model = load_onnx(folder / "model.onnx")
    for data in sorted(folder.glob("test_data_set_*")):
        inputs = dict(zip(model.inputs, arrays(data, "input"), strict=True))
        graph = model.specialize({n: a.shape for n, a in inputs.items()})
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            results = interpret(graph, inputs)
        for got, want in zip(results.values(), arrays(data, "output"), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
