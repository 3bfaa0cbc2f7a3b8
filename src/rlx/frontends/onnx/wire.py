"""Protocol-buffer messages, read from a file by schemas: the wire format, and nothing of any one kind of message.

A `Message` has an attribute for each field of its schema, with proto's defaults where the file has none; unknown fields
are passed over. Byte strings for arrays (`BLOB`) are arrays: large ones are left in the file and looked at through a
map of it, which lives as long as they do (`rlx.driver.file_map`), so that loading a model reads no weights; small ones
are arrays of their own, aligned for any element.

Source: "Encoding", the Protocol Buffers documentation, protobuf.dev.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from rlx.driver.file_map import FileMap, map_open_file

#: Messages nest at most so deep, as in other readers.
_DEPTH = 100
#: Bytes from which on a string for an array stays in the file.
_LARGE = 64 << 10
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are no such message."""


class Kind(Enum):
    """What a field holds. TEXT that is not UTF-8 stays bytes. Numbers that repeat are lists, or arrays where packed."""

    INTEGER = auto()  # a varint, as a signed 64-bit number
    UNSIGNED = auto()  # a varint
    FLOAT = auto()
    DOUBLE = auto()
    TEXT = auto()
    BYTES = auto()
    BLOB = auto()


@dataclass(frozen=True)
class Field:
    """A field of a message: its name, what it holds, and whether it repeats. oneof: the group of which one is given."""

    name: str
    holds: Kind | Schema
    repeats: bool = False
    oneof: str = ""


class Schema:
    """The fields of a kind of message by number."""

    def __init__(self, fields: Mapping[int, Field]) -> None:
        self.fields = dict(fields)

    def default(self, field: Field) -> Any:
        """A field's value where the file has none."""
        if field.repeats:
            return ()
        if isinstance(field.holds, Schema):
            return Message(field.holds)
        return _DEFAULTS[field.holds]


_DEFAULTS = {
    Kind.INTEGER: 0,
    Kind.UNSIGNED: 0,
    Kind.FLOAT: 0.0,
    Kind.DOUBLE: 0.0,
    Kind.TEXT: "",
    Kind.BYTES: b"",
    Kind.BLOB: b"",
}
_WHOLE = (Kind.INTEGER, Kind.UNSIGNED)
_NUMBERS = {
    Kind.FLOAT: (_FOUR, struct.Struct("<f"), np.dtype("<f4")),
    Kind.DOUBLE: (_EIGHT, struct.Struct("<d"), np.dtype("<f8")),
}


class Message:
    """One message; see the module's contract."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def __getattr__(self, name: str) -> Any:
        """A field that the file does not have."""
        if not name.startswith("_"):
            for field in self._schema.fields.values():
                if field.name == name:
                    return self._schema.default(field)
        raise AttributeError(name)

    def HasField(self, name: str) -> bool:  # noqa: N802  # as in Google's messages, which stand for these in tests
        """Whether the file has the field."""
        return name in self.__dict__

    def WhichOneof(self, group: str) -> str | None:  # noqa: N802  # as HasField
        """The field of a group that the file has; the last of several."""
        given = {f.name for f in self._schema.fields.values() if f.oneof == group}
        return next((name for name in reversed(self.__dict__) if name in given), None)


def read_message(schema: Schema, path: Path) -> Message:
    """The message that a file holds. Raises WireError where its bytes are none, OSError where it cannot be read."""
    with path.open("rb", buffering=0) as file:
        if not path.stat().st_size:
            raise WireError("the file is empty")
        data = map_open_file(file, path)
        return _Reader(data, file).message(schema, 0, len(data), 0)


class _Reader:
    def __init__(self, data: FileMap, file: FileIO) -> None:
        self._data = data
        self._file = file

    def message(self, schema: Schema, at: int, end: int, depth: int) -> Message:
        """The message in bytes [at, end)."""
        if depth > _DEPTH:
            raise WireError(f"messages nest deeper than {_DEPTH}")
        message = Message(schema)
        values, data, fields = message.__dict__, self._data, schema.fields
        while at < end:
            key, at = self._varint(at, end)
            wire, field = key & 7, fields.get(key >> 3)
            start = at
            if wire == _VARINT:
                number, at = self._varint(at, end)
            elif wire == _BYTES:
                length, start = self._varint(at, end)
                at = start + length
            elif wire in (_EIGHT, _FOUR):
                at += 8 if wire == _EIGHT else 4
            else:
                raise WireError(f"byte {at} begins a field of the unknown wire type {wire}")
            if at > end or key < 8:
                raise WireError(f"the field before byte {start} does not fit into its message")
            if field is None:
                continue
            holds = field.holds
            value: Any
            if isinstance(holds, Schema) and wire == _BYTES:
                value = self.message(holds, start, at, depth + 1)
            elif holds in _WHOLE and wire == _VARINT:
                value = number - (1 << 64) if number >> 63 and holds is Kind.INTEGER else number
            elif holds is Kind.TEXT and wire == _BYTES:
                value = _text(data[start:at])
            elif holds is Kind.BYTES and wire == _BYTES:
                value = data[start:at]
            elif holds is Kind.BLOB and wire == _BYTES:
                value = self._blob(start, at)
            elif holds in _NUMBERS and wire == _NUMBERS[holds][0]:
                value = _NUMBERS[holds][1].unpack_from(data, start)[0]
            elif field.repeats and wire == _BYTES and isinstance(holds, Kind):
                value = _packed(data[start:at], holds)
            else:
                raise WireError(f"field {field.name!r} at byte {start} has the wire type {wire}")
            if not field.repeats:
                values.pop(field.name, None)  # so that the last of a group stands last
                values[field.name] = value
            elif isinstance(value, np.ndarray) or isinstance(values.get(field.name), np.ndarray):
                values[field.name] = _joined(values.get(field.name), value)
            else:
                values.setdefault(field.name, []).append(value)
        return message

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number of up to 64 bits at a byte, and where it ends."""
        data, value, shift = self._data, 0, 0
        while at < end and shift < 70:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
        raise WireError(f"the number before byte {at} does not end")

    def _blob(self, start: int, end: int) -> np.ndarray:
        """Bytes of the file; a few of them are read past the map of it."""
        if end - start >= _LARGE:
            return self._data.array(start, end)
        array = np.empty(end - start, np.uint8)
        done = 0
        self._file.seek(start)
        while done < array.size:
            got = self._file.readinto(array[done:])
            if not got:
                raise WireError(f"the file ends at byte {start + done}, while it is read")
            done += got
        return array


def _joined(given: Any, more: Any) -> np.ndarray:
    """Repeated numbers, some of which are packed."""
    if given is None:
        return more
    kept = next(part.dtype for part in (given, more) if isinstance(part, np.ndarray))
    return np.append(np.asarray(given, kept), np.asarray(more, kept))


def _text(found: bytes) -> str | bytes:
    try:
        return found.decode()
    except UnicodeDecodeError:
        return found


def _packed(found: bytes, holds: Kind) -> np.ndarray:
    """Numbers that stand one behind the other."""
    if holds in _NUMBERS:
        dtype = _NUMBERS[holds][2]
        if len(found) % dtype.itemsize:
            raise WireError(f"{len(found)} bytes are no whole number of elements of {dtype.itemsize}")
        return np.frombuffer(found, dtype)
    octets = np.frombuffer(found, np.uint8)
    last = np.flatnonzero(octets < 0x80)
    if octets.size and (not last.size or last[-1] != octets.size - 1):
        raise WireError("the last number does not end")
    first = np.concatenate([[0], last[:-1] + 1]) if last.size else last
    lengths = last - first + 1
    if lengths.size and lengths.max() > 10:
        raise WireError("a number takes more than 64 bits")
    numbers = np.zeros(last.size, np.uint64)
    for place in range(int(lengths.max(initial=0))):
        has = lengths > place
        numbers[has] |= (octets[first[has] + place] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * place)
    return numbers if holds is Kind.UNSIGNED else numbers.view(np.int64)
