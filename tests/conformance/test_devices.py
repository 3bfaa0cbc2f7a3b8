"""The devices that RLX brings, and the example plug-in, keep every promise that the kit knows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlx.driver import Device
from rlx.testing.conformance import Case, Expectations, Programs, all_cases, run_case

CASES = [case for case in all_cases() if case.suite != "numerics"]
NUMERICS = [case for case in all_cases() if case.suite == "numerics"]


@pytest.fixture(scope="module", params=["reference", "cpu", "opaque"])
def programs(request: pytest.FixtureRequest, plugin_path: list[str]) -> Iterator[Programs]:
    loaded = Programs(Device(request.param))
    yield loaded
    loaded.close()


def _run(case: Case, programs: Programs) -> None:
    result = run_case(case, programs, Expectations.of(programs.device))
    if result.status == "unsupported":
        pytest.skip(result.message)
    if result.status == "expected failure":
        pytest.xfail(result.message)
    assert result.status == "passed", result.message


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_the_device_keeps_the_drivers_promises(case: Case, programs: Programs) -> None:
    _run(case, programs)


@pytest.mark.parametrize("kind", ["reference", "cpu", "opaque"])
def test_every_line_of_the_lists_names_a_case(kind: str, opaque: Device) -> None:
    assert Expectations.of(Device(kind)).stale(case.id for case in all_cases(full=True)) == []


def test_the_reference_device_computes_what_the_records_say() -> None:
    _numerics("reference", NUMERICS)


def test_the_cpu_computes_what_a_few_records_say() -> None:
    """A few: tests/backends/cpu/test_ops.py holds the CPU to every sample of every record."""
    _numerics("cpu", NUMERICS[::12])


@pytest.mark.slow
@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_a_device_computes_what_every_record_says_for_every_dtype(device: str) -> None:
    _numerics(device, [case for case in all_cases(full=True) if case.suite == "numerics"])


def _numerics(device: str, cases: list[Case]) -> None:
    programs, expectations = Programs(Device(device)), Expectations.of(Device(device))
    results = [run_case(case, programs, expectations) for case in cases]
    programs.close()
    assert [f"{r.id}: {r.message}" for r in results if r.status == "failed"] == []
    assert any(r.status == "passed" for r in results)
