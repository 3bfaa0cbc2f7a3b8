"""Memory-mapped files as buffers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlx.driver import HOST, Buffer, device_memory
from rlx.errors import BufferReadOnly, FileMapError
from rlx.ir.dtypes import bf16, f32
from rlx.ir.types import TensorType


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"head" * 3 + np.arange(6000, dtype=np.float32).tobytes())
    return path


@pytest.mark.parametrize("start", [0, 1, 1021, 1024, 5000])
def test_any_offset_reads_the_files_bytes_without_counting_as_memory(file: Path, start: int) -> None:
    before = device_memory(HOST).statistics
    buffer = Buffer.map_file(file, TensorType((10, 100), f32), 12 + 4 * start)
    assert np.array_equal(buffer.numpy(), np.arange(start, start + 1000, dtype=np.float32).reshape(10, 100))
    assert device_memory(HOST).statistics == before


def test_a_mapped_file_is_read_only_unless_asked(file: Path) -> None:
    buffer = Buffer.map_file(file, TensorType((6000,), f32), 12)
    assert buffer.readonly
    assert not buffer.numpy().flags.writeable
    with pytest.raises(BufferReadOnly, match="weights.bin"):
        buffer.fill(0)


def test_writes_to_a_writable_map_reach_the_file(file: Path) -> None:
    with Buffer.map_file(file, TensorType((6000,), f32), 12, writable=True) as buffer:
        buffer[5000].fill(-1)
    content = np.frombuffer(file.read_bytes()[12:], np.float32)
    assert content[5000] == -1
    assert content[4999] == 4999
    assert file.read_bytes()[:12] == b"head" * 3


def test_dtypes_beyond_numpys_map_too(file: Path) -> None:
    buffer = Buffer.map_file(file, TensorType((12000,), bf16), 12)
    assert buffer.numpy().view(np.uint16)[1::2].astype(np.uint32).tolist() == (
        (np.arange(6000, dtype=np.float32).view(np.uint32) >> 16).tolist()
    )


def test_an_array_of_a_map_outlives_the_buffer_and_the_files_name(file: Path) -> None:
    array = Buffer.map_file(file, TensorType((6000,), f32), 12).numpy()
    file.unlink()
    assert array[5999] == 5999


def test_an_empty_range_maps(file: Path) -> None:
    assert Buffer.map_file(file, TensorType((0, 3), f32), 12).numpy().shape == (0, 3)


def test_a_file_that_is_too_short_says_both_sizes(file: Path) -> None:
    with pytest.raises(FileMapError, match=r"24012 bytes; f32\[6001\] at byte 12 needs 24004"):
        Buffer.map_file(file, TensorType((6001,), f32), 12)
    with pytest.raises(FileMapError):
        Buffer.map_file(file, TensorType((1,), f32), -4)


def test_a_file_that_is_not_there_or_not_writable_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileMapError, match="absent"):
        Buffer.map_file(tmp_path / "absent", TensorType((1,), f32))
    with pytest.raises(FileMapError, match=str(tmp_path)):
        Buffer.map_file(tmp_path, TensorType((1,), f32))
