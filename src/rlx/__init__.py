"""RLX: compile a machine-learning model into one native program, and run it on the device you name.

    model = rlx.load("model.onnx")
    program = rlx.Session("cpu").compile(model)
    outputs = program(input_ids=ids)

Every name is imported at its first use, so that `import rlx` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlx import driver as driver
    from rlx import ir as ir
    from rlx import runtime as runtime
    from rlx.driver import Buffer as Buffer
    from rlx.driver import Device as Device
    from rlx.frontends import load as load
    from rlx.ir import Graph as Graph
    from rlx.options import Options as Options
    from rlx.runtime import CompiledGraph as CompiledGraph
    from rlx.runtime import Session as Session
    from rlx.version import __version__ as __version__

#: Public name -> the module that defines it; an empty string marks a module of this package.
_HOMES = {
    "__version__": "rlx.version",
    "Buffer": "rlx.driver",
    "CompiledGraph": "rlx.runtime",
    "Device": "rlx.driver",
    "Graph": "rlx.ir",
    "Options": "rlx.options",
    "Session": "rlx.runtime",
    "driver": "",
    "errors": "",
    "ir": "",
    "load": "rlx.frontends",
    "runtime": "",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'rlx' has no attribute {name!r}")
    value = importlib.import_module(f"rlx.{name}") if home == "" else getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_HOMES, *(name for name in globals() if name.startswith("__"))})
