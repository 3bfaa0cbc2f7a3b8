"""Messages read by our own reader, beside Google's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.driver.file_map import file_map_of
from rlx.errors import FileMapError, RLXError
from rlx.frontends.onnx import load_onnx, schema
from rlx.frontends.onnx.wire import Field, Kind, Message, Schema, WireError, read_message
from rlx.options import Options
from rlx.runtime import Session

onnx = pytest.importorskip("onnx")
from onnx import onnx_ml_pb2 as pb  # noqa: E402  # once it is known to be there

PROTOS = {
    schema.MODEL: pb.ModelProto,
    schema._GRAPH: pb.GraphProto,
    schema._NODE: pb.NodeProto,
    schema._ATTRIBUTE: pb.AttributeProto,
    schema._TENSOR: pb.TensorProto,
    schema._FUNCTION: pb.FunctionProto,
    schema._VALUE: pb.ValueInfoProto,
    schema._TYPE: pb.TypeProto,
    schema._TENSOR_TYPE: pb.TypeProto.Tensor,
    schema._SHAPE: pb.TensorShapeProto,
    schema._DIMENSION: pb.TensorShapeProto.Dimension,
    schema._OPSET: pb.OperatorSetIdProto,
    schema._ENTRY: pb.StringStringEntryProto,
}


def read(kind: Schema, data: bytes, folder: Path) -> Message:
    path = folder / "message"
    path.write_bytes(data)
    return read_message(kind, path)


def assert_same(found: Message, expected: Any) -> None:
    """Every field of the schema, through all messages."""
    for field in found._schema.fields.values():
        got, want = getattr(found, field.name), getattr(expected, field.name)
        if field.holds is schema._OTHER:
            continue
        if field.repeats:
            assert len(got) == len(want), field.name
            pairs = list(zip(got, want, strict=True))
        else:
            assert isinstance(got, Message) or found.HasField(field.name) == expected.HasField(field.name), field.name
            pairs = [(got, want)]
        for one, other in pairs:
            if isinstance(one, Message):
                assert_same(one, other)
            else:
                assert (one.tobytes() if isinstance(one, np.ndarray) else one) == other, field.name


@pytest.mark.parametrize("kind", PROTOS, ids=lambda kind: PROTOS[kind].DESCRIPTOR.name)
def test_fields_are_named_and_numbered_as_onnx_does(kind: Schema) -> None:
    theirs = PROTOS[kind].DESCRIPTOR.fields_by_number
    for number, field in kind.fields.items():
        assert theirs[number].name == field.name
        assert isinstance(getattr(PROTOS[kind](), field.name), list | int | float | str | bytes) != (
            field.repeats or isinstance(field.holds, Schema)
        )


def test_types_and_attributes_are_numbered_as_onnx_does() -> None:
    for ours, theirs in (
        (schema.ElementType, pb.TensorProto.DataType),
        (schema.AttributeKind, pb.AttributeProto.AttributeType),
    ):
        for member in ours:
            assert member.name not in theirs.keys() or theirs.Value(member.name) == member  # noqa: SIM118  # no mapping
    assert pb.TensorProto.EXTERNAL == schema.EXTERNAL


I64 = st.integers(-(2**63), 2**63 - 1)
F32 = st.floats(width=32, allow_nan=False)
TENSORS = st.builds(
    pb.TensorProto,
    dims=st.lists(I64, max_size=3),
    data_type=st.integers(0, 30),
    name=st.text(max_size=5),
    raw_data=st.binary(max_size=40),
    float_data=st.lists(F32, max_size=4),
    int32_data=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    int64_data=st.lists(I64, max_size=4),
    double_data=st.lists(st.floats(allow_nan=False), max_size=4),
    uint64_data=st.lists(st.integers(0, 2**64 - 1), max_size=4),
)
ATTRIBUTES = st.builds(
    pb.AttributeProto,
    name=st.text(max_size=5),
    f=F32,
    i=I64,
    s=st.binary(max_size=5),
    t=TENSORS,
    floats=st.lists(F32, max_size=3),
    ints=st.lists(I64, max_size=3),
    strings=st.lists(st.binary(max_size=3), max_size=3),
    type=st.integers(0, 14),
)
NODES = st.builds(
    pb.NodeProto,
    input=st.lists(st.text(max_size=3), max_size=3),
    output=st.lists(st.text(max_size=3), max_size=3),
    attribute=st.lists(ATTRIBUTES, max_size=2),
    doc_string=st.text(max_size=5),  # which RLX does not read
)
GRAPHS = st.builds(pb.GraphProto, node=st.lists(NODES, max_size=2), initializer=st.lists(TENSORS, max_size=2))


@given(graph=GRAPHS)
@settings(max_examples=60, deadline=None)
def test_any_graph_reads_as_it_was_written(graph: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = pb.ModelProto(ir_version=9, graph=graph).SerializeToString()
    found = read(schema.MODEL, data, tmp_path_factory.mktemp("wire"))
    assert_same(found, pb.ModelProto.FromString(data))


@given(data=st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_message_or_no_message(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("wire")
    for bytes_ in (data, b"\x3a" + bytes([len(data)]) + data):  # a graph of these bytes
        try:
            read(schema.MODEL, bytes_, folder)
        except WireError:
            continue


def test_numbers_read_alike_packed_and_one_by_one(tmp_path: Path) -> None:
    kind = Schema({1: Field("n", Kind.INTEGER, repeats=True), 2: Field("f", Kind.FLOAT, repeats=True)})
    one_by_one = b"\x08\x05" + b"\x08" + b"\xff" * 9 + b"\x01" + b"\x15\x00\x00\x80\x3f"
    packed = b"\x0a\x0b\x05" + b"\xff" * 9 + b"\x01" + b"\x12\x04\x00\x00\x80\x3f"
    for data in (one_by_one, packed):
        found = read(kind, data, tmp_path)
        assert (list(found.n), list(found.f)) == ([5, -1], [1.0])
    both = read(kind, one_by_one + packed + one_by_one, tmp_path)
    assert (list(both.n), list(both.f)) == ([5, -1] * 3, [1.0] * 3)


def test_messages_that_nest_too_deep_are_refused(tmp_path: Path) -> None:
    kind = Schema({})
    kind.fields[1] = Field("inner", kind)
    data = b""
    for _ in range(150):
        size, length = len(data), b""
        while size > 0x7F:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        data = b"\x0a" + length + bytes([size]) + data
    with pytest.raises(WireError, match="deeper"):
        read(kind, data, tmp_path)


def test_weights_are_aligned_wherever_they_lie_in_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    arrays = {"w" * n: rng.standard_normal((n, 7)) for n in range(1, 12)}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Sum", list(arrays), ["y"])],
        "weights",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )
    onnx.save(onnx.helper.make_model(graph, ir_version=9), tmp_path / "weights.onnx")
    found = load_onnx(tmp_path / "weights.onnx").decoded.graph.initializers
    for name, array in arrays.items():
        assert found[name].tobytes() == array.tobytes()
        assert found[name].flags.aligned and not found[name].flags.writeable


def test_a_file_that_shrinks_while_it_is_read_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = onnx.numpy_helper.from_array(np.ones(1000, np.float32), "w")
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [y], [tensor])), path)

    def cut(size: int, dtype: object) -> np.ndarray:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 100)
        return np.zeros(size, np.uint8)

    monkeypatch.setattr("rlx.frontends.onnx.wire.np.empty", cut)
    with pytest.raises(RLXError, match="ends at byte"):
        load_onnx(path)


def test_reading_needs_neither_onnx_nor_protobuf_nor_rules_before_a_graph_is_built(tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, ir_version=9), tmp_path / "neg.onnx")
    script = """
import sys
for name in ("onnx", "google", "google.protobuf"):
    sys.modules[name] = None
import rlx
model = rlx.load(sys.argv[1])
print("rlx.frontends.onnx.elementwise" in sys.modules)
print(len(model.specialize().nodes))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "neg.onnx")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n1\n"


def _file_of_large_weights(path: Path, *, external: bool) -> dict[str, np.ndarray]:
    """y = x @ w0 @ w1 @ w2, of weights that are left in their file."""
    rng = np.random.default_rng(9)
    weights = {"w" * n: rng.standard_normal((150, 150)).astype(np.float32) for n in (1, 2, 3)}
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 150]) for name in "xy")
    names = ["x", "a", "b", "y"]
    nodes = [onnx.helper.make_node("MatMul", [names[i], w], [names[i + 1]]) for i, w in enumerate(weights)]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y], tensors), ir_version=9)
    onnx.save(model, path, save_as_external_data=external, location="weights.bin" if external else None)
    return weights


@pytest.mark.parametrize("external", [False, True], ids=["in the model", "beside it"])
def test_large_weights_stay_in_one_map_of_their_file(tmp_path: Path, external: bool) -> None:
    weights = _file_of_large_weights(tmp_path / "net.onnx", external=external)
    model = load_onnx(tmp_path / "net.onnx")
    found = {name: model.decoded.graph.initializers[name] for name in weights}
    maps = {id(file_map_of(array)): file_map_of(array) for array in found.values()}
    (only,) = maps.values()
    assert only is not None and only.path == tmp_path / ("weights.bin" if external else "net.onnx")
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable
    program = Session("cpu", Options(cache=False, threads=1)).compile(model)
    x = np.ones((2, 150), np.float32)
    expected = x.astype(np.float64)
    for array in weights.values():
        expected = expected @ array
    np.testing.assert_allclose(program.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("external", [False, True], ids=["in the model", "beside it"])
def test_a_model_whose_file_was_overwritten_is_refused_and_its_programs_go_on(tmp_path: Path, external: bool) -> None:
    _file_of_large_weights(tmp_path / "net.onnx", external=external)
    model, session = load_onnx(tmp_path / "net.onnx"), Session("cpu", Options(cache=False, threads=1))
    program = session.compile(model)
    x = {"x": np.ones((2, 150), np.float32)}
    before = program.run(x)["y"]
    (tmp_path / ("weights.bin" if external else "net.onnx")).write_bytes(b"cut")
    with pytest.raises(FileMapError, match="was written to since"):
        session.compile(model)
    np.testing.assert_array_equal(program.run(x)["y"], before)
