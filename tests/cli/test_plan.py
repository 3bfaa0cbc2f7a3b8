"""`rlx plan`: a certified plan for a file of values."""

import pytest


@pytest.fixture
def chain(tmp_path):
    path = tmp_path / "chain.csv"
    path.write_text("id,lower,upper,size\na,0,2,96\nb,1,3,32\nc,2,4,64\n")
    return path


def test_plan_gives_certified_offsets_and_the_bound(rlx, chain):
    found = rlx("plan", chain, "--json").document
    assert found["certified"] is True
    assert (found["values"], found["size"], found["lower_bound"], found["ratio"]) == (3, 128, 128, 1.0)
    assert set(found["offsets"]) == {"a", "b", "c"}


def test_plan_honours_an_alignment(rlx, chain):
    found = rlx("plan", chain, "--alignment", 64, "--json").document
    assert found["size"] == 192
    assert all(offset % 64 == 0 for offset in found["offsets"].values())


def test_plan_shows_people_the_ratio_and_what_is_alive_at_the_peak(rlx, chain):
    done = rlx("plan", chain, "--budget", "0")
    assert done.code == 0
    for words in ("ratio", "1.0000", "certificate", "peak at step 1: 2 of 3 values alive"):
        assert words in done.out


def test_plan_draws_the_plan_and_says_where_it_cannot(rlx, chain, tmp_path):
    assert rlx("plan", chain, "--svg", tmp_path / "plan.svg").code == 0
    assert (tmp_path / "plan.svg").read_text().count('class="value') == 3
    refused = rlx("plan", chain, "--svg", tmp_path / "nowhere" / "plan.svg")
    assert refused.code == 2
    assert "cannot be written" in refused.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("text", "code", "why"),
    [
        (None, 2, "cannot be read"),
        ("id,lower,size\n", 1, "no column 'upper'"),
        ("id,lower,upper,size\na,3,3,1\n", 1, "'a' is never alive"),
    ],
)
def test_plan_refuses_what_is_no_set_of_values(rlx, tmp_path, text, code, why):
    path = tmp_path / "values.csv"
    if text is not None:
        path.write_text(text)
    done = rlx("plan", path)
    assert done.code == code
    assert why in done.err.replace("\n", " ")
