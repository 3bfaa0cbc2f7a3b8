"""Real ONNX models give through the interpreter what onnxruntime gives."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.errors import ModelWarning
from rlx.frontends.load import load
from rlx.ir.interpret import interpret
from rlx.ir.verify import verify

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is the reference")

NAMES = (
    "magika", "basic-pitch", "ocr-direction", "ocr-recognition", "ocr-detection", "silero", "silero-half",
    "silero-16k", "silero-ifless", "silero-openvino", "silero-sequence", "light-bvlc_alexnet", "light-densenet121",
    "light-inception_v1", "light-inception_v2", "light-resnet50", "light-shufflenet", "light-squeezenet",
    "light-vgg19", "light-zfnet512",
)  # fmt: skip

ignore_impossible_branches = pytest.mark.filterwarnings("ignore::rlx.errors.ModelWarning")


def reference(path, inputs):
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@ignore_impossible_branches
@pytest.mark.parametrize("name", NAMES)
def test_a_real_model_agrees_with_onnxruntime(name, real_models, model_file):
    path = model_file(name)
    graph = load(path).specialize(real_models.MODELS[name].shapes)
    inputs = real_models.fresh_inputs(name, {n: t.sizes for n, t in graph.input_types.items()}, seed=11)
    expected = reference(path, inputs)
    actual = interpret(graph, inputs)
    assert list(actual) == list(expected)
    for key, want in expected.items():
        got = actual[key]
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        scale = np.abs(want).max()
        assert scale > 5e-4, f"{key} is all but zero, which compares nothing"
        assert np.abs(got - want).max() <= 1e-4 * scale


@ignore_impossible_branches
@pytest.mark.parametrize("name", NAMES)
def test_the_graph_of_a_real_model_verifies(name, real_models, model_file):
    verify(load(model_file(name)).specialize(real_models.MODELS[name].shapes))


def test_a_specialised_model_has_concrete_shapes_and_no_shape_arithmetic(real_models, model_file):
    graph = load(model_file("basic-pitch")).specialize(real_models.MODELS["basic-pitch"].shapes)
    assert all(v.type.is_static for node in graph.nodes for v in node.outputs)
    integer_ops = [
        n for n in graph.nodes if n.op not in ("constant", "convert") and n.outputs[0].type.dtype.name == "i64"
    ]
    assert integer_ops == []


def test_another_batch_size_is_another_graph(model_file):
    model = load(model_file("ocr-direction"))
    for batch in (1, 3):
        graph = model.specialize({"x": (batch, 3, 48, 192)})
        assert [str(t) for t in graph.output_types.values()] == [f"f32[{batch}, 2]"]


# -- silero: branches and state ------------------------------------------------------------------------------------


@ignore_impossible_branches
def test_an_unknown_sample_rate_keeps_both_branches_and_a_fixed_one_keeps_one(real_models, model_file):
    model = load(model_file("silero"))
    shapes = real_models.MODELS["silero"].shapes
    both = model.specialize(shapes)
    assert [n.op for n in both.nodes].count("cond") == 1
    assert "sr" in both.input_types
    one = model.specialize(shapes, {"sr": np.array(16000)})
    assert "cond" not in {n.op for n in one.nodes}
    assert "sr" not in one.input_types
    assert "lstm" in {n.op for n in one.nodes}


def test_a_branch_that_cannot_run_is_warned_of_and_gives_nan(real_models, model_file):
    model = load(model_file("silero"))
    with pytest.warns(ModelWarning, match=r"else_branch of If node 'If_0' .* values=\{'sr': array\}"):
        graph = model.specialize(real_models.MODELS["silero"].shapes)
    inputs = {"input": np.zeros((1, 576), np.float32), "state": np.zeros((2, 1, 128), np.float32)}
    assert np.isfinite(interpret(graph, {**inputs, "sr": np.array(16000)})["output"]).all()
    assert np.isnan(interpret(graph, {**inputs, "sr": np.array(8000)})["output"]).all()


@ignore_impossible_branches
def test_silero_at_8_khz_agrees_with_onnxruntime(model_file):
    path = model_file("silero")
    graph = load(path).specialize({"input": (1, 288), "state": (2, 1, 128)})
    rng = np.random.default_rng(5)
    inputs = {
        "input": rng.normal(size=(1, 288)).astype(np.float32) * np.float32(0.2),
        "state": rng.normal(size=(2, 1, 128)).astype(np.float32),
        "sr": np.array(8000),
    }
    expected = reference(path, inputs)
    actual = interpret(graph, inputs)
    for name, want in expected.items():
        np.testing.assert_allclose(actual[name], want, atol=1e-4 * np.abs(want).max(), rtol=0)


#: One network, exported in four ways; the weights in `silero-half` are others, and onnxruntime too answers otherwise.
STREAMED = ("silero", "silero-16k", "silero-ifless", "silero-openvino")
CHUNK, CONTEXT = 512, 64
SECONDS = 2


def stream(model, name, signal):
    """Speech probabilities of `signal`, chunk after chunk, with the context and the state handed on."""
    model_shapes = {"input": (1, CHUNK + CONTEXT), "state": (2, 1, 128)}
    fixed = {"sr": np.array(16000)} if "sr" in model.inputs else {}
    graph = model.specialize(model_shapes, fixed)
    state = np.zeros((2, 1, 128), np.float32)
    context = np.zeros(CONTEXT, np.float32)
    found = []
    for chunk in signal.reshape(-1, CHUNK):
        window = np.concatenate([context, chunk])[None]
        out = interpret(graph, {"input": window, "state": state})
        found.append(float(out["output"][0, 0]))
        state, context = out["stateN"], chunk[-CONTEXT:]
    return np.array(found)


@pytest.fixture(scope="module")
def streamed(real_models, model_file):
    """variant -> speech probabilities over the signal."""
    signal = real_models.voice(SECONDS * 16000 // CHUNK * CHUNK)
    return {name: stream(load(model_file(name)), name, signal) for name in STREAMED}


def test_silero_variants_agree_with_each_other_over_streamed_seconds(streamed):
    first = streamed["silero"]
    assert np.ptp(first) > 0.2, "the signal must make the network answer both ways"
    for name in STREAMED[1:]:
        np.testing.assert_allclose(streamed[name], first, atol=2e-4, err_msg=name)


def test_the_sequence_variant_of_silero_agrees_with_the_streamed_ones(streamed, real_models, model_file):
    signal = real_models.voice(SECONDS * 16000 // CHUNK * CHUNK)
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), signal])
    windows = np.stack([padded[i : i + CHUNK + CONTEXT] for i in range(0, len(signal), CHUNK)])
    zeros = np.zeros((1, 1, 128), np.float32)
    graph = load(model_file("silero-sequence")).specialize({"input": windows.shape})
    found = interpret(graph, {"input": windows, "h": zeros, "c": zeros})["speech_probs"]
    np.testing.assert_allclose(found, streamed["silero"], atol=2e-4)
