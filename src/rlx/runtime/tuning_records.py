"""Tuning records on disk: what a tuner measured, as JSON files that people can read, beside the compile cache.

    {"format": "rlx tuning record 1", "parts": {...}, "record": {...}}

The parts name all that the measured times depend on; their digest names the file. A file is used only when it belongs
to this user, nobody else may write it, it is JSON of this form, and its parts are those asked for: anything else counts
as absent, with the reason in `refused`. Whoever asks checks that the record itself makes sense. Files are written whole
or not at all; a directory that cannot be written costs measuring again, never an error. The oldest go when there are
more than MOST. Threads and processes may share a directory.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlx.runtime.cache import digest, read_own, write_whole

FORMAT = "rlx tuning record 1"
SUFFIX = ".tuned.json"
MOST = 4096


class TuningRecords:
    """Records of this process, and of `directory` where there is one (see `rlx.driver.backend.TuningRecords`)."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.refused: dict[str, str] = {}  # file name -> why it was not used
        self._found: dict[str, Mapping[str, Any]] = {}

    def find(self, parts: Mapping[str, str]) -> Mapping[str, Any] | None:
        """The record under these parts, or None."""
        key = digest(parts)
        if key not in self._found and self.directory is not None:
            path = self.directory / f"{key}{SUFFIX}"
            try:
                self._found[key] = _decode(read_own(path), parts)
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as error:
                self.refused[path.name] = str(error)
        return self._found.get(key)

    def keep(self, parts: Mapping[str, str], record: Mapping[str, Any]) -> None:
        """Keep a record under these parts, in the place of any other."""
        key = digest(parts)
        self._found[key] = record
        if self.directory is None:
            return
        text = json.dumps({"format": FORMAT, "parts": dict(sorted(parts.items())), "record": record}, indent=1)
        with contextlib.suppress(OSError):
            write_whole(self.directory / f"{key}{SUFFIX}", text.encode())
            self._trim()

    def _trim(self) -> None:
        assert self.directory is not None
        found = [p for p in self.directory.iterdir() if p.name.endswith(SUFFIX)]
        if len(found) > MOST:
            for path in sorted(found, key=lambda p: p.stat().st_mtime)[:-MOST]:
                path.unlink(missing_ok=True)


def _decode(data: bytes, parts: Mapping[str, str]) -> Mapping[str, Any]:
    """The record in a file's bytes. Raises ValueError where they are not a record under `parts`."""
    document = json.loads(data.decode())
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"not a {FORMAT!r}")
    if document.get("parts") != dict(parts):
        raise ValueError("a record of another kernel or machine")
    record = document.get("record")
    if not isinstance(record, dict):
        raise ValueError("holds no record")
    return record
