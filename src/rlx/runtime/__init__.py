"""The engine: sessions, compiled programs, the compile cache; every driver name is here too.

Names are imported at their first use.
"""

from typing import TYPE_CHECKING

from rlx import driver
from rlx.late_names import late_names

if TYPE_CHECKING:
    from rlx.driver import *  # noqa: F403  # every driver name is the runtime's too; for type checkers alone
    from rlx.options import Options as Options
    from rlx.runtime.model import CompiledModel as CompiledModel
    from rlx.runtime.prepared import PreparedCommands as PreparedCommands
    from rlx.runtime.program import CompiledGraph as CompiledGraph
    from rlx.runtime.report import Report as Report
    from rlx.runtime.session import Session as Session

late_names(
    __name__,
    {
        "rlx.driver": " ".join(vars(driver)["__all__"]),
        "rlx.options": "Options",
        "rlx.runtime.model": "CompiledModel",
        "rlx.runtime.prepared": "PreparedCommands",
        "rlx.runtime.program": "CompiledGraph",
        "rlx.runtime.report": "Report",
        "rlx.runtime.session": "Session",
    },
)
