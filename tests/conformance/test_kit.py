"""The kit itself: it sees broken promises, and its lists are held to the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.driver import Buffer, Device, Semaphore
from rlx.driver import stream as stream_module
from rlx.driver.memory import DeviceMemory
from rlx.errors import BrokenBackend, UsageError
from rlx.testing.conformance import (
    Case,
    Expectations,
    Programs,
    Result,
    Score,
    all_cases,
    conform,
    kit,
    run_case,
    score_page,
)
from rlx.testing.conformance.case import Subject
from rlx.testing.conformance.lost_device import lose
from rlx.testing.conformance.script import MODES, check, simulate
from rlx.testing.conformance.suites.queue_graphs import random_script

REFERENCE = Device("reference")
PLUGIN = Path(__file__).parents[2] / "examples" / "backend_plugin"


def _case(body: Callable[[Subject], None]) -> Case:
    return Case("suite", "suite/name[f32]", body)


def _fails(subject: Subject) -> None:
    raise AssertionError("it is broken")


def _passes(subject: Subject) -> None:
    pass


def _run(body: Callable[[Subject], None], expectations: Expectations) -> tuple[str, str]:
    result = run_case(_case(body), Programs(REFERENCE), expectations)
    return result.status, result.message


# -- lists ------------------------------------------------------------------------------------------------------------


def test_a_case_passes_or_fails_and_says_why() -> None:
    assert _run(_passes, Expectations()) == ("passed", "")
    assert _run(_fails, Expectations()) == ("failed", "it is broken")
    assert _run(lambda s: Semaphore(-1) and None, Expectations())[1].startswith("SemaphoreError")


def test_an_unsupported_case_is_not_run() -> None:
    def never(subject: Subject) -> None:
        raise SystemExit

    assert _run(never, Expectations({"suite/*[f32]": "no f32"})) == ("unsupported", "no f32")


def test_an_expected_failure_is_run_and_one_that_passes_fails() -> None:
    expectations = Expectations(expected_failure={"suite/name*": "see ticket 1"})
    assert _run(_fails, expectations) == ("expected failure", "see ticket 1")
    status, message = _run(_passes, expectations)
    assert status == "failed"
    assert "it passed, though the backend says that it fails: see ticket 1" in message


def test_a_line_that_no_case_matches_is_stale() -> None:
    lists = Expectations({"numerics/*[f64]": "no f64", "nothing/*": "?"}, {"streams/*": "?", "stream/*": "?"})
    assert lists.stale(c.id for c in all_cases(full=True)) == ["nothing/*", "stream/*"]
    assert not Score("d", "d", [], ["nothing/*"], False).conforms


def test_brackets_in_patterns_stand_for_themselves() -> None:
    assert Expectations({"a/b[f32]": "x"}).why_unsupported("a/b[f32]") == "x"
    assert Expectations({"a/b[f32]": "x"}).why_unsupported("a/bf") is None


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"unsuported": {}}, "declares"),
        ([], "declares"),
        ({"unsupported": ["x"]}, "does not map ids to reasons"),
        ({"unsupported": {"x": " "}}, "gives no reason for unsupported 'x'"),
        ({"expected failure": {"x": 3}}, "gives no reason"),
    ],
)
def test_lists_of_another_form_are_refused(declared: object, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REFERENCE.backend, "conformance", declared, raising=False)
    with pytest.raises(BrokenBackend, match=words):
        Expectations.of(REFERENCE)


def test_a_case_that_hangs_fails_and_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "LIMIT_S", 0.05)
    end = threading.Event()
    status, message = _run(lambda s: end.wait(20) and None, Expectations())
    end.set()
    assert status == "failed"
    assert "did not end" in message


def test_ids_are_unique_and_an_unknown_suite_is_named() -> None:
    ids = [case.id for case in all_cases(full=True)]
    assert len(ids) == len(set(ids))
    with pytest.raises(UsageError, match="(?s)no suite 'stream'.*did you mean 'streams'"):
        all_cases(suites=["stream"])


# -- broken devices ---------------------------------------------------------------------------------------------------


def _failed(*suites: str) -> set[str]:
    return {r.id for r in conform(REFERENCE, suites=suites).results if r.status == "failed"}


def test_semaphores_that_go_back_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def signal(self: Semaphore, value: int) -> None:
        with self._changed:
            self._value = value
            self._changed.notify_all()

    monkeypatch.setattr(Semaphore, "signal", signal)
    assert "semaphores/time_does_not_go_back" in _failed("semaphores")


def test_failures_that_semaphores_forget_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Semaphore, "settle", lambda self, failure: None if failure is None else self.signal(2**63))
    assert "failures/every_wait_behind_the_failure_names_it" in _failed("failures")


def test_streams_that_run_at_once_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self: stream_module._Queue, *operations: object) -> None:
        for operation in operations:
            self.execute(operation)  # type: ignore[arg-type]

    monkeypatch.setattr(stream_module._Queue, "put", put)
    for module in ("blocking", "suites.streams"):
        monkeypatch.setattr(f"rlx.testing.conformance.{module}.SOON", 0.05)
    assert _failed("streams") >= {
        "streams/enqueuing_returns_while_the_stream_is_held", "streams/two_streams_run_at_the_same_time",
    }  # fmt: skip


def test_fills_that_write_beside_their_target_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Buffer.fill

    def fill(self: Buffer, value: complex | np.generic) -> None:
        right(self, value)
        if self.is_view and self.nbytes % 4:
            self.block.memory.backend.fill(self.address + self.nbytes, b"\x4d", 1)  # rounds up, as 4-byte fills do

    monkeypatch.setattr(Buffer, "fill", fill)
    assert "views/a_part_at_any_offset_is_read_and_filled_alone[u8]" in _failed("views")


def test_an_account_that_loses_bytes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceMemory, "take_back", lambda self, address: None)
    memory = DeviceMemory(REFERENCE, REFERENCE.backend.memory(0))
    monkeypatch.setitem(sys.modules["rlx.driver.memory"]._memories, (REFERENCE, "device"), memory)
    assert "allocator/bytes_in_use_follow_what_is_held" in _failed("allocator")


def test_a_device_that_comes_back_is_seen(opaque: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = opaque.backend.memory(opaque.ordinal)
    monkeypatch.setattr(memory, "lost", False)
    assert set(lose(opaque).values()) == {None}
    monkeypatch.setattr(memory, "lost", False)
    monkeypatch.setattr(type(memory), "synchronize", lambda self: None)
    assert "every_operation_raises_it" in {promise for promise, broken in lose(opaque).items() if broken}


# -- random queue graphs ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs_of(plugin_path: list[str]) -> Iterator[dict[str, Programs]]:
    """Device -> its programs, compiled once for all examples."""
    made = {name: Programs(Device(name)) for name in ("reference", "cpu", "opaque")}
    yield made
    for programs in made.values():
        programs.close()


@settings(max_examples=25, deadline=None)
@given(
    device=st.sampled_from(["reference", "cpu", "opaque"]),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 30),
)
def test_random_queue_graphs_end_as_numpy_says(
    programs_of: dict[str, Programs], device: str, mode: str, seed: int, length: int
) -> None:
    subject = Subject(programs_of[device], "hypothesis", mode)
    with subject.ends:
        check(subject, random_script(np.random.default_rng(seed), length))


def test_random_queue_graphs_use_every_kind_of_command_and_cross_lanes() -> None:
    script = random_script(np.random.default_rng(1), 60)
    kinds = {type(command).__name__ for _, command in script.steps}
    assert kinds == {"Fill", "Copy", "Run", "Signal", "Wait"}
    assert script.lanes == [0, 1, 2]
    assert any(content.any() for content in simulate(script).values())


# -- faces ------------------------------------------------------------------------------------------------------------


def test_the_score_is_plain_json_and_counts_every_case() -> None:
    score = conform(REFERENCE, suites=["devices", "events"])
    document = json.loads(json.dumps(score.document()))
    assert document["conforms"] is True
    assert (
        document["counts"]["passed"] == len(document["cases"]) == sum(s["passed"] for s in document["suites"].values())
    )
    assert list(document["suites"]) == ["devices", "events"]


def test_a_page_tells_each_reason_once_and_numerics_by_dtype() -> None:
    results = [
        Result("numerics/add[f32]", "numerics", "passed", 1.0),
        Result("numerics/add[f64]", "numerics", "unsupported", 0.0, "no f64"),
        Result("numerics/mul[f64]", "numerics", "unsupported", 0.0, "no f64"),
        Result("views/x", "views", "failed", 2.0, "wrong\nby 1"),
    ]
    page = score_page(Score("mine:0", "Mine", results, ["old/*"], True, 3))
    assert "**mine:0 does not conform**" in page
    assert "| f64 | 0 | 0 | 0 | 2 | 0.00 s |" in page
    assert "| all | 1 | 1 | 0 | 2 | 3.00 s |" in page
    assert "- no f64: `numerics/add[f64]`, `numerics/mul[f64]`" in page
    assert "- wrong by 1: `views/x`" in page
    assert "- `old/*`" in page


def test_a_strangers_package_runs_the_kit_with_pytest(plugin_path: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rlx-device", "opaque",
         "--rootdir", str(PLUGIN), str(PLUGIN / "tests"), "-k", "devices or events"],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*plugin_path, *filter(None, sys.path)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_a_line_that_no_case_matches_ends_a_strangers_session(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from rlx.driver import Device\n"
        "pytest_plugins = ['rlx.testing.conformance.pytest_plugin']\n"
        "type(Device('reference').backend).conformance = {'unsupported': {'nothing/*': 'why'}}\n"
    )
    (tmp_path / "test_it.py").write_text("def test_it(rlx_conformance):\n    rlx_conformance()\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rlx-device", "reference", str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode != 0
    assert "the backend's lists name 'nothing/*', which no case matches" in done.stdout + done.stderr
