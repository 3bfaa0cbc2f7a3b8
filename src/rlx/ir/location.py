"""Where a node came from: the model's own node, or the user's source line. Errors and profiles print it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """A place in what the user wrote.

    file: the model file or source file, as the user named it; never part of a fingerprint.
    name: the model's node name or output name, or the function.
    line: 1-based source line, 0 where there is none.
    """

    file: str = ""
    name: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{self.name} ({place})" if self.name and place else self.name or place or "unknown"


UNKNOWN = Location()
