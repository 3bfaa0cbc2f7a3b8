"""Pytest's face of the kit, for a package that brings a backend: every case is a test.

    # conftest.py
    pytest_plugins = ["rlx.testing.conformance.pytest_plugin"]

    # test_conformance.py
    def test_the_device_conforms(rlx_conformance):
        rlx_conformance()

    pytest --rlx-device mine:0 [--rlx-conformance-full]

Without `--rlx-device` the test is held to the ini value `rlx_device`. Unsupported cases are skips and expected failures
are xfails, both with the backend's reason; an expected failure that passes fails. A line of the backend's lists that no
case matches ends the session at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rlx.driver import Device
from rlx.testing.conformance.case import Case, Programs
from rlx.testing.conformance.expectations import Expectations
from rlx.testing.conformance.kit import all_cases, run_case

_FIXTURE = "rlx_conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rlx", "RLX conformance")
    group.addoption("--rlx-device", metavar="DEVICE", help="the device that the conformance kit tests")
    group.addoption("--rlx-conformance-full", action="store_true", help="numerics of every op, dtype and sample")
    parser.addini("rlx_device", "the device that the conformance kit tests", default="")


def _device(config: pytest.Config) -> Device:
    name = config.getoption("--rlx-device") or config.getini("rlx_device")
    if not name:
        raise pytest.UsageError("say which device to test: --rlx-device, or rlx_device in pytest's ini section")
    return Device(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if _FIXTURE in metafunc.fixturenames:
        stale = Expectations.of(_device(metafunc.config)).stale(case.id for case in all_cases(full=True))
        if stale:
            raise pytest.UsageError(f"the backend's lists name {', '.join(map(repr, stale))}, which no case matches")
        cases = all_cases(full=bool(metafunc.config.getoption("--rlx-conformance-full")))
        metafunc.parametrize(_FIXTURE, cases, ids=[case.id for case in cases], indirect=True)


@pytest.fixture(scope="session")
def _rlx_conformance_programs(request: pytest.FixtureRequest) -> Iterator[Programs]:
    programs = Programs(_device(request.config))
    yield programs
    programs.close()


@pytest.fixture
def rlx_conformance(request: pytest.FixtureRequest, _rlx_conformance_programs: Programs) -> Callable[[], None]:
    """Call it to run the case: it returns, fails, skips or xfails."""
    case: Case = request.param
    programs = _rlx_conformance_programs

    def run() -> None:
        result = run_case(case, programs, Expectations.of(programs.device))
        if result.status == "unsupported":
            pytest.skip(result.message)
        if result.status == "expected failure":
            pytest.xfail(result.message)
        if result.status == "failed":
            pytest.fail(f"{case.id}: {result.message}", pytrace=False)

    return run
