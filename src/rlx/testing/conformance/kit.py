"""The kit: every case on one device, and a score.

`conform(Device("mine"))` runs all suites and gives a `Score`; it conforms where nothing failed: no case, no expected
failure that passed, no line of the backend's lists that matches no case. A case that does not end in `LIMIT_S` fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rlx.driver import Device
from rlx.errors import UsageError, nearest
from rlx.testing.conformance.case import Case, Programs
from rlx.testing.conformance.expectations import Expectations
from rlx.testing.conformance.suites import SUITES
from rlx.testing.conformance.suites.numerics import numerics_cases
from rlx.version import __version__

#: Seconds that one case may take.
LIMIT_S = 300.0
Status = Literal["passed", "failed", "unsupported", "expected failure"]
SUITE_NAMES = (*(suite.name for suite in SUITES), "numerics")


@dataclass(frozen=True)
class Result:
    """How a case went. message: why it failed, or the reason that the backend gives."""

    id: str
    suite: str
    status: Status
    seconds: float
    message: str = ""


@dataclass(frozen=True)
class Score:
    """All results on one device. stale: lines of the backend's lists that match no case. full, seed: as asked for."""

    device: str
    name: str
    results: Sequence[Result]
    stale: Sequence[str]
    full: bool
    seed: int = 0

    @property
    def conforms(self) -> bool:
        return not self.stale and all(r.status != "failed" for r in self.results)

    def count(self, status: Status, suite: str | None = None) -> int:
        """How many cases went so, of all suites or of one."""
        return sum(r.status == status and suite in (None, r.suite) for r in self.results)

    @property
    def suites(self) -> list[str]:
        """Suites that were run, in their order."""
        return [name for name in SUITE_NAMES if any(r.suite == name for r in self.results)]

    def document(self) -> dict[str, Any]:
        """The score as JSON can hold it."""
        return {
            "device": self.device,
            "name": self.name,
            "rlx": __version__,
            "full": self.full,
            "seed": self.seed,
            "conforms": self.conforms,
            "counts": {status: self.count(status) for status in _STATUSES},
            "suites": {s: {status: self.count(status, s) for status in _STATUSES} for s in self.suites},
            "stale": list(self.stale),
            "cases": [asdict(r) for r in self.results],
        }


_STATUSES: tuple[Status, ...] = ("passed", "failed", "unsupported", "expected failure")


def all_cases(*, suites: Collection[str] = (), full: bool = False) -> list[Case]:
    """Every case, of all suites or of those named. full: numerics with every op, dtype and sample.

    Raises UsageError for an unknown suite.
    """
    for name in suites:
        if name not in SUITE_NAMES:
            close = nearest(name, SUITE_NAMES)
            raise UsageError(
                f"there is no suite {name!r}; there are: {', '.join(SUITE_NAMES)}",
                hint=f"did you mean {close!r}?" if close else None,
            )
    cases = [case for suite in SUITES for case in suite.cases] + numerics_cases(full=full)
    return [case for case in cases if not suites or case.suite in suites]


def conform(
    device: Device,
    *,
    suites: Collection[str] = (),
    full: bool = False,
    seed: int = 0,
    progress: Callable[[Result], None] = lambda result: None,
) -> Score:
    """Run the kit. seed: of all content, random queue graphs included. progress: told of each result.

    Raises DeviceNotFound, BrokenBackend, UsageError.
    """
    expectations = Expectations.of(device)
    programs = Programs(device)
    results: list[Result] = []
    try:
        for case in all_cases(suites=suites, full=full):
            results.append(run_case(case, programs, expectations, seed=seed))
            progress(results[-1])
    finally:
        programs.close()
    stale = expectations.stale(case.id for case in all_cases(full=True))
    return Score(str(device), device.properties.name, results, stale, full, seed)


def run_case(case: Case, programs: Programs, expectations: Expectations, *, seed: int = 0) -> Result:
    """Run one case as the backend's lists say."""
    reason = expectations.why_unsupported(case.id)
    if reason is not None:
        return Result(case.id, case.suite, "unsupported", 0.0, reason)
    start = time.perf_counter()
    failure = _failure_of(case, programs, seed)
    seconds = time.perf_counter() - start
    reason = expectations.why_failing(case.id)
    if reason is not None:
        if failure is None:
            said = f"it passed, though the backend says that it fails: {reason}"
            return Result(case.id, case.suite, "failed", seconds, said)
        return Result(case.id, case.suite, "expected failure", seconds, reason)
    if failure is None:
        return Result(case.id, case.suite, "passed", seconds)
    return Result(case.id, case.suite, "failed", seconds, failure)


def _failure_of(case: Case, programs: Programs, seed: int) -> str | None:
    """Why the case fails, or None. It runs on a thread of its own, so that one that hangs is left behind."""
    failures: list[str] = []

    def body() -> None:
        try:
            case.run(programs, seed=seed)
        except BaseException as error:  # noqa: BLE001  # whatever a device raises is a failure of the case
            failures.append(str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=body, name=case.id, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    if thread.is_alive():
        return f"it did not end in {LIMIT_S:.0f} s"
    return failures[0] if failures else None
