"""Tuning: what is measured, what is kept, and that answers stay as they are.

Where the choice is tested, trials are fakes whose times the test gives and the clock is theirs; one test measures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlx import Options, Session
from rlx.backends.cpu import tuning
from rlx.backends.cpu.scheduled import ScheduledTemplates
from rlx.backends.cpu.trial import candidates_of
from rlx.codegen.lower import lower
from rlx.codegen.target import PRESETS
from rlx.ir import Graph, GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.options import OptionError
from rlx.passes.pipeline import optimize
from rlx.runtime.session import _memory
from rlx.runtime.tuning_records import TuningRecords


def graph_of(rows: int = 40, columns: int = 96, depth: int = 24) -> Graph:
    """tanh(x @ w) @ v, with other sizes for the second product."""
    rng = np.random.default_rng(rows)
    b = GraphBuilder("net")
    y = b.input("x", TensorType((rows, depth), f32))
    for name, shape in (("w", (depth, columns)), ("v", (columns, 160))):
        weight = b.parameter(name, rng.standard_normal(shape, np.float32))
        y = b.emit("tanh", b.emit("dot_general", y, weight, lhs_contract=(1,), rhs_contract=(0,)))
    return b.build({"y": y})


class FakeTrials:
    """Makes trials whose launches take what `seconds` says of their schedule, on a clock that they alone move."""

    def __init__(self, seconds: Callable[[str], float]) -> None:
        self.seconds, self.now, self.made = seconds, 0.0, 0
        self.clock: Callable[[], float] = lambda: self.now
        self.answer: Callable[[str], bytes] = lambda kernel: b"the same"

    def __call__(self, candidate: Any, copies: int, *rest: Any) -> Any:
        trials, kernel = self, candidate.launch.kernel.identity
        self.made += 1

        class Trial:
            answer = trials.answer(kernel)

            def run(self) -> list[float]:
                took = trials.seconds(kernel)
                trials.now += took * copies
                return [took] * copies

            def close(self) -> None:
                pass

        return Trial()


@pytest.fixture
def fake(monkeypatch):
    """Trials in which tiles of 5 rows are the fastest, and those in blocks of 20 faster yet."""
    trials = FakeTrials(lambda kernel: 1e-3 * (0.5 if "tile 5x8" in kernel else 1) * (0.8 if "of 20," in kernel else 1))
    monkeypatch.setattr(tuning, "Trial", trials)
    init = tuning.Tuner.__init__
    monkeypatch.setattr(tuning.Tuner, "__init__", lambda self, *a: init(self, *a, clock=lambda: trials.clock()))
    _memory.clear()
    yield trials
    _memory.clear()


@pytest.fixture
def options(tmp_path):
    """For the instruction set whose default tiles have 6 rows, whatever the machine."""
    return Options(threads=1, target="portable", tune=True, cache_dir=tmp_path / "cache")


def chosen(program: Any) -> list[str]:
    return [step.schedule for step in program.report.steps]


def test_the_fastest_schedule_is_compiled_and_gives_the_bits_of_the_default(fake, options):
    graph = graph_of()
    tuned = Session("cpu", options).compile(graph)
    plain = Session("cpu", replace(options, tune=False)).compile(graph)
    assert chosen(tuned) == ["tile 5x8, blocks of 20, blocks first"] * 2
    assert chosen(plain) == ["", ""]
    x = np.random.default_rng(1).standard_normal((40, 24), np.float32)
    assert tuned(x=x)["y"].tobytes() == plain(x=x)["y"].tobytes()
    for row in tuned.report.data["tuning"]:
        assert row["measured"] == "compile"
        assert row["best_seconds"] == pytest.approx(0.4 * row["default_seconds"])


def test_nothing_is_measured_twice(fake, options):
    graph = graph_of()
    first = Session("cpu", options).compile(graph)
    made = fake.made
    _memory.clear()
    again = Session("cpu", options).compile(graph)
    assert again.report.cache == "disk"
    for path in options.cache_dir.glob("*.rlxc"):
        path.unlink()
    _memory.clear()
    compiled = Session("cpu", options).compile(graph)
    assert compiled.report.cache == "compiled"
    assert fake.made == made
    assert chosen(first) == chosen(again) == chosen(compiled) != ["", ""]
    assert compiled.report.data["tuning"][0]["measured"] == "record"


def test_another_number_of_threads_is_measured_anew(fake, options):
    graph = graph_of()
    Session("cpu", options).compile(graph)
    made = fake.made
    Session("cpu", replace(options, threads=2)).compile(graph)
    assert fake.made == 2 * made


def test_a_candidate_with_another_answer_is_refused_however_fast(fake, options):
    fake.answer = lambda kernel: b"wrong" if "tile 5x" in kernel else b"the same"
    schedules = chosen(Session("cpu", options).compile(graph_of()))
    assert all("of 20," in schedule and "tile 5x" not in schedule for schedule in schedules)
    (record, *_) = (json.loads(p.read_text())["record"] for p in options.cache_dir.glob("*.json"))
    assert {refused["tile"]["rows"] for refused in record["refused"]} == {5}


def test_the_default_stays_unless_it_is_beaten_clearly(fake, options):
    fake.seconds = lambda kernel: 1e-3 * (0.99 if "tile 5x" in kernel else 1.0)
    assert chosen(Session("cpu", options).compile(graph_of())) == ["", ""]


def test_what_there_is_no_time_for_keeps_the_default_and_is_measured_the_next_time(fake, options):
    graph = graph_of()
    short = replace(options, tune_seconds=1e-9)
    fake.now = 1.0
    ticking = iter(range(10**6))
    fake.clock = lambda: next(ticking)
    first = Session("cpu", short).compile(graph)
    assert chosen(first) == ["", ""]
    assert list(options.cache_dir.glob("*")) == []
    fake.clock = lambda: fake.now
    assert "" not in chosen(Session("cpu", options).compile(graph))


@pytest.mark.parametrize("wrong", [{"tile": {"rows": 40, "vectors": 4, "columns": 64}}, {"copied": True}, {"near": 3}])
def test_a_record_of_a_schedule_that_is_not_legal_here_is_measured_anew(wrong, options, fake, monkeypatch):
    graph = graph_of()
    Session("cpu", options).compile(graph)
    made = fake.made
    true = TuningRecords.find

    def damaged(self, parts):
        record = true(self, parts)
        return record and {**record, "best": {**record["best"], **wrong}}

    monkeypatch.setattr(TuningRecords, "find", damaged)
    _memory.clear()
    for path in options.cache_dir.glob("*.rlxc"):
        path.unlink()
    program = Session("cpu", options).compile(graph)
    assert fake.made == 2 * made
    assert program.report.data["tuning"][0]["measured"] == "compile"


def test_equal_layers_are_one_site_with_so_many_launches():
    b = GraphBuilder("layers")
    y = b.input("x", TensorType((40, 32), f32))
    for i in range(3):
        weight = b.parameter(f"w{i}", np.ones((32, 32), np.float32))
        y = b.emit("tanh", b.emit("dot_general", y, weight, lhs_contract=(1,), rhs_contract=(0,)))
    templates = ScheduledTemplates(PRESETS["avx2"], "direct", {})
    program = lower(optimize(b.build({"y": y}), level=2), templates)
    candidates, launches = candidates_of(program, templates.sites)
    (site,) = candidates
    assert launches == {site: 3}
    assert len(candidates[site].packs) == 1


def test_measured_for_real_the_program_gives_the_same_bits_on_any_threads(tmp_path):
    graph = graph_of(rows=33, columns=40, depth=10)
    x = np.random.default_rng(2).standard_normal((33, 10), np.float32)
    plain = Session("cpu", Options(threads=1, cache=False)).compile(graph)(x=x)["y"].tobytes()
    for threads in (1, 2):
        tuned = Session("cpu", Options(threads=threads, tune=True, tune_seconds=2.0, cache=False)).compile(graph)
        assert tuned(x=x)["y"].tobytes() == plain


def test_a_device_with_nothing_to_tune_refuses():
    with pytest.raises(OptionError, match="nothing to tune"):
        Session("reference", Options(tune=True))


def test_seconds_to_tune_for_are_above_none():
    with pytest.raises(OptionError, match="tune_seconds"):
        Options(tune_seconds=0)
