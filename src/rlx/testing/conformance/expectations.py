"""What a backend says beforehand: which cases it does not support, and which it is known to fail.

A backend declares both as an attribute `conformance`, a mapping of plain data, so that it need not import the kit:

    conformance = {
        "unsupported": {"numerics/*[*f64*]": "the hardware has no f64"},
        "expected failure": {"transfers/odd_offsets_*": "copies are rounded to 4 bytes, see ticket 12"},
    }

Keys are ids of cases, with * for any characters; values are reasons. Unsupported cases are not run. Cases of expected
failure are: one that passes fails the kit, so that the list stays true, as does a line that no case matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlx.driver import Device
from rlx.errors import BrokenBackend

UNSUPPORTED, EXPECTED_FAILURE = "unsupported", "expected failure"


@dataclass(frozen=True)
class Expectations:
    """The two lists: pattern of ids -> reason."""

    unsupported: Mapping[str, str] = field(default_factory=dict)
    expected_failure: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, device: Device) -> Expectations:
        """What the device's backend declares. Raises BrokenBackend where that has another form."""
        declared: Any = getattr(device.backend, "conformance", {})
        if not isinstance(declared, Mapping) or not set(declared) <= {UNSUPPORTED, EXPECTED_FAILURE}:
            raise _broken(device, f"declares {declared!r}")
        for list_name, lines in declared.items():
            if not isinstance(lines, Mapping) or not all(isinstance(k, str) for k in lines):
                raise _broken(device, f"has a list of {list_name} that does not map ids to reasons")
            for pattern, reason in lines.items():
                if not isinstance(reason, str) or not reason.strip():
                    raise _broken(device, f"gives no reason for {list_name} {pattern!r}")
        return cls(declared.get(UNSUPPORTED, {}), declared.get(EXPECTED_FAILURE, {}))

    def why_unsupported(self, id: str) -> str | None:
        """The reason, or None where the case is to be run."""
        return _find(self.unsupported, id)

    def why_failing(self, id: str) -> str | None:
        """The reason, or None where the case is to pass."""
        return _find(self.expected_failure, id)

    def stale(self, ids: Iterable[str]) -> list[str]:
        """Patterns that no case matches."""
        known = list(ids)
        return [p for p in (*self.unsupported, *self.expected_failure) if not any(_matches(p, i) for i in known)]


def _matches(pattern: str, id: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), id) is not None


def _find(lines: Mapping[str, str], id: str) -> str | None:
    return next((reason for pattern, reason in lines.items() if _matches(pattern, id)), None)


def _broken(device: Device, why: str) -> BrokenBackend:
    return BrokenBackend(
        f"the backend of {device} {why} as what the conformance kit is to expect",
        hint=f"a mapping with {UNSUPPORTED!r} and {EXPECTED_FAILURE!r}, each from patterns of ids to reasons",
    )
