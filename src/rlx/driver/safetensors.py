"""Safetensors files, memory-mapped: names -> read-only arrays over the file's own pages.

A file is 8 bytes of header length (little-endian), a JSON header, and one block of tensor bytes. Nothing in it is
trusted: lengths, JSON, dtypes, shapes and offsets are checked before the first array is made, and the tensors must
cover the block exactly, without holes or overlaps, as the format demands.

Ownership. Arrays view the mapping and keep it alive; nothing is copied, save a tensor whose offset is not a multiple of
its element size, which is copied once to an aligned place. What may be done to the file while arrays live, the module
`rlx.driver.file_map` says. Threads may share a `SafetensorsFile`. A file is written beside its place
and then moved there, so that a reader sees the old one or the new one, whole.

Errors. TensorFileNotFound for a missing file; DamagedTensorFile where lengths or offsets show a file cut short, or the
header is no JSON; TensorFileError where the header breaks the format's rules, and for what is no file that may be read;
UnsupportedTensor for an element type that RLX, or the format, has not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlx.driver.file_map import FileMap, map_open_file
from rlx.errors import DamagedTensorFile, TensorFileError, TensorFileNotFound, UnsupportedTensor
from rlx.ir import dtypes
from rlx.ir.dtypes import DType

#: The format's own bound on the header, in bytes.
MAX_HEADER = 100_000_000

_LENGTH = 8
#: What NumPy can describe.
_MAX_RANK = 64
_MAX_BYTES = 2**63 - 1
_DTYPES: Mapping[str, DType] = {
    "BOOL": dtypes.bool_,
    "I8": dtypes.i8,
    "I16": dtypes.i16,
    "I32": dtypes.i32,
    "I64": dtypes.i64,
    "U8": dtypes.u8,
    "U16": dtypes.u16,
    "U32": dtypes.u32,
    "U64": dtypes.u64,
    "F8_E4M3": dtypes.f8e4m3,
    "F8_E5M2": dtypes.f8e5m2,
    "F16": dtypes.f16,
    "BF16": dtypes.bf16,
    "F32": dtypes.f32,
    "F64": dtypes.f64,
    "C64": dtypes.c64,
}


_KINDS = {dtype: kind for kind, dtype in _DTYPES.items()}
_KNOWN = ", ".join(_DTYPES)
_METADATA = "__metadata__"


@dataclass(frozen=True)
class SafetensorsFile:
    """An open file: `tensors` in the order of their bytes, `metadata` as the writer left it."""

    path: Path
    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


def open_safetensors(path: Path) -> SafetensorsFile:
    """Map the file and check all of its header. Raises as the module says."""
    _check_is_file(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise TensorFileNotFound(f"there is no file {str(path)!r}") from None
    except OSError as error:
        raise TensorFileError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    with file:
        size = file.seek(0, 2)
        if size < _LENGTH:
            raise DamagedTensorFile(f"{path.name!r} has {size} bytes, a safetensors file has at least {_LENGTH}")
        mapped = map_open_file(file, path)
    length = int.from_bytes(mapped[:_LENGTH], "little")
    if length > MAX_HEADER:
        raise TensorFileError(f"{path.name!r} claims a header of {length} bytes, at most {MAX_HEADER} are allowed")
    if length > size - _LENGTH:
        raise DamagedTensorFile(f"{path.name!r} claims a header of {length} bytes, but only {size - _LENGTH} follow")
    start = _LENGTH + length
    header = _parse_header(path, mapped[_LENGTH:start])
    metadata = _metadata(path, header.pop(_METADATA, {}))
    entries = sorted((_entry(path, name, entry) for name, entry in header.items()), key=lambda e: (e.begin, e.end))
    _check_cover(path, entries, size - start)
    return SafetensorsFile(path, {e.name: _view(path, mapped, start, e) for e in entries}, metadata)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file that `open_safetensors` and every other reader of the format takes, replacing what is there.

    Equal contents give equal bytes: tensors lie in the order of their element sizes, widest first, then of their names.
    A link stays, and what it leads to is replaced. Raises UnsupportedTensor for a dtype that the format lacks,
    TensorFileError for a name that it keeps for itself and for a path that leads to a directory or a device, OSError
    where the place cannot be written.
    """
    path = path.resolve()
    _check_is_file(path)
    if _METADATA in tensors:
        raise TensorFileError(f"a tensor cannot be called {_METADATA!r}: the format keeps that name for its metadata")
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        array = tensors[name]
        kind = _KINDS.get(dtypes.from_numpy(array.dtype))
        if kind is None:
            raise UnsupportedTensor(
                f"tensor {name!r} is of {array.dtype}, which safetensors files lack", hint=f"they know: {_KNOWN}"
            )
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    beside = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with beside.open("xb") as file:
            file.write(len(text).to_bytes(_LENGTH, "little"))
            file.write(text)
            for name in order:
                file.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _check_is_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise TensorFileError(f"{str(path)!r} is a directory, a device or a pipe, expected a file")


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise TensorFileError(f"the header of {path.name!r} names {name!r} twice")
            found[name] = value
        return found

    if not text.startswith(b"{"):
        raise DamagedTensorFile(f"the header of {path.name!r} does not begin with '{{': this is no safetensors file")
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except TensorFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedTensorFile(f"the header of {path.name!r} is not JSON: {error}") from None


def _metadata(path: Path, found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise TensorFileError(f"{_METADATA!r} of {path.name!r} must map strings to strings")
    return found


def _entry(path: Path, name: str, found: object) -> _Entry:
    where = f"tensor {name!r} of {path.name!r}"
    if not isinstance(found, dict) or set(found) != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"{where} must have exactly dtype, shape and data_offsets")
    kind, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not isinstance(kind, str):
        raise TensorFileError(f"{where} has the dtype {kind!r}, expected a string")
    if kind not in _DTYPES:
        raise UnsupportedTensor(f"{where} has the dtype {kind!r}", hint=f"RLX reads: {_KNOWN}")
    if not _are_sizes(shape) or len(shape) > _MAX_RANK:
        raise TensorFileError(f"{where} has a shape that is no list of at most {_MAX_RANK} whole numbers")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise TensorFileError(f"{where} has the data_offsets {offsets!r}, expected [begin, end]")
    dtype = _DTYPES[kind]
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > _MAX_BYTES:
        raise TensorFileError(f"{where} has the shape {shape}, which no memory holds")
    needed = math.prod(shape) * dtype.itemsize
    if needed != offsets[1] - offsets[0]:
        raise TensorFileError(
            f"{where} has {offsets[1] - offsets[0]} bytes, but {dtype}{shape} needs {needed}",
        )
    return _Entry(name, dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(found: object) -> bool:
    return isinstance(found, list) and all(type(x) is int and x >= 0 for x in found)


def _check_cover(path: Path, entries: list[_Entry], size: int) -> None:
    """The tensors, in order of offset, cover the data block of `size` bytes exactly."""
    reached, before = 0, ""
    for entry in entries:
        if entry.begin < reached:
            raise TensorFileError(
                f"tensors {before!r} and {entry.name!r} of {path.name!r} overlap at byte {entry.begin}"
            )
        if entry.begin > reached:
            raise TensorFileError(f"bytes {reached} to {entry.begin} of {path.name!r} belong to no tensor")
        reached, before = entry.end, entry.name
    if reached > size:
        raise DamagedTensorFile(f"{path.name!r} ends at byte {size} of its data, but {before!r} reaches to {reached}")
    if reached < size:
        raise TensorFileError(f"bytes {reached} to {size} of {path.name!r} belong to no tensor")


def _view(path: Path, mapped: FileMap, start: int, entry: _Entry) -> np.ndarray:
    offset = start + entry.begin
    if entry.begin == entry.end:
        array = np.zeros(entry.shape, entry.dtype.numpy)
    elif offset % entry.dtype.itemsize:
        array = np.frombuffer(mapped[offset : start + entry.end], entry.dtype.numpy).reshape(entry.shape).copy()
    else:
        count = math.prod(entry.shape)
        array = np.frombuffer(mapped, entry.dtype.numpy, count, offset).reshape(entry.shape)
    if entry.dtype is dtypes.bool_ and array.size and array.view(np.uint8).max() > 1:
        raise TensorFileError(f"tensor {entry.name!r} of {path.name!r} is BOOL and holds bytes other than 0 and 1")
    array.flags.writeable = False
    return array
