"""Charts as PNG files: what is drawn, and what is said where that cannot be."""

import sys

import numpy as np
import pytest

from rlx.cli.raster import write_png
from rlx.errors import UsageError

CHART = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 100" font-size="11">
<rect width="100%" height="100%" fill="white"/>
<line x1="0" y1="50" x2="200" y2="50" stroke="#0000ff"/>
<circle cx="50" cy="50" r="20" fill="#ff0000" fill-opacity="0.35" stroke="#ff0000"><title>a launch</title></circle>
<text x="190" y="20" text-anchor="end" fill="#333">1e9</text></svg>
"""


def pixels(file) -> np.ndarray:
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(file)).astype(int)


def test_lines_circles_and_text_stand_where_the_chart_says(tmp_path):
    pytest.importorskip("PIL")
    write_png(tmp_path / "chart.png", CHART)
    drawn = pixels(tmp_path / "chart.png")
    assert drawn.shape == (200, 400, 3)
    assert (drawn[4, 4] == 255).all()
    red, green, blue = drawn[100, 300]
    assert blue > 200 and max(red, green) < 120
    red, green, blue = drawn[85, 100]
    assert red == 255 and 140 < green < 190 and 140 < blue < 190  # 0.35 of red on white
    label = drawn[20:42, 330:382].min(axis=2)
    assert label.min() < 100 and 20 < (label < 160).sum() < label.size / 2
    assert (drawn[20:42, 384:] == 255).all()


def test_bench_draws_the_roofline_of_a_model(rlx, affine, tmp_path):
    pytest.importorskip("PIL")
    asked = ("bench", affine, "--seconds", "0.1", "--threads", "1", "--png", tmp_path / "roofline.png")
    assert rlx(*asked).code == 0
    assert len(np.unique(pixels(tmp_path / "roofline.png").reshape(-1, 3), axis=0)) > 10


def test_a_missing_package_is_told_before_anything_is_measured(rlx, affine, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.Image", raising=False)
    done = rlx("bench", affine, "--seconds", "60", "--png", tmp_path / "roofline.png")
    assert done.code == 4
    assert "rlx[png]" in done.err
    assert not (tmp_path / "roofline.png").exists()


def test_a_file_that_cannot_be_written_is_an_error_of_ours(tmp_path):
    pytest.importorskip("PIL")
    with pytest.raises(UsageError, match="cannot be written"):
        write_png(tmp_path / "nowhere" / "chart.png", CHART)
    with pytest.raises(UsageError, match="another kind"):
        write_png(tmp_path / "chart.svg", CHART)
