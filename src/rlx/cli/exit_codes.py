"""What the exit code of `rlx` means, for scripts."""

from __future__ import annotations

from enum import IntEnum

from rlx.cli import entry
from rlx.errors import (
    DeviceNameError,
    DeviceNotFound,
    InputMismatch,
    MissingExtra,
    OpenShape,
    RLXError,
    RunError,
    UsageError,
)
from rlx.options import OptionError


class ExitCode(IntEnum):
    """OK: it worked. FAILED: the model, the compiler or the machine did not. USAGE: the command line asks for nonsense.
    NO_DEVICE: the device is not here. NOT_INSTALLED: a package is missing; the message says which command brings it.
    INTERRUPTED: by Ctrl-C, as shells count it.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_DEVICE = 3
    NOT_INSTALLED = 4
    INTERRUPTED = entry.INTERRUPTED


def exit_code_of(error: RLXError) -> ExitCode:
    """The code with which `rlx` ends after `error`."""
    match error:
        case UsageError() | DeviceNameError() | OptionError() | InputMismatch() | OpenShape() | RunError():
            return ExitCode.USAGE
        case DeviceNotFound():
            return ExitCode.NO_DEVICE
        case MissingExtra():
            return ExitCode.NOT_INSTALLED
        case _:
            return ExitCode.FAILED
