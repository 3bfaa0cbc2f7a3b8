"""Handles: state that outlives runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlx.driver import HOST, BufferHandle, Device, load_handles, save_handles, write_safetensors
from rlx.errors import (
    BufferFreed,
    BufferMismatch,
    DamagedTensorFile,
    NotOwner,
    StateMismatch,
    TensorFileError,
    TensorFileNotFound,
    UnsupportedTensor,
)
from rlx.ir.dtypes import bf16, c128, f32
from rlx.ir.types import TensorType

STATE = TensorType((2, 3), f32)


@pytest.mark.parametrize("place", ["cpu", "opaque"])
def test_state_is_read_written_and_reset_at_one_address(place: str, opaque: Device) -> None:
    with BufferHandle("h", STATE, Device(place)) as handle:
        address = handle.address
        assert not handle.read().any()
        content = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
        handle.write(content.T.copy().T)  # any strides
        assert np.array_equal(handle.read(), content)
        handle.reset()
        assert not handle.read().any()
        assert handle.address == address
        assert handle.device == Device(place)


def test_a_scalar_is_a_state(tmp_path: Path) -> None:
    handle = BufferHandle("steps", TensorType((), f32))
    handle.write(np.array(3, np.float32))
    handle.save(tmp_path / "h")
    handle.reset()
    handle.load(tmp_path / "h")
    assert handle.read() == 3


def test_the_version_grows_with_each_change() -> None:
    handle = BufferHandle("h", STATE)
    seen = [handle.version]
    for change in (lambda: handle.write(np.ones((2, 3), np.float32)), handle.reset, handle.mark_updated):
        change()
        seen.append(handle.version)
    assert seen == [0, 1, 2, 3]
    handle.read()
    assert handle.version == 3


def test_reset_goes_back_to_the_initial_content_whatever_became_of_the_array() -> None:
    initial = np.full((2, 3), 5, np.float32)
    handle = BufferHandle("h", STATE, initial=initial)
    initial[...] = 0
    handle.buffer.fill(1)
    handle.reset()
    assert (handle.read() == 5).all()


def test_what_is_read_is_a_copy_and_the_buffer_is_the_state_itself() -> None:
    handle = BufferHandle("h", STATE)
    copy = handle.read()
    handle.buffer.fill(2)
    assert not copy.any()
    assert (handle.read() == 2).all()
    assert handle.buffer.address == handle.address
    with pytest.raises(NotOwner):
        handle.buffer.free()


def test_another_shape_or_dtype_is_refused_with_both_sides() -> None:
    handle = BufferHandle("h", STATE)
    for array in (np.zeros((3, 2), np.float32), np.zeros((2, 3))):
        with pytest.raises(BufferMismatch, match=r"'h' is f32\[2, 3\], not"):
            handle.write(array)
    with pytest.raises(BufferMismatch):
        BufferHandle("h", STATE, initial=np.zeros(6, np.float32))


def test_closing_ends_the_state_and_its_views() -> None:
    handle = BufferHandle("h", STATE, HOST)
    view = handle.buffer
    handle.close()
    handle.close()
    for use in (handle.read, handle.reset, lambda: handle.address, lambda: view.address):
        with pytest.raises(BufferFreed, match="the state 'h'"):
            use()


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["cpu", "opaque"])
def test_states_are_saved_and_come_back_on_another_device(place: str, opaque: Device, tmp_path: Path) -> None:
    path = tmp_path / "states.safetensors"
    rng = np.random.default_rng(3)
    keys, seen = BufferHandle("keys", STATE, Device(place)), BufferHandle("seen", TensorType((3,), bf16), Device(place))
    keys.write(rng.standard_normal((2, 3)).astype(np.float32))
    seen.write(rng.standard_normal(3).astype(bf16.numpy))
    save_handles(path, [keys, seen], {"step": "7"})
    with BufferHandle("keys", STATE) as other, BufferHandle("seen", seen.type) as second:
        load_handles(path, [second, other])
        assert other.read().tobytes() == keys.read().tobytes()
        assert second.read().tobytes() == seen.read().tobytes()
        assert other.version == 1


def test_the_safetensors_library_reads_what_a_handle_saves(tmp_path: Path) -> None:
    safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="the reader to compare with is not installed")
    handle = BufferHandle("h", STATE, initial=np.arange(6, dtype=np.float32).reshape(2, 3))
    handle.save(tmp_path / "h.safetensors")
    assert safetensors_numpy.load_file(tmp_path / "h.safetensors")["h"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_loading_changes_all_states_or_none(tmp_path: Path) -> None:
    path = tmp_path / "states.safetensors"
    write_safetensors(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(6, np.float32)})
    a, b, c = (BufferHandle(name, STATE) for name in "abc")
    with pytest.raises(StateMismatch, match=r"'b' is f32\[2, 3\], in .* it is f32\[6\]"):
        load_handles(path, [a, b])
    with pytest.raises(StateMismatch, match="(?s)has no state 'c'.*'a', 'b'"):
        load_handles(path, [a, c])
    assert (a.version, b.version) == (0, 0)
    assert not a.read().any()


def test_two_states_of_one_name_are_not_saved_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    BufferHandle("h", STATE).save(path)
    before = path.read_bytes()
    with pytest.raises(StateMismatch, match="two states are called 'h'"):
        save_handles(path, [BufferHandle("h", STATE), BufferHandle("h", STATE)])
    with pytest.raises(UnsupportedTensor, match="complex128"):
        BufferHandle("h", TensorType((1,), c128)).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["h.safetensors"]


def test_files_that_are_missing_or_cut_short_are_named(tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    handle = BufferHandle("h", STATE)
    with pytest.raises(TensorFileNotFound, match="no file"):
        handle.load(path)
    handle.save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedTensorFile, match="ends at byte 23"):
        handle.load(path)


def test_states_are_saved_through_a_link_which_stays(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "state.safetensors"
    link.symlink_to(target)
    with BufferHandle("state", STATE) as state:
        state.save(link)
        state.load(link)
    assert link.is_symlink() and target.is_file()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_neither_replaced_nor_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    place = tmp_path / "state"
    make(place)
    with BufferHandle("state", STATE) as state:
        for use in (state.save, state.load):
            with pytest.raises(TensorFileError, match="expected a file"):
                use(place)
    assert place.exists() and not place.is_file() and list(tmp_path.iterdir()) == [place]
