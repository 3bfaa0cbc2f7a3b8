"""The compile cache: artefacts by what they were made from, in memory and on disk.

A key has named parts (graph, target, options, versions); its digest names an entry. On disk an entry is one file that
is written beside its place and moved there whole, so a reader sees all of it or nothing. A file is trusted only when
it belongs to this user, nobody else may write it, and its checksum holds; anything else is treated as absent,
with the reason in `explain`. The least recently used entries go when the directory outgrows its bound. A cache that
cannot be written (no space, read-only) costs recompiling, never an error. Threads and processes may share a cache.

Entry layout: MAGIC, sha256 of all that follows (32 bytes), header length (u64, little endian), header (JSON: the key's
parts, the artefact's manifest, section names and sizes), then the sections, each from a 64-byte boundary on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

from rlx.driver import Artifact
from rlx.driver.fork import renew_in_child

MAGIC = b"RLXCACHE1\0\0\0\0\0\0\0"
SUFFIX = ".rlxc"
MEMORY_BYTES = 256 << 20
#: What files are called until they are whole; after so many seconds their writer counts as killed.
_WRITING, _ABANDONED = ".writing-", 3600

Parts = Mapping[str, str]


def digest(parts: Parts) -> str:
    """The name of a key: hex, the same for equal parts in any order."""
    text = json.dumps(dict(sorted(parts.items())), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class MemoryCache:
    """Artefacts of this process, least recently used first out."""

    def __init__(self, limit: int = MEMORY_BYTES) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, Artifact] = OrderedDict()
        renew_in_child(self)

    def renew(self) -> None:
        """Make the lock anew; see `rlx.driver.fork`."""
        self._lock = threading.Lock()

    def get(self, key: str) -> Artifact | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, artifact: Artifact) -> None:
        with self._lock:
            self._entries[key] = artifact
            self._entries.move_to_end(key)
            while len(self._entries) > 1 and sum(map(_size, self._entries.values())) > self._limit:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()


class DiskCache:
    """Artefacts in a directory, for all processes of one user."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self._limit = limit
        self.refused: dict[str, str] = {}  # key -> why its file was not used

    def get(self, key: str) -> Artifact | None:
        """The artefact of a key, or None where there is no entry that can be trusted."""
        path = self._path(key)
        try:
            data = read_own(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.refused[key] = f"{path.name}: {error.strerror or error}"
            return None
        try:
            _, artifact = _decode(data)
        except ValueError as error:
            self.refused[key] = f"{path.name}: {error}"
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return artifact

    def put(self, key: str, parts: Parts, artifact: Artifact) -> None:
        """Write an entry; a directory that cannot be written leaves things as they were."""
        with contextlib.suppress(OSError):
            write_whole(self._path(key), _encode(parts, artifact))
            self._trim(keep=key)

    def explain(self, parts: Parts) -> str:
        """Why these parts hit or miss, in a sentence: which part of the key differs from the nearest entry."""
        key = digest(parts)
        if key in self.refused:
            return f"not used: {self.refused[key]}"
        if self._path(key).exists():
            return "hit"
        nearest: list[str] | None = None
        for path in self._entries():
            try:
                other, _ = _decode(read_own(path))
            except (OSError, ValueError):
                continue
            if "graph" not in other:  # a note of `rlx.runtime.known_programs`
                continue
            names = sorted({*parts, *other})
            differ = [f"{n}: {other.get(n, '-')} -> {parts.get(n, '-')}" for n in names if other.get(n) != parts.get(n)]
            if nearest is None or len(differ) < len(nearest):
                nearest = differ
        if nearest is None:
            return "miss: the cache is empty"
        return "miss: against the nearest entry, " + "; ".join(nearest)

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}{SUFFIX}"

    def _entries(self) -> list[Path]:
        """Entry files, the most recently used first."""
        found = [(when, p) for when, p in self._files() if p.suffix == SUFFIX]
        return [p for _, p in sorted(found, reverse=True)]

    def _files(self) -> Iterator[tuple[float, Path]]:
        """Files with the times of their last use; those that another process removes meanwhile are left out."""
        with contextlib.suppress(OSError):
            for path in self.directory.iterdir():
                with contextlib.suppress(OSError):
                    yield path.stat().st_mtime, path

    def _trim(self, keep: str) -> None:
        now = time.time()
        for when, path in self._files():
            if path.name.startswith(_WRITING) and now - when > _ABANDONED:
                with contextlib.suppress(OSError):
                    path.unlink()
        total = 0
        for path in self._entries():
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
                if total > self._limit and path != self._path(keep):
                    path.unlink()


def read_own(path: Path) -> bytes:
    """A file's bytes. Raises PermissionError where another user owns or may write it or its directory."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
        for status, what in ((os.fstat(file.fileno()), "file"), (os.stat(path.parent), "directory")):
            if status.st_uid != os.geteuid():
                raise PermissionError(0, f"the {what} belongs to another user")
            if status.st_mode & 0o022:
                raise PermissionError(0, f"other users may write the {what}")
        return file.read()


def write_whole(path: Path, data: bytes) -> None:
    """Make a file, and its directory, for this user alone; readers see all of it or none. Raises OSError."""
    import tempfile  # costs 5 ms, and readers have no use for it

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_WRITING)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _size(artifact: Artifact) -> int:
    return sum(len(s) for s in artifact.sections.values())


def _encode(parts: Parts, artifact: Artifact) -> bytes:
    header = json.dumps(
        {
            "parts": dict(parts),
            "backend": artifact.backend,
            "manifest": artifact.manifest,
            "sections": [[name, len(data)] for name, data in artifact.sections.items()],
        },
        separators=(",", ":"),
    ).encode()
    body = bytearray(len(header).to_bytes(8, "little") + header)
    for data in artifact.sections.values():
        body += bytes(-len(body) % 64)
        body += data
    return MAGIC + hashlib.sha256(body).digest() + bytes(body)


def _decode(data: bytes) -> tuple[dict[str, str], Artifact]:
    """The key's parts and the artefact. Raises ValueError for a file that `_encode` did not write whole."""
    body = memoryview(data)[len(MAGIC) + 32 :]
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("not a cache entry of this version")
    if hashlib.sha256(body).digest() != data[len(MAGIC) : len(MAGIC) + 32]:
        raise ValueError("the checksum does not hold")
    end = 8 + int.from_bytes(body[:8], "little")
    header = json.loads(bytes(body[8:end]))
    sections: dict[str, memoryview] = {}
    for name, length in header["sections"]:
        end += -end % 64
        sections[name] = body[end : end + length]
        end += length
    return header["parts"], Artifact(header["backend"], header["manifest"], sections)
