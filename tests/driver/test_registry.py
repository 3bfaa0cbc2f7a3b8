"""Backends are found by entry point, imported when asked for, and refused with the distribution's name."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlx.driver import Device, Registry
from rlx.driver.registry import BUILT_IN, Entry, installed_entries
from rlx.errors import BrokenBackend, DeviceNotFound, DuplicateBackend


def _registry(*entries: Entry) -> Registry:
    return Registry({"reference": BUILT_IN["reference"]}, lambda: list(entries))


def _distribution(folder: Path, name: str, entry: str, module: str = "", code: str = "") -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rlx.backends]\n{entry}\n")
    if module:
        (folder / f"{module}.py").write_text(code)


def test_a_strangers_package_adds_a_device_without_touching_ours(opaque: Device) -> None:
    assert opaque.properties.name == "Opaque"
    assert Device("opaque:1") in Device.all()


def test_a_package_installed_after_the_first_search_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry({}, installed_entries)
    with pytest.raises(DeviceNotFound):
        registry.backend("late")
    _distribution(
        tmp_path,
        "late-device",
        "late = late_device:backend",
        "late_device",
        "from rlx.backends.reference import backend as b\nclass Late(type(b)):\n    kind = 'late'\nbackend = Late()\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.backend("late").kind == "late"


def test_built_in_kinds_are_known_without_a_search() -> None:
    def search() -> list[Entry]:
        raise AssertionError("searched")

    assert Registry(BUILT_IN, search).backend("reference").kind == "reference"


def test_a_source_checkout_without_installed_metadata_has_both_devices() -> None:
    source = Path(sys.modules["rlx"].__file__ or "").parents[1]
    program = f"import sys; sys.path[:0] = [{str(source)!r}]; from rlx.driver import Device; print(*Device.all())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, cwd="/", env={}
    )
    assert {"cpu:0", "reference:0"} <= set(done.stdout.split())


def test_two_distributions_that_claim_one_kind_are_both_named() -> None:
    registry = _registry(Entry("npu", "a:b", "first-npu"), Entry("npu", "c:d", "second-npu"))
    with pytest.raises(DuplicateBackend, match="'first-npu' and 'second-npu'"):
        registry.backend("npu")


def test_a_claim_to_a_built_in_kind_is_ignored_and_reported() -> None:
    registry = _registry(Entry("reference", "evil:backend", "usurper"))
    assert type(registry.backend("reference")).__module__ == "rlx.backends.reference.backend"
    (problem,) = registry.problems()
    assert isinstance(problem, DuplicateBackend)
    assert "usurper" in str(problem)


def test_our_own_metadata_is_no_second_claim() -> None:
    registry = _registry(Entry("reference", BUILT_IN["reference"], "rlx"))
    assert registry.problems() == ()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_module_anywhere:backend", "ModuleNotFoundError"),
        ("rlx.backends.reference:no_such_attribute", "AttributeError"),
        ("this", "is not declared as"),
        ("json:dumps", "without kind, compiler"),
        ("rlx.backends.reference:backend", "calls itself 'reference'"),
    ],
)
def test_a_broken_backend_names_its_distribution_and_what_is_wrong(value: str, why: str) -> None:
    registry = _registry(Entry("npu", value, "npu-for-rlx"))
    with pytest.raises(BrokenBackend, match=why) as caught:
        registry.backend("npu")
    assert "npu-for-rlx" in str(caught.value)
    assert value in str(caught.value)


def test_a_backend_that_fails_while_it_is_imported_keeps_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _distribution(tmp_path, "bad-device", "bad = bad_device:backend", "bad_device", "raise OSError('no driver')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BrokenBackend, match="no driver") as caught:
        Registry({}, installed_entries).backend("bad")
    assert "bad-device" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_broken_backend_does_not_hide_the_others() -> None:
    registry = _registry(Entry("npu", "no_such_module_anywhere:backend", "npu-for-rlx"))
    assert registry.kinds() == ("reference", "npu")
    assert registry.available() == (("reference", 0),)
    (problem,) = registry.problems()
    assert "npu-for-rlx" in str(problem)


def test_threads_that_ask_at_once_get_one_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import time; time.sleep(0.05)\nfrom rlx.backends.reference import backend as b\n"
        "class Slow(type(b)):\n    kind = 'slow'\ndef __getattr__(name):\n    return Slow()\n"
    )
    (tmp_path / "slow_device.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = _registry(Entry("slow", "slow_device:a_new_one_each_time", "slow-device"))
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(registry.backend("slow"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_a_backend_of_this_process_is_added_and_removed() -> None:
    backend = Registry(BUILT_IN).backend("reference")
    mine = type("Mine", (type(backend),), {"kind": "mine"})()
    registry = _registry()
    registry.add(mine)
    assert registry.backend("mine") is mine
    assert registry.kinds() == ("reference", "mine")
    assert ("mine", 0) in registry.available()
    with pytest.raises(DuplicateBackend, match="'mine' is claimed already"):
        registry.add(mine)
    with pytest.raises(DuplicateBackend):
        registry.add(backend)
    registry.remove("mine")
    registry.remove("reference")
    assert registry.kinds() == ("reference",)
    with pytest.raises(DeviceNotFound):
        registry.backend("mine")
    with pytest.raises(BrokenBackend, match="is a object without kind, compiler"):
        registry.add(object())  # type: ignore[arg-type]
