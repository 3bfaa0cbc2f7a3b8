"""Real ONNX models, compiled to native code, give what onnxruntime gives."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.frontends.load import load
from rlx.runtime import Session

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is the reference")

SLOW = ("light-bvlc_alexnet", "light-densenet121", "light-inception_v1", "light-inception_v2", "light-resnet50",
        "light-shufflenet", "light-vgg19", "light-zfnet512")  # fmt: skip
NAMES = (
    "magika", "basic-pitch", "ocr-direction", "ocr-recognition", "ocr-detection", "silero", "silero-half",
    "silero-16k", "silero-ifless", "silero-openvino", "silero-sequence", "light-squeezenet",
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::rlx.errors.ModelWarning")

RATE, CHUNK, CONTEXT = 16000, 512, 64
STREAMED = ("silero", "silero-16k", "silero-ifless", "silero-openvino")


@pytest.fixture(scope="module")
def compiled(real_models, model_file):
    """Name -> program for the CPU, compiled once a module."""
    programs = {}

    def get(name):
        if name not in programs:
            model = load(model_file(name))
            programs[name] = Session("cpu").compile(model, shapes=real_models.MODELS[name].shapes)
        return programs[name]

    yield get
    for program in programs.values():
        program.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_model_agrees_with_onnxruntime(name, real_models, model_file, compiled):
    program = compiled(name)
    inputs = real_models.fresh_inputs(name, {n: t.sizes for n, t in program.inputs.items()}, seed=29)
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(str(model_file(name)), providers=["CPUExecutionProvider"])
    expected = dict(zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True))
    for _ in range(2):
        actual = program.run(inputs)
        assert list(actual) == list(expected)
        for key, want in expected.items():
            assert actual[key].shape == want.shape
            assert np.abs(actual[key] - want).max() <= 1e-4 * np.abs(want).max()


def stream(program, signal, sr):
    """Speech probabilities chunk after chunk, with context and state handed on."""
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
    rate = {"sr": np.array(sr, np.int64)} if "sr" in program.inputs else {}
    found = []
    for chunk in signal.reshape(-1, CHUNK):
        out = program.run({"input": np.concatenate([context, chunk])[None], "state": state, **rate})
        found.append(float(out["output"][0, 0]))
        state, context = out["stateN"], chunk[-CONTEXT:]
    return np.array(found)


def test_compiled_silero_variants_agree_over_ten_streamed_seconds(real_models, model_file, compiled):
    signal = real_models.voice(10 * RATE // CHUNK * CHUNK)
    found = {name: stream(compiled(name), signal, RATE) for name in STREAMED}
    assert np.ptp(found["silero"]) > 0.2, "the signal must make the network answer both ways"
    for name in STREAMED[1:]:
        np.testing.assert_allclose(found[name], found["silero"], atol=2e-4, err_msg=name)
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), signal])
    windows = np.stack([padded[i : i + CHUNK + CONTEXT] for i in range(0, len(signal), CHUNK)])
    zeros = np.zeros((1, 1, 128), np.float32)
    whole = Session("cpu").compile(load(model_file("silero-sequence")), shapes={"input": windows.shape})
    at_once = whole.run({"input": windows, "h": zeros, "c": zeros})["speech_probs"]
    np.testing.assert_allclose(at_once, found["silero"], atol=2e-4, err_msg="silero-sequence")


def test_a_sample_rate_given_at_run_time_chooses_the_branch(real_models, compiled):
    """For 576 samples the branch for 8 kHz cannot run: taking it gives NaN, and the other branch is untouched."""
    inputs = real_models.fresh_inputs("silero", {"input": (1, 576), "state": (2, 1, 128)}, seed=4)
    program = compiled("silero")
    assert np.isfinite(program.run({**inputs, "sr": np.array(16000)})["output"]).all()
    assert np.isnan(program.run({**inputs, "sr": np.array(8000)})["output"]).all()
