"""The process `rlx`: how a command line begins and ends.

The commands take a good part of a second to import, so this module imports nothing heavy and asks for them inside
what catches Ctrl-C: whenever it comes, the process ends as the other interrupted commands do.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

#: The exit code of an interrupted command, as shells count it.
INTERRUPTED = 130


def main() -> NoReturn:
    """Run this process's command line, and exit with its code."""
    try:
        code = import_module("rlx.cli.app").invoke(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201  # the terminal's own module may be half imported
        code = INTERRUPTED
    sys.exit(code)
