"""Values as CSV: both names of each column, and errors that name the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlx.driver import Interval
from rlx.driver.plan_file import read_intervals
from rlx.errors import PlanError


def _write(directory: Path, text: str) -> Path:
    path = directory / "values.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    ["\ufeffid,lower,upper,size\na,0,3,64\nb,1,4,128\n", "extra,size,name,end,start\nx,64,a,3,0\ny,128,b,4,1\n"],
)
def test_columns_go_by_either_name_in_any_order(tmp_path: Path, text: str) -> None:
    assert read_intervals(_write(tmp_path, text)) == [Interval("a", 0, 3, 64), Interval("b", 1, 4, 128)]


@pytest.mark.parametrize(
    ("text", "why", "line"),
    [
        ("", "no column 'id'", "line 1"),
        ("id,lower,size\na,0,3\n", "no column 'upper'", "line 1"),
        ("id,lower,upper,size\na,0,1,8\nb,0,one,8\n", "value 'b' has no three whole numbers", "line 3"),
        ("id,lower,upper,size\na,0,1\n", "value 'a' has no three whole numbers", "line 2"),
        ("id,lower,upper,size\n" + "a" * 200_000 + ",0,1,8\n", "no CSV: field larger", "values.csv"),
    ],
)
def test_what_is_no_value_is_named_with_its_line(tmp_path: Path, text: str, why: str, line: str) -> None:
    with pytest.raises(PlanError, match=why) as caught:
        read_intervals(_write(tmp_path, text))
    assert caught.value.where.endswith(line)
