"""The engine: sessions, compiled programs, the compile cache; every driver name is here too."""

from rlx.driver import *  # noqa: F403  # the driver's names, as its __all__ lists them
from rlx.driver import __all__ as _driver_names
from rlx.options import Options
from rlx.runtime.model import CompiledModel
from rlx.runtime.prepared import PreparedCommands
from rlx.runtime.program import CompiledGraph
from rlx.runtime.report import Report
from rlx.runtime.session import Session

__all__ = ["CompiledGraph", "CompiledModel", "Options", "PreparedCommands", "Report", "Session", *_driver_names]
