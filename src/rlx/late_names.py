"""Names of a package that are imported at their first use, so that a process pays only for what it touches.

    late_names(__name__, {"rlx.driver.memory": "Block DeviceMemory"})

A package that does so lists the same imports under TYPE_CHECKING, for those who read types; a test holds the two
together. A late name stays what it is when a module of the same name is imported. Any thread may be the first to use
a name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any


class LatePackage(ModuleType):
    """A package with late names; `late_names` makes a package one."""

    late_homes: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        home = self.late_homes.get(name)
        if home is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if home == self.__name__:
            return importlib.import_module(f"{home}.{name}")
        value = getattr(importlib.import_module(home), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The import of a module sets its name.
        if not isinstance(value, ModuleType) or self.late_homes.get(name, self.__name__) == self.__name__:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *self.late_homes})


def late_names(package: str, homes: Mapping[str, str]) -> None:
    """Give `package` late names, which are also its `__all__`.

    homes: a module -> the names that the package hands on from it, separated by spaces; the package itself -> modules.
    """
    module = sys.modules[package]
    places = {name: home for home, names in homes.items() for name in names.split()}
    vars(module).update(late_homes=places, __all__=sorted(places))
    module.__class__ = LatePackage
