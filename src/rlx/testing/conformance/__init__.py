"""The conformance kit: what every device promises, as cases that any backend can be held to.

Three ways to run it: `rlx conformance --device D`; `conform(Device("d"))`; and pytest's plug-in
`rlx.testing.conformance.pytest_plugin`, for a package that brings a backend.
"""

from rlx.testing.conformance.case import Case, Programs, Subject, Suite
from rlx.testing.conformance.expectations import Expectations
from rlx.testing.conformance.kit import SUITE_NAMES, Result, Score, all_cases, conform, run_case
from rlx.testing.conformance.page import score_page

__all__ = [
    "SUITE_NAMES",
    "Case",
    "Expectations",
    "Programs",
    "Result",
    "Score",
    "Subject",
    "Suite",
    "all_cases",
    "conform",
    "run_case",
    "score_page",
]
