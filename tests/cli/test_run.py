"""`rlx run`: given and random inputs, saved outputs, and what it says of a wrong call."""

import numpy as np
import pytest


def test_given_inputs_give_the_models_outputs(rlx, affine, x_file, tmp_path):
    done = rlx("run", affine, "--input", f"x={x_file}", "--output", tmp_path / "out", "--json")
    assert done.code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), np.load(x_file) * 2 + 1)
    y = done.document["outputs"]["y"]
    assert (y["dtype"], y["shape"], y["least"], y["greatest"]) == ("float32", [2, 3], 1.0, 11.0)
    assert done.document["inputs"]["x"]["from"] == str(x_file)


def test_the_table_names_every_input_and_output(rlx, affine):
    done = rlx("run", affine)
    assert done.code == 0
    assert all(word in done.out for word in ("x", "n", "y", "f32[2, 3]", "i64[]"))


def test_random_inputs_are_said_to_be_random_and_follow_the_seed(rlx, affine):
    first, again, other = (rlx("run", affine, "--json", "--seed", seed).document for seed in (3, 3, 4))
    assert first["inputs"]["x"]["from"] == "random normal, seed 3"
    assert first["inputs"]["n"]["from"] == "random 0 or 1, seed 3"
    assert first["outputs"] == again["outputs"]
    assert first["outputs"]["y"] != other["outputs"]["y"]


def test_a_random_input_does_not_depend_on_which_others_are_given(rlx, affine, x_file, tmp_path):
    np.save(tmp_path / "n.npy", np.int64(9))
    alone = rlx("run", affine, "--json").document["outputs"]["y"]
    with_n = rlx("run", affine, "--json", "--input", f"n={tmp_path / 'n.npy'}").document["outputs"]
    assert with_n["y"] == alone
    assert with_n["m"]["least"] == -9


@pytest.mark.parametrize("device", ["cpu", "reference", "reference:0"])
def test_every_device_runs_it(rlx, affine, device):
    done = rlx("run", affine, "--device", device, "--json")
    assert done.code == 0
    assert done.document["device"].startswith(device)


def test_values_that_are_not_finite_are_counted_and_stay_json(rlx, affine, tmp_path):
    np.save(tmp_path / "x.npy", np.full((2, 3), np.nan, np.float32))
    y = rlx("run", affine, "--json", "--input", f"x={tmp_path / 'x.npy'}").document["outputs"]["y"]
    assert (y["least"], y["not_finite"]) == (None, 6)


def test_shapes_close_what_the_model_leaves_open(rlx, open_model):
    done = rlx("run", open_model, "--shape", "x=3,4", "--json")
    assert done.document["outputs"]["y"]["shape"] == [3, 4]


def test_without_a_shape_an_open_model_says_how_to_give_one(rlx, open_model):
    done = rlx("run", open_model)
    assert done.code == 2
    assert "OpenShape [RLX-F010]" in done.err
    assert "--shape x=1,4" in done.err


def test_the_shape_of_a_given_array_counts(rlx, open_model, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((5, 4), np.float32))
    done = rlx("run", open_model, "--input", f"x={tmp_path / 'x.npy'}", "--json")
    assert done.document["outputs"]["y"]["shape"] == [5, 4]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "x"], "NAME=FILE.npy"),
        (["--input", "x=missing.npy"], "there is no file 'missing.npy'"),
        (["--shape", "x=2,three"], "is no list of sizes"),
        (["--shape", "x=2,3", "--shape", "x=2,3"], "gives 'x' twice"),
        (["--shape", "z=2,3"], "it has: x, n"),
        (["--threads", "0"], "--threads"),
        (["--threads", "100000"], "expected a whole number from 1 to 256"),
        (["--device", "CPU!"], "does not name a device"),
        (["--colour"], "--colour"),
    ],
)
def test_a_command_line_that_makes_no_sense_ends_with_2_and_says_why(rlx, affine, arguments, words):
    done = rlx("run", affine, *arguments)
    assert done.code == 2
    assert words in done.err.replace("\n", " ")
    assert "Traceback" not in done.err


def test_an_unknown_input_name_suggests_the_nearest(rlx, affine, x_file):
    done = rlx("run", affine, "--input", f"X={x_file}")
    assert done.code == 2
    assert "no input of the model; it has: x, n" in done.err


def test_an_array_of_the_wrong_dtype_shows_both_sides(rlx, affine, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    done = rlx("run", affine, "--input", f"x={tmp_path / 'x.npy'}")
    assert done.code == 2
    assert "has dtype float64, the program expects float32" in done.err


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00\xff\xff"])
def test_a_file_that_is_no_array_is_refused(rlx, affine, tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    done = rlx("run", affine, "--input", f"x={tmp_path / 'x.npy'}")
    assert done.code == 2
    assert "is no array that NumPy reads" in done.err


def test_a_pickled_array_is_never_opened(rlx, affine, tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    done = rlx("run", affine, "--input", f"x={tmp_path / 'x.npy'}")
    assert done.code == 2
    assert "allow_pickle=False" in done.err


def test_an_output_folder_that_cannot_be_made_is_refused(rlx, affine, tmp_path):
    (tmp_path / "file").write_text("")
    done = rlx("run", affine, "--output", tmp_path / "file" / "inside")
    assert done.code == 2
    assert "cannot be written" in done.err


def test_saved_files_are_named_after_outputs_and_nothing_else_is_left(rlx, affine, tmp_path):
    rlx("run", affine, "--output", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["m.npy", "y.npy"]


def test_a_precision_is_honoured_or_refused(rlx, affine):
    assert rlx("run", affine, "--precision", "int8-dynamic").code == 0
    refused = rlx("run", affine, "--precision", "f8", "--json")
    assert refused.code == 2
    assert "expected one of f32, bf16, int8-dynamic" in refused.document["error"]["message"]


def test_a_policy_of_convolutions_is_honoured_or_refused(rlx, affine):
    assert rlx("run", affine, "--convolution", "winograd-4x4").code == 0
    refused = rlx("run", affine, "--device", "reference", "--convolution", "winograd-4x4", "--json")
    assert refused.code == 2
    assert "'winograd-4x4' is not to be had on reference" in refused.document["error"]["message"]


@pytest.mark.parametrize(("rows", "code"), [(10**30, 1), (10**17, 2)])
def test_sizes_beyond_all_memory_are_an_error_of_ours(rlx, open_model, rows, code):
    done = rlx("run", open_model, "--shape", f"x={rows},4")
    assert done.code == code and str(rows) in done.err and "Traceback" not in done.err
