"""`rlx tune`: a table of kernels, the whole program beside the untuned one, and programs that run tuned afterwards."""

import numpy as np
import pytest

from rlx.backends.cpu import tuning
from rlx.cli import tune
from rlx.ir import GraphBuilder, TensorType, print_graph
from rlx.ir.dtypes import f32
from rlx.runtime import CompiledGraph


@pytest.fixture
def product(tmp_path):
    b = GraphBuilder("product")
    x, w = b.input("x", TensorType((24, 16), f32)), b.input("w", TensorType((16, 40), f32))
    y = b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,))
    path = tmp_path / "product.rlx.txt"
    path.write_text(print_graph(b.build({"y": b.emit("tanh", y)})))
    return path


@pytest.fixture
def favoured(monkeypatch):
    """Trials that take half the time under schedules with tiles of 4 rows."""

    class Trial:
        answer = b"the same"

        def __init__(self, candidate, copies, *rest):
            self.seconds = [5e-4 if "tile 4x" in candidate.launch.kernel.identity else 1e-3] * copies

        def run(self):
            return self.seconds

        def close(self):
            pass

    monkeypatch.setattr(tuning, "Trial", Trial)
    monkeypatch.setattr(tune, "_WHOLE_S", 0.01)
    monkeypatch.setenv("RLX_TARGET", "portable")


def test_the_table_tells_default_best_and_gain(rlx, product, favoured):
    found = rlx("tune", product, "--threads", 1)
    assert found.code == 0
    assert "24x40x16" in found.out and "tile 4x8" in found.out
    assert "1 ms" in found.out and "500 us" in found.out and "100%" in found.out
    assert "tuned" in found.out and "default" in found.out


def test_as_json_every_kernel_has_both_times_and_the_program_too(rlx, product, favoured):
    document = rlx("tune", product, "--threads", 1, "--json").document
    (kernel,) = document["kernels"]
    assert kernel["sizes"] == "24x40x16"
    assert (document["default_seconds"], document["best_seconds"]) == (1e-3, 5e-4)
    assert set(document["program"]) == {"default", "tuned"}


def test_inspect_says_which_kernels_run_tuned_schedules(rlx, product, favoured):
    rlx("tune", product, "--threads", 1)
    tuned = rlx("inspect", product, "--threads", 1, "--tune", "--show", "fusion")
    assert "tuned to" in tuned.out and "tile 4x8" in tuned.out
    assert "tuned to" not in rlx("inspect", product, "--threads", 1, "--show", "fusion").out


def test_a_model_without_products_has_nothing_to_tune(rlx, affine, favoured):
    found = rlx("tune", affine, "--json")
    assert found.code == 0
    assert found.document["kernels"] == []


def test_a_tuned_program_with_other_answers_is_an_error(rlx, product, favoured, monkeypatch):
    run = CompiledGraph.run
    monkeypatch.setattr(
        CompiledGraph,
        "run",
        lambda self, feeds: {
            n: a + np.float32(any(s.schedule for s in self.report.steps)) for n, a in run(self, feeds).items()
        },
    )
    found = rlx("tune", product, "--threads", 1)
    assert found.code == 1
    assert "TunedAnswerDiffers" in found.err and "RLX-R017" in found.err
