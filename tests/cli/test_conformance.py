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


def test_the_score_is_written_as_a_page(rlx, tmp_path):
    page = tmp_path / "score.md"
    done = rlx("conformance", "--device", "reference", "--suite", "devices", "--suite", "device_loss", "--seed", "7",
               "--json", "--write", str(page))  # fmt: skip
    text = page.read_text()
    assert (done.code, done.document["seed"]) == (0, 7)
    assert "**reference:0 conforms**" in text
    assert "rlx conformance --device reference:0 --seed 7 --write" in text
    assert f"| devices | {done.document['suites']['devices']['passed']} | 0 | 0 | 0 |" in text
    assert text.count("the interpreter computes in the process itself") == 1  # a reason, and seven cases
    assert text.count("`device_loss/") == 7


def test_a_page_that_cannot_be_written_is_a_usage_error(rlx, tmp_path):
    done = rlx(
        "conformance", "--device", "reference", "--suite", "devices", "--write", str(tmp_path / "no" / "page.md")
    )
    assert done.code == 2
    assert "cannot write the page" in done.err
