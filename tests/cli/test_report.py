"""`rlx inspect`, `bench`, `devices` and `doctor`."""

import os

import numpy as np
import pytest

from rlx.cli import bench, doctor
from rlx.ir import GraphBuilder, TensorType, print_graph
from rlx.ir.dtypes import f32
from rlx.ir.text import parse_text


def test_inspect_shows_every_section_of_a_closed_model(rlx, affine):
    found = rlx("inspect", affine, "--json").document
    assert found["inputs"] == {"x": "f32[2, 3]", "n": "i64[]"}
    assert found["outputs"] == {"y": "f32[2, 3]", "m": "i64[]"}
    assert found["ops"]["mul"] == found["ops"]["neg"] == 1
    assert found["parameters"] == {"count": 0, "bytes": 0}
    assert parse_text(found["graph"]).output_names == ("y", "m")
    assert found["memory"]["arena_bytes"] >= found["memory"]["lower_bound"]
    assert {"mul", "add"} <= {op for group in found["fusion"] for op in group["ops"]}
    assert found["dispatch"] == []


def test_inspect_prints_for_people_what_json_holds(rlx, affine):
    done = rlx("inspect", affine)
    assert done.code == 0
    for words in ("inputs", "outputs", "f32[2, 3]", "ops", "launches", "arena"):
        assert words in done.out


def test_inspect_of_an_open_model_shows_its_interface_and_how_to_see_more(rlx, open_model):
    done = rlx("inspect", open_model)
    assert done.code == 0
    assert "f32[batch, 4]" in done.out
    assert "--shape x=1,4" in done.err
    assert set(rlx("inspect", open_model, "--json").document) == {"model", "inputs", "outputs"}


def test_inspect_refuses_a_section_that_needs_sizes(rlx, open_model):
    assert rlx("inspect", open_model, "--show", "memory").code == 2
    assert rlx("inspect", open_model, "--show", "memory", "--shape", "x=1,4").code == 0


def test_inspect_shows_one_section_alone(rlx, affine):
    assert set(rlx("inspect", affine, "--show", "ops", "--json").document) == {"model", "parameters", "ops"}


def test_inspect_draws_the_arena(rlx, tmp_path):
    model = tmp_path / "sorted.rlx.txt"
    b = GraphBuilder("sorted")
    x = b.input("x", TensorType((64,), f32))
    model.write_text(print_graph(b.build({"y": b.emit("cumsum", b.emit("cumsum", x, dimension=0), dimension=0)})))
    assert rlx("inspect", model, "--svg", tmp_path / "arena.svg", "--show", "ops").code == 0
    assert "256 bytes at 0" in (tmp_path / "arena.svg").read_text()


def test_a_drawing_is_not_written_into_a_file_of_another_kind(rlx, affine, tmp_path):
    done = rlx("inspect", affine, "--svg", tmp_path / "arena.png")
    assert done.code == 2 and ".svg" in done.err
    assert not (tmp_path / "arena.png").exists()


@pytest.mark.parametrize(
    ("one", "two", "gap"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.25), ([1.0, np.nan], [1.0, np.nan], 0), ([1.0, np.inf], [1.0, np.inf], 0),
        ([1.0, 2.0], [1.0, np.nan], np.inf), ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([np.inf, 1.0], [-np.inf, 1.0], np.inf),
        ([1.0, np.inf], [1.5, np.inf], 0.5), ([], [], 0),
    ],
)  # fmt: skip
def test_answers_that_are_no_numbers_on_one_side_alone_differ_without_bound(one, two, gap):
    runs = {"rlx": lambda: {"y": np.array(one)}, "peer": lambda: {"y": np.array(two)}}
    assert bench.greatest_difference(runs) == gap


def test_bench_gives_median_quartiles_and_the_share_of_the_ceilings(rlx, affine):
    found = rlx("bench", affine, "--seconds", "0.1", "--threads", "1", "--json").document
    (timing,) = found["timings"]
    assert timing["name"] == "rlx"
    assert 0 < timing["low"] <= timing["median"] <= timing["high"]
    assert found["ceilings"]["flops"]["f32"] > 1e8
    assert 0 < found["share_of_ceiling"] < 1


def test_bench_lists_kernels_beside_their_limits_and_draws_them(rlx, affine, tmp_path):
    chart, page = tmp_path / "roofline.svg", tmp_path / "report.html"
    asked = ("bench", affine, "--seconds", "0.1", "--threads", "1", "--roofline", "--svg", chart, "--html", page)
    found = rlx(*asked, "--json").document["roofline"]
    steps = sorted(k["step"] for k in found["kernels"])
    assert steps == list(range(len(steps))) and steps
    assert all(k["seconds"] > 0 and k["least_seconds"] > 0 for k in found["kernels"])
    assert chart.read_text().startswith("<svg")
    assert chart.read_text().splitlines()[-2] in page.read_text()
    assert "worst loss first" in rlx(*asked).out


def test_bench_refuses_a_roofline_where_ceilings_cannot_be_measured(rlx, affine, tmp_path):
    assert rlx("bench", affine, "--roofline", "--device", "reference").code == 2
    assert rlx("bench", affine, "--html", tmp_path / "missing" / "report.html", "--seconds", "0.1").code == 2


def test_inspect_writes_the_whole_report_as_a_page(rlx, affine, tmp_path):
    page = tmp_path / "report.html"
    assert rlx("inspect", affine, "--html", page).code == 0
    text = page.read_text()
    assert "Launches" in text and "<script" not in text
    for row in rlx("inspect", affine, "--show", "fusion", "--json").document["fusion"]:
        assert " ".join(row["ops"]) in text


def test_devices_lists_the_cpu_and_the_reference(rlx):
    found = rlx("devices", "--json").document
    assert {"cpu:0", "reference:0"} <= {device["device"] for device in found["devices"]}
    assert "cpu:0" in rlx("devices").out


def test_doctor_finds_a_healthy_machine(rlx):
    done = rlx("doctor", "--json")
    assert done.code == 0
    assert done.document["healthy"]
    found = {f["subject"]: f for f in done.document["findings"]}
    assert found["device cpu:0"]["works"]
    assert found["llvmlite"]["works"]


def test_doctor_says_what_is_missing_and_the_command_that_mends_it(rlx, monkeypatch):
    monkeypatch.setattr(doctor, "_OPTIONAL", {"no-such-package": ("reading dreams", "pip install dreams")})
    done = rlx("doctor")
    assert done.code == 0
    assert "not installed: reading dreams" in done.out
    assert "pip install dreams" in done.out


def test_doctor_ends_with_1_where_something_needed_is_missing(rlx, monkeypatch):
    monkeypatch.setattr(doctor, "_NEEDED", ("no-such-package",))
    done = rlx("doctor")
    assert done.code == 1
    assert "MISSING" in done.out


@pytest.mark.parametrize("mode", [0o777, 0o500])
def test_doctor_finds_a_cache_directory_that_cannot_be_trusted(rlx, tmp_path, monkeypatch, mode):
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(mode)
    monkeypatch.setenv("RLX_CACHE_DIR", str(directory))
    found = {f["subject"]: f for f in rlx("doctor", "--json").document["findings"]}
    # The superuser may write where others may not.
    works = mode == 0o500 and os.geteuid() == 0
    assert found["compile cache"]["works"] is works
