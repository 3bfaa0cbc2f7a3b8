"""Late names are what their modules define, whatever is imported first, and what type checkers are told."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ["rlx.ir", "rlx.driver", "rlx.runtime"]


def told(package: str) -> dict[str, str]:
    """Name -> module, as the package's imports for type checkers say."""
    tree = ast.parse(Path(importlib.import_module(package).__file__ or "").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname: node.module or ""
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_late_names_are_those_that_type_checkers_are_told(package: str) -> None:
    late = importlib.import_module(package).late_homes
    names = told(package)
    assert names
    from_elsewhere = set(importlib.import_module("rlx.driver").__all__) if package == "rlx.runtime" else set()
    assert {name: home for name, home in late.items() if name not in from_elsewhere} == names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_late_name_is_not_hidden_by_a_module_of_that_name_imported_first(package: str) -> None:
    code = f"""
import importlib, pkgutil, types, {package} as package
for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f"{package}.{{module.name}}")
for name, home in package.late_homes.items():
    module = importlib.import_module(f"{{home}}.{{name}}" if home == {package!r} else home)
    assert getattr(package, name) is (module if home == {package!r} else getattr(module, name)), name
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_name_of_a_late_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'rlx\.driver' has no attribute 'Bufer'"):
        _ = importlib.import_module("rlx.driver").Bufer


def test_importing_the_driver_imports_no_op_record() -> None:
    code = "import sys, rlx.driver, rlx.runtime; assert not [m for m in sys.modules if m.startswith('rlx.ir.ops')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
