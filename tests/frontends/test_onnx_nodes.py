"""ONNX's own node tests, through the interpreter: the cases of `onnx_node_core.txt`.

The list leaves out what RLX does not mean to read (sequences, strings, training, image decoding) and expanded copies.
An input that decides shapes is fixed at import, as a user would fix it; where every input decides shapes, all are.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from rlx.errors import DataDependentShape, UnknownModelOp, UnsupportedModel
from rlx.frontends.onnx import OnnxModel
from rlx.frontends.onnx.node import decode_model
from rlx.ir.interpret import interpret

onnx = pytest.importorskip("onnx")

NAMES = Path(__file__).with_name("onnx_node_core.txt").read_text(encoding="utf-8").split()
#: Cases whose expected output is one draw of an unspecified random generator.
RANDOM = {
    "test_bernoulli": UnknownModelOp,
    "test_bernoulli_double": UnknownModelOp,
    "test_bernoulli_seed": UnknownModelOp,
    "test_training_dropout": UnsupportedModel,
    "test_training_dropout_default": UnsupportedModel,
    "test_training_dropout_default_mask": UnsupportedModel,
    "test_training_dropout_mask": UnsupportedModel,
}


@pytest.fixture(scope="module")
def cases():
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in collect_testcases(None)}


def as_array(value):
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def specialised(model, inputs):
    """The graph for these inputs, and those inputs that are still to be given."""
    names = list(inputs)
    for first_fixed in (len(names), 1, 0):
        fixed = {name: inputs[name] for name in names[first_fixed:]}
        rest = {name: inputs[name] for name in names[:first_fixed]}
        try:
            return model.specialize({name: array.shape for name, array in rest.items()}, fixed), rest
        except DataDependentShape:
            if not first_fixed:
                raise
    raise AssertionError("the loop returns or raises")


@pytest.mark.parametrize("name", [n for n in NAMES if n not in RANDOM])
def test_a_node_case_gives_what_onnx_expects(cases, name):
    case = cases[name]
    for given, expected in case.data_sets:
        inputs = {info.name: as_array(v) for info, v in zip(case.model.graph.input, given, strict=False)}
        model = OnnxModel(decode_model(case.model, Path("case.onnx")), "case.onnx")
        graph, rest = specialised(model, inputs)
        for (output, got), want in zip(interpret(graph, rest).items(), map(as_array, expected), strict=True):
            assert got.dtype == want.dtype, output
            assert got.shape == want.shape, output
            if got.dtype.kind in "fV":
                wide, aim = got.astype(np.float64), want.astype(np.float64)
                np.testing.assert_allclose(wide, aim, rtol=case.rtol, atol=max(case.atol, 1e-6), err_msg=output)
            else:
                np.testing.assert_array_equal(got, want, err_msg=output)


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_case_is_refused_with_a_type_of_ours(cases, name):
    case = cases[name]
    inputs = {i.name: as_array(v) for i, v in zip(case.model.graph.input, case.data_sets[0][0], strict=False)}
    model = OnnxModel(decode_model(case.model, Path("case.onnx")), "case.onnx")
    with pytest.raises(RANDOM[name]):
        model.specialize({}, inputs)
