"""Every class that the driver gives out, and every backend, begins with its contract."""

import dataclasses
import inspect
import sys

import pytest

from rlx import driver
from rlx.driver.registry import registry

CLASSES = [getattr(driver, name) for name in driver.__all__ if inspect.isclass(getattr(driver, name))]
CLASSES += [type(registry.backend(kind)) for kind in ("cpu", "reference", "webgpu")]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_class_says_which_threads_may_call_it_or_never_changes(cls: type) -> None:
    contract = f"{cls.__doc__} {sys.modules[cls.__module__].__doc__}".lower()
    never_changes = dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert never_changes or "thread" in contract
