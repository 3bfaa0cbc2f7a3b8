"""A model that is loaded again finds its program without its graph, and never another model's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest

import rlx
from rlx.ir.dtypes import f32
from rlx.runtime.cache import SUFFIX, MemoryCache

X = rlx.ir.TensorType((rlx.ir.Dim("rows", 1), 4), f32)


class Scaled:
    """y = x * weight + bias, as a frontend's model; it counts its graphs."""

    def __init__(self, weight: np.ndarray, *, identity: str | None = "scaled", copies: bool = False) -> None:
        self.source, self.identity = "scaled.model", identity
        self.inputs, self.outputs = {"x": X}, {"y": X}
        self.weights: Mapping[str, np.ndarray] = {"weight": weight}
        self.graphs = 0
        self._copies = copies

    def specialize(self, shapes: Mapping[str, tuple[int, ...]]) -> rlx.Graph:
        self.graphs += 1
        b = rlx.ir.GraphBuilder("scaled", source=self.source)
        x = b.input("x", rlx.ir.TensorType(shapes["x"], f32))
        weight = self.weights["weight"]
        weight = b.parameter("weight", weight.copy() if self._copies else weight)
        return b.build({"y": b.binary("mul", x, weight)})

    def default(self, name: str, type: rlx.ir.TensorType) -> np.ndarray | None:
        return None


def weight(value: float) -> np.ndarray:
    return np.full(4, value, np.float32)


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setattr("rlx.runtime.session._memory", MemoryCache())
    return rlx.Session("reference", rlx.Options(threads=1, cache_dir=tmp_path / "cache"))


def scale(session, model: Scaled, rows: int = 2) -> float:
    with session.compile(model, {"x": (rows, 4)}) as program:
        return float(program(x=np.ones((rows, 4), np.float32))["y"][0, 0])


def test_the_second_load_builds_no_graph(session):
    assert scale(session, Scaled(weight(3))) == 3
    again = Scaled(weight(3))
    assert scale(session, again) == 3
    assert again.graphs == 0


def test_changed_weights_are_the_ones_that_count(session):
    scale(session, Scaled(weight(3)))
    changed = Scaled(weight(5))
    assert scale(session, changed) == 5
    assert changed.graphs == 0


def test_other_sizes_another_identity_and_other_options_miss(session):
    scale(session, Scaled(weight(3)))
    for other, rows, model in (
        (session, 3, Scaled(weight(3))),
        (session, 2, Scaled(weight(3), identity="changed")),
        (
            rlx.Session("reference", rlx.Options(optimize=False, cache_dir=session.options.cache_dir)),
            2,
            Scaled(weight(3)),
        ),
    ):
        assert scale(other, model, rows) == 3
        assert model.graphs == 1


def test_a_model_whose_weight_lacks_or_has_another_shape_misses(session):
    scale(session, Scaled(weight(3)))
    model = Scaled(np.full((1,), 3, np.float32))
    with pytest.raises(rlx.errors.RLXError):
        model.weights = {"weight": np.full((3,), 3, np.float32)}
        scale(session, model)
    assert model.graphs == 1


@pytest.mark.parametrize("model", [{"identity": None}, {"copies": True}])
def test_nothing_is_noted_without_an_identity_or_where_a_parameter_is_no_weight_of_the_file(session, model):
    scale(session, Scaled(weight(3), **model))
    again = Scaled(weight(3), **model)
    assert scale(session, again) == 3
    assert again.graphs == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda data: b""])
def test_truncated_entries_and_notes_are_misses(session, damage):
    scale(session, Scaled(weight(3)))
    for path in session.options.cache_dir.glob(f"*{SUFFIX}"):
        path.write_bytes(damage(path.read_bytes()))
    again = Scaled(weight(3))
    assert scale(session, again) == 3
    assert again.graphs == 1


def test_a_note_whose_entry_is_gone_is_a_miss(session, monkeypatch):
    scale(session, Scaled(weight(3)))
    entries = sorted(session.options.cache_dir.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_size)
    assert len(entries) == 2
    entries[-1].unlink()
    monkeypatch.setattr("rlx.runtime.session._memory", MemoryCache())
    again = Scaled(weight(3))
    assert scale(session, again) == 3
    assert again.graphs == 1


def test_a_session_imports_no_op_record_no_planner_and_no_compiler():
    code = """
import sys
import rlx
session = rlx.Session("cpu", rlx.Options(threads=1))
assert not [m for m in sys.modules if m.startswith(("rlx.ir.ops", "rlx.driver.plan", "rlx.passes", "rlx.codegen"))]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
