"""The safetensors reader against the `safetensors` format: what it maps, and what it refuses."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from rlx.errors import DamagedModel, InvalidModel, ModelNotFound, UnsupportedModel
from rlx.frontends.huggingface.safetensors import MAX_HEADER, open_safetensors


def write(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("F32", np.float32), ("F64", np.float64), ("F16", np.float16), ("BF16", ml_dtypes.bfloat16),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2), ("C64", np.complex64),
        ("I8", np.int8), ("I16", np.int16), ("I32", np.int32), ("I64", np.int64),
        ("U8", np.uint8), ("U16", np.uint16), ("U32", np.uint32), ("U64", np.uint64), ("BOOL", np.bool_),
    ],
)  # fmt: skip
def test_every_dtype_comes_back_with_its_bytes(file, kind, dtype):
    width = np.dtype(dtype).itemsize
    data = np.random.default_rng(1).integers(0, 2 if kind == "BOOL" else 100, 6 * width, np.uint8).tobytes()
    header = json.dumps({"w": tensor([2, 3], 0, 6 * width, kind)}).encode()
    found = open_safetensors(write(file, header + b" " * (-len(header) % 8), data)).tensors["w"]
    assert found.dtype == dtype
    assert found.shape == (2, 3)
    assert found.tobytes() == data


def test_arrays_are_views_of_the_mapping_that_cannot_be_written(file):
    header = json.dumps({"a": tensor([4], 0, 16), "b": tensor([2], 16, 24)}).encode()
    write(file, header + b" " * (-len(header) % 8), np.arange(6, dtype=np.float32).tobytes())
    tensors = open_safetensors(file).tensors
    assert not tensors["a"].flags.owndata
    assert tensors["b"].ctypes.data == tensors["a"].ctypes.data + 16
    with pytest.raises(ValueError, match="read-only"):
        tensors["a"][0] = 1


def test_arrays_outlive_the_file_object_and_the_directory_entry(file):
    write(file, {"a": tensor([2], 0, 8)}, np.array([1.5, -2], np.float32).tobytes())
    array = open_safetensors(file).tensors["a"]
    file.unlink()
    np.testing.assert_array_equal(array, [1.5, -2])


def test_a_tensor_at_an_odd_offset_is_copied_to_an_aligned_place(file):
    header = json.dumps({"a": tensor([1], 0, 1, "U8"), "b": tensor([2], 1, 9)}).encode()
    data = b"\x07" + np.array([3, 4], np.float32).tobytes()
    array = open_safetensors(write(file, header + b" " * (-len(header) % 8), data)).tensors["b"]
    assert array.flags.aligned
    np.testing.assert_array_equal(array, [3, 4])


def test_metadata_and_empty_tensors_are_read(file):
    write(file, {"__metadata__": {"format": "pt"}, "none": tensor([0, 3], 0, 0), "one": tensor([], 0, 4)}, bytes(4))
    found = open_safetensors(file)
    assert found.metadata == {"format": "pt"}
    assert found.tensors["none"].shape == (0, 3)
    assert found.tensors["one"].shape == ()


def test_a_missing_file_is_named(file):
    with pytest.raises(ModelNotFound, match=r"model\.safetensors"):
        open_safetensors(file)


@pytest.mark.parametrize("size", [0, 7])
def test_a_file_shorter_than_its_length_field_is_damaged(file, size):
    file.write_bytes(bytes(size))
    with pytest.raises(DamagedModel, match=f"has {size} bytes"):
        open_safetensors(file)


def test_a_header_that_reaches_past_the_file_is_damaged(file):
    with pytest.raises(DamagedModel, match="claims a header of 1000 bytes, but only 2 follow"):
        open_safetensors(write(file, b"{}", length=1000))


def test_a_header_past_the_formats_bound_is_refused_before_it_is_read(file):
    with pytest.raises(InvalidModel, match="at most 100000000 are allowed"):
        open_safetensors(write(file, b"{}", length=MAX_HEADER + 1))


@pytest.mark.parametrize(
    "header",
    [b"", b"[]", b"{", b'{"a": \xff}', b"\x00{}", b'{"a":' + b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
    ids=["empty", "list", "cut", "not utf-8", "leading zero", "deep", "long number"],
)
def test_a_header_that_is_no_json_object_is_damaged(file, header):
    with pytest.raises(DamagedModel, match="header"):
        open_safetensors(write(file, header))


def test_a_truncated_file_says_how_far_its_data_goes(file):
    write(file, {"a": tensor([4], 0, 16)}, bytes(10))
    with pytest.raises(DamagedModel, match="ends at byte 10 of its data, but 'a' reaches to 16"):
        open_safetensors(file)


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "a": 1}', b"x", "names 'a' twice"),
        ({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12), "'a' and 'b' .* overlap at byte 4"),
        ({"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)}, bytes(8), "overlap at byte 0"),
        ({"a": tensor([1], 4, 8)}, bytes(8), "bytes 0 to 4 .* belong to no tensor"),
        ({"a": tensor([1], 0, 4)}, bytes(8), "bytes 4 to 8 .* belong to no tensor"),
        ({"a": tensor([3], 0, 8)}, bytes(8), r"has 8 bytes, but f32\[3\] needs 12"),
        ({"a": tensor([-1], 0, 4)}, bytes(4), "shape that is no list of at most 64 whole numbers"),
        ({"a": tensor([True], 0, 4)}, bytes(4), "shape that is no list"),
        ({"a": tensor([1] * 65, 0, 4)}, bytes(4), "at most 64"),
        ({"a": tensor([0, 2**62], 0, 0)}, b"", "which no memory holds"),
        ({"a": tensor([1], 4, 0)}, bytes(4), r"data_offsets \[4, 0\]"),
        ({"a": tensor([1], -4, 0)}, bytes(4), r"data_offsets \[-4, 0\]"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, bytes(4), "expected .begin, end."),
        ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4), "exactly dtype, shape and data_offsets"),
        ({"a": {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}}, bytes(4), "dtype 3, expected a string"),
        ({"a": 5}, b"", "exactly dtype"),
        ({"__metadata__": {"a": 1}}, b"", "must map strings to strings"),
        ({"a": tensor([2], 0, 2, "BOOL")}, b"\x01\x02", "bytes other than 0 and 1"),
    ],
)  # fmt: skip
def test_a_header_that_breaks_the_formats_rules_is_refused_by_name(file, header, data, words):
    with pytest.raises(InvalidModel, match=words):
        open_safetensors(write(file, header, data))


def test_an_unknown_dtype_is_named_with_the_known_ones(file):
    write(file, {"a": tensor([2], 0, 1, "F4")}, bytes(1))
    with pytest.raises(UnsupportedModel, match="(?s)'F4'.*BF16"):
        open_safetensors(file)
