"""Whole files as read-only memory, and what becomes of them."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path

import numpy as np
import pytest

from rlx.driver.file_map import FileMap, file_map_of, let_pages_go, map_open_file, unchanged
from rlx.errors import FileMapError

SMAPS = Path("/proc/self/smaps")
CONTENT = np.random.default_rng(3).integers(0, 256, 1 << 20, dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(CONTENT.tobytes())
    return tmp_path / "weights"


def _map(path: Path) -> FileMap:
    with path.open("rb") as file:
        return map_open_file(file, path)


def _floats(path: Path) -> np.ndarray:
    """Numbers at an odd place of the file."""
    return _map(path).array(5, 5 + (CONTENT.size - 8)).view(np.uint32).reshape(2, -1)


def test_arrays_have_the_files_bytes_wherever_they_begin(path: Path) -> None:
    array = _floats(path)
    assert array.tobytes() == CONTENT[5:-3].tobytes()
    assert not array.flags.writeable and not array.flags.aligned


def test_all_who_map_a_file_share_its_map_until_the_last_array_goes(path: Path) -> None:
    one, two = _floats(path), _floats(path)[1:]
    found = file_map_of(one)
    assert found is not None and found is file_map_of(two)
    reference = weakref.ref(found)
    del one, found
    assert two.tobytes() == CONTENT[5:-3].tobytes()[-two.nbytes :]
    del two
    gc.collect()
    assert reference() is None


def test_other_arrays_look_at_no_map(path: Path) -> None:
    for array in (np.zeros(3), np.memmap(path, np.uint8, "r+"), np.frombuffer(b"abcd", np.uint8)[1:], np.float32(1)):
        assert file_map_of(np.asarray(array)) is None
        let_pages_go(np.asarray(array))


def _written(path: Path) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # a clock may not have ticked since


def _longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _cut(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize("change", [_written, _longer, _cut])
def test_weights_of_a_file_that_was_written_to_are_not_read(path: Path, change) -> None:
    array = _floats(path)
    change(path)
    with pytest.raises(FileMapError, match="weights.*was written to"), unchanged([np.zeros(1), array]):
        pytest.fail("they were read")
    fresh = _map(path)
    assert fresh is not file_map_of(array)
    with unchanged([fresh.array(0, 10)]):
        pass


def test_a_change_while_weights_are_read_is_told(path: Path) -> None:
    with pytest.raises(FileMapError, match="was written to"), unchanged([_floats(path)]):
        _longer(path)


def _deleted(path: Path) -> None:
    path.unlink()


def _replaced(path: Path) -> None:
    (path.parent / "new").write_bytes(b"new")
    os.replace(path.parent / "new", path)


@pytest.mark.parametrize("change", [_deleted, _replaced])
def test_a_file_that_goes_leaves_its_pages(path: Path, change) -> None:
    array = _floats(path)
    change(path)
    with unchanged([array]):
        assert array.tobytes() == CONTENT[5:-3].tobytes()


@pytest.mark.skipif(not SMAPS.exists(), reason="this system does not say which pages of a file a process holds")
def test_pages_that_are_let_go_are_this_processes_no_more(path: Path) -> None:
    array = _floats(path)
    assert array.sum() > 0
    assert _resident(path) > 0.9 * array.nbytes
    let_pages_go(array[1])
    assert 0.4 * array.nbytes < _resident(path) < 0.6 * array.nbytes
    let_pages_go(array)
    assert _resident(path) <= 2 * 4096
    assert array.tobytes() == CONTENT[5:-3].tobytes()


def _resident(path: Path) -> int:
    """The bytes of a file's pages that count as this process's."""
    inside, total = False, 0
    for line in SMAPS.read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total
