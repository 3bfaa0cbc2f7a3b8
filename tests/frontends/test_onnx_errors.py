"""What an ONNX model can have wrong, and what the error says."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.errors import (
    DamagedModel,
    DataDependentShape,
    ExternalDataRefused,
    InputMismatch,
    InvalidModel,
    ModelNotFound,
    OpenShape,
    TypeRuleError,
    UnknownModelOp,
    UnsupportedModel,
)
from rlx.frontends.onnx import load_onnx
from rlx.ir.interpret import interpret

onnx = pytest.importorskip("onnx")
F32, I64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


@pytest.fixture
def save(tmp_path):
    """Writes a model of one graph and loads it."""

    def make(nodes, inputs, outputs, initializers=(), opsets=(("", 18),)):
        graph = onnx.helper.make_graph(
            nodes,
            "g",
            [onnx.helper.make_tensor_value_info(*i) for i in inputs],
            [onnx.helper.make_tensor_value_info(*o) for o in outputs],
            list(initializers),
        )
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets]
        path = tmp_path / "model.onnx"
        path.write_bytes(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
        return path

    return make


def node(op, inputs, outputs, name="", domain="", **attrs):
    return onnx.helper.make_node(op, inputs, outputs, name=name, domain=domain, **attrs)


X, Y = ("x", F32, [2, 3]), ("y", F32, None)

# -- ops and attributes --------------------------------------------------------------------------------------------


def test_an_unknown_op_is_named_with_domain_opset_and_node(save):
    path = save([node("Reul", ["x"], ["y"], name="layer/act")], [X], [Y])
    with pytest.raises(
        UnknownModelOp, match=r"no rule for op 'Reul' \(domain 'ai\.onnx', opset 18\), used by node 'layer/act'"
    ) as caught:
        load_onnx(path).specialize()
    assert "'Relu'" in caught.value.hint
    assert "layer/act" in caught.value.where
    assert isinstance(caught.value, NotImplementedError)


def test_an_op_of_a_strange_domain_is_named_with_that_domain(save):
    path = save([node("Fused", ["x"], ["y"], domain="org.strange")], [X], [Y], opsets=(("", 18), ("org.strange", 3)))
    with pytest.raises(UnknownModelOp, match=r"'Fused' \(domain 'org\.strange', opset 3\), used by node 'y'"):
        load_onnx(path).specialize()


def test_an_attribute_value_without_a_rule_is_named_with_those_that_have_one(save):
    pads = onnx.numpy_helper.from_array(np.array([0, 1, 0, 1]), "pads")
    path = save([node("Pad", ["x", "pads"], ["y"], mode="mirror")], [X], [Y], [pads])
    with pytest.raises(UnsupportedModel, match=r"Pad \(opset 18\) with mode='mirror' has no rule") as caught:
        load_onnx(path).specialize()
    assert "constant, edge, reflect, wrap" in caught.value.hint
    assert "at y" in caught.value.where


def test_a_missing_attribute_is_named(save):
    with pytest.raises(InvalidModel, match="DepthToSpace lacks its attribute 'blocksize'"):
        load_onnx(save([node("DepthToSpace", ["x"], ["y"])], [("x", F32, [1, 4, 2, 2])], [Y])).specialize()


def test_a_missing_operand_is_named(save):
    with pytest.raises(InvalidModel, match="MatMul lacks its operand 1"):
        load_onnx(save([node("MatMul", ["x"], ["y"])], [X], [Y])).specialize()


def test_a_value_that_nothing_defines_is_named(save):
    with pytest.raises(InvalidModel, match="nothing defines the value 'ghost'"):
        load_onnx(save([node("Add", ["x", "ghost"], ["y"])], [X], [Y])).specialize()


def test_shapes_that_do_not_fit_name_the_node_and_both_sides(save):
    weights = onnx.numpy_helper.from_array(np.zeros((4, 5), np.float32), "w")
    path = save([node("MatMul", ["x", "w"], ["y"], name="head")], [X], [Y], [weights])
    with pytest.raises(TypeRuleError, match=r"f32\[2, 3\] and f32\[4, 5\]") as caught:
        load_onnx(path).specialize()
    assert "head" in caught.value.where


def test_sequences_are_refused(tmp_path):
    info = onnx.helper.make_tensor_sequence_value_info("s", F32, None)
    graph = onnx.helper.make_graph([], "g", [info], [info])
    path = tmp_path / "seq.onnx"
    path.write_bytes(onnx.helper.make_model(graph, ir_version=8).SerializeToString())
    with pytest.raises(UnsupportedModel, match="'s' is a sequence, RLX has tensors only"):
        load_onnx(path)


def test_an_element_type_that_rlx_lacks_is_named(save):
    path = save([node("Identity", ["x"], ["y"])], [("x", onnx.TensorProto.STRING, [2])], [Y])
    with pytest.raises(UnsupportedModel, match="'x' has ONNX element type STRING"):
        load_onnx(path)


# -- shapes and values ---------------------------------------------------------------------------------------------


def two_inputs(save):
    inputs = [("ids", F32, ["batch", "sequence"]), ("mask", F32, ["batch", "sequence"])]
    return load_onnx(save([node("Mul", ["ids", "mask"], ["y"])], inputs, [("y", F32, ["batch", "sequence"])]))


def test_declared_types_show_open_dimensions_by_their_names(save):
    model = two_inputs(save)
    assert {name: str(type) for name, type in model.inputs.items()} == {
        "ids": "f32[batch, sequence]",
        "mask": "f32[batch, sequence]",
    }
    assert str(model.outputs["y"]) == "f32[batch, sequence]"


def test_unnamed_dimensions_are_named_after_their_input_and_axis(save):
    model = load_onnx(save([node("Relu", ["x"], ["y"])], [("x", F32, [None, 3, "?", "?"])], [Y]))
    assert str(model.inputs["x"]) == "f32[x_0, 3, x_2, x_3]"
    assert str(model.specialize({"x": (1, 3, 4, 5)}).output_types["y"]) == "f32[1, 3, 4, 5]"


def test_a_dimension_with_two_sizes_names_both_places(save):
    with pytest.raises(
        InputMismatch,
        match=r"dimension 'sequence' is 6 by axis 1 of 'mask' \(2, 6\), but 5 by axis 1 of 'ids'",
    ):
        two_inputs(save).specialize({"ids": (2, 5), "mask": (2, 6)})


def test_a_size_that_follows_from_another_input_need_not_be_given(save):
    assert str(two_inputs(save).specialize({"ids": (2, 5)}).input_types["mask"]) == "f32[2, 5]"


def test_an_open_size_that_nothing_gives_is_asked_for(save):
    with pytest.raises(OpenShape, match=r"input 'ids' is f32\[batch, sequence\] and no size is given for") as caught:
        two_inputs(save).specialize()
    assert "shapes={'ids': (1, 1)}" in caught.value.hint


def test_a_declared_size_cannot_be_replaced(save):
    model = load_onnx(save([node("Relu", ["x"], ["y"])], [X], [Y]))
    with pytest.raises(InputMismatch, match=r"\(2, 4\), the model declares f32\[2, 3\]: axis 1 is 4 against 3"):
        model.specialize({"x": (2, 4)})
    with pytest.raises(InputMismatch, match=r"of rank 1, the model declares f32\[2, 3\] of rank 2"):
        model.specialize({"x": (6,)})


def test_an_unknown_input_is_named_with_the_nearest(save):
    with pytest.raises(InputMismatch, match="no input 'masc'; it has: ids, mask") as caught:
        two_inputs(save).specialize({"masc": (2, 5)})
    assert "'mask'" in caught.value.hint


def test_a_fixed_value_of_another_dtype_shows_both(save):
    with pytest.raises(InputMismatch, match="dtype float64, the model declares f32") as caught:
        two_inputs(save).specialize({"ids": (2, 5)}, {"mask": np.ones((2, 5))})
    assert "astype('float32')" in caught.value.hint


def test_a_shape_that_only_a_run_can_tell_names_node_op_and_the_input_to_fix(save):
    inputs = [X, ("target", I64, [2])]
    path = save([node("Reshape", ["x", "target"], ["y"], name="flatten")], inputs, [Y])
    with pytest.raises(
        DataDependentShape, match="the shape of Reshape node 'flatten' is known only when the model runs"
    ) as caught:
        load_onnx(path).specialize()
    assert "values={'target': array}" in caught.value.hint
    graph = load_onnx(path).specialize(values={"target": np.array([3, 2])})
    assert list(graph.input_types) == ["x"]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(interpret(graph, {"x": x})["y"], x.reshape(3, 2))


def test_branches_of_different_shapes_on_an_unknown_condition_name_the_input_to_fix(save):
    then = onnx.helper.make_graph(
        [node("Identity", ["x"], ["t"])], "then", [], [onnx.helper.make_tensor_value_info("t", F32, None)]
    )
    other = onnx.helper.make_graph(
        [node("Transpose", ["x"], ["e"])], "other", [], [onnx.helper.make_tensor_value_info("e", F32, None)]
    )
    nodes = [node("If", ["flag"], ["y"], name="choice", then_branch=then, else_branch=other)]
    model = load_onnx(save(nodes, [X, ("flag", onnx.TensorProto.BOOL, [])], [Y]))
    with pytest.raises(
        UnsupportedModel, match=r"If node 'choice' .* f32\[2, 3\] in one branch and f32\[3, 2\]"
    ) as caught:
        model.specialize()
    assert "values={'flag': array}" in caught.value.hint
    taken = model.specialize(values={"flag": np.array(False)})
    assert str(taken.output_types["y"]) == "f32[3, 2]"


# -- weights -------------------------------------------------------------------------------------------------------


def external(save, tmp_path, location, **entries):
    tensor = onnx.TensorProto(name="w", data_type=F32, dims=[2, 3], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return save([node("Add", ["x", "w"], ["y"])], [X], [Y], [tensor])


def test_external_weights_are_mapped_from_the_models_folder(save, tmp_path):
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "weights.bin").write_bytes(b"head" * 4 + weights.tobytes() + b"tail")
    path = external(save, tmp_path, "weights.bin", offset=16, length=24)
    graph = load_onnx(path).specialize()
    np.testing.assert_array_equal(interpret(graph, {"x": np.ones((2, 3), np.float32)})["y"], weights + 1)


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/hostname", "sub/../../weights.bin", "C:\\weights.bin", ""]
)
def test_external_weights_outside_the_models_folder_are_refused(save, tmp_path, location):
    home = tmp_path
    (home.parent / "weights.bin").write_bytes(bytes(24))
    with pytest.raises(ExternalDataRefused, match="external data of tensor 'w'") as caught:
        load_onnx(external(save, home, location))
    assert str(home) in caught.value.where
    assert isinstance(caught.value, PermissionError)


def test_a_link_that_leads_out_of_the_folder_is_refused(save, tmp_path):
    (tmp_path.parent / "outside.bin").write_bytes(bytes(24))
    (tmp_path / "link.bin").symlink_to(tmp_path.parent / "outside.bin")
    with pytest.raises(ExternalDataRefused, match="'link.bin', which lies outside the model's folder"):
        load_onnx(external(save, tmp_path, "link.bin"))


def test_an_external_file_that_is_missing_is_named(save, tmp_path):
    with pytest.raises(ModelNotFound, match=r"external data of tensor 'w' is in 'gone\.bin'"):
        load_onnx(external(save, tmp_path, "gone.bin"))


def test_an_external_file_that_is_too_short_shows_both_sizes(save, tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(20))
    with pytest.raises(DamagedModel, match=r"needs bytes 0 to 24 of 'weights\.bin', which has 20"):
        load_onnx(external(save, tmp_path, "weights.bin", length=24))
    with pytest.raises(DamagedModel, match="has 20 bytes of data, its shape and type need 24"):
        load_onnx(external(save, tmp_path, "weights.bin"))


def test_weights_that_do_not_fill_their_shape_show_both_sizes(save):
    tensor = onnx.TensorProto(name="w", data_type=F32, dims=[2, 3], raw_data=bytes(20))
    with pytest.raises(DamagedModel, match="tensor 'w' has 20 bytes of data, its shape and type need 24"):
        load_onnx(save([node("Add", ["x", "w"], ["y"])], [X], [Y], [tensor]))


def test_negative_dimensions_of_a_tensor_are_refused(save):
    tensor = onnx.TensorProto(name="w", data_type=F32, dims=[-2, -3], raw_data=bytes(24))
    with pytest.raises(DamagedModel, match="negative"):
        load_onnx(save([node("Add", ["x", "w"], ["y"])], [X], [Y], [tensor]))


# -- optional inputs -----------------------------------------------------------------------------------------------


def test_an_input_with_a_default_is_optional_and_can_be_given(save):
    scale = onnx.numpy_helper.from_array(np.full((3,), 2, np.float32), "scale")
    model = load_onnx(save([node("Mul", ["x", "scale"], ["y"])], [X, ("scale", F32, [3])], [Y], [scale]))
    assert list(model.inputs) == ["x"]
    np.testing.assert_array_equal(model.defaults["scale"], [2, 2, 2])
    x = np.ones((2, 3), np.float32)
    assert interpret(model.specialize(), {"x": x})["y"].max() == 2
    other = model.specialize(values={"scale": np.full((3,), 5, np.float32)})
    assert interpret(other, {"x": x})["y"].max() == 5
    as_input = model.specialize({"scale": (3,)})
    assert interpret(as_input, {"x": x, "scale": np.full((3,), 7, np.float32)})["y"].max() == 7
