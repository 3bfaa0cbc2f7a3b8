"""`rlx conformance`: the score as a table and as JSON, and the exit code."""

import pytest

from rlx.driver import Device


def test_a_device_that_conforms_gets_its_table(rlx):
    done = rlx("conformance", "--device", "reference", "--suite", "devices", "--suite", "views")
    assert done.code == 0
    assert "conformance of reference:0 (NumPy interpreter)" in done.out
    assert "reference:0 conforms" in done.err


def test_a_broken_promise_is_shown_and_ends_with_1(rlx, monkeypatch):
    backend = Device("reference").backend
    monkeypatch.setattr(type(backend), "target_key", lambda self, device, options: {"form": 3})
    done = rlx("conformance", "--device", "reference", "--suite", "devices", "--json")
    assert done.code == 1
    assert done.document["conforms"] is False
    (failed,) = [c for c in done.document["cases"] if c["status"] == "failed"]
    assert failed["id"] == "devices/has_a_target_key_of_strings_that_stays"
    assert "not strings" in failed["message"]


@pytest.mark.parametrize(("device", "code"), [("nowhere", 3), ("no name", 2)])
def test_a_device_that_is_not_here_is_not_tested(rlx, device, code):
    assert rlx("conformance", "--device", device).code == code


def test_an_unknown_suite_is_a_usage_error(rlx):
    done = rlx("conformance", "--suite", "view", "--json")
    assert done.code == 2
    assert "did you mean 'views'?" in done.document["error"]["hint"]
