"""Device loss: everything that needs a lost device says so in the same words, and everything else goes on.

The device is lost in a process of its own, once for all cases; see `rlx.testing.conformance.lost_device`. A backend
offers the loss as a method `lose_device(ordinal)`; one that cannot lose a device lists these cases as unsupported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from weakref import WeakKeyDictionary

from rlx.testing.conformance.case import Programs, Subject, Suite
from rlx.testing.conformance.expect import expect
from rlx.testing.conformance.lost_device import PROMISES

SUITE = Suite("device_loss")
#: Seconds that the other process may take.
LIMIT_S = 200.0
_found: WeakKeyDictionary[Programs, dict[str, str | None]] = WeakKeyDictionary()


def _lost(subject: Subject) -> dict[str, str | None]:
    """What another process saw when it lost the device: promise -> what broke it."""
    if subject.programs not in _found:
        backend = subject.device.backend
        expect(
            hasattr(backend, "lose_device"),
            f"the backend {backend.kind!r} has no lose_device(ordinal); where it cannot, it lists device_loss/* as "
            "unsupported",
        )
        done = subprocess.run(
            [sys.executable, "-c", "from rlx.testing.conformance.lost_device import main; main()", str(subject.device)],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        if done.returncode or "Exception ignored" in done.stderr:
            why = f"the process that lost the device ended with {done.returncode}: ...{done.stderr[-1000:]}"
            _found[subject.programs] = {promise.__name__: why for promise in PROMISES}
        else:
            _found[subject.programs] = json.loads(done.stdout)
    return _found[subject.programs]


def _add(name: str) -> None:
    def case(subject: Subject) -> None:
        broken = _lost(subject)[name]
        expect(broken is None, str(broken))

    case.__name__ = name
    SUITE.case(case)


for _promise in PROMISES:
    _add(_promise.__name__)
