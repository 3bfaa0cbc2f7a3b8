"""The application `rlx`: which commands there are, and how every one of them ends.

An error that RLX raises on purpose is printed without a traceback, and the exit code says what kind it was (see
`rlx.cli.exit_codes`); any other exception is a defect of RLX and keeps its traceback. Ctrl-C ends with 130.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from rlx.cli.bench import bench
from rlx.cli.conformance import conformance
from rlx.cli.devices import devices
from rlx.cli.doctor import doctor
from rlx.cli.exit_codes import ExitCode, exit_code_of
from rlx.cli.inspect import inspect
from rlx.cli.plan import plan
from rlx.cli.run import run
from rlx.cli.terminal import print_error, print_note
from rlx.cli.tune import tune
from rlx.errors import RLXError, UsageError
from rlx.version import __version__

app = typer.Typer(
    name="rlx",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (run, inspect, bench, tune, devices, doctor, conformance, plan):
    app.command()(command)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Compile whole models into native programs, and run them."""
    if version:
        typer.echo(f"rlx {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; only a defect of RLX raises."""
    as_json = "--json" in arguments
    try:
        code = typer.main.get_command(app).main(list(arguments), prog_name="rlx", standalone_mode=False)
    except RLXError as error:
        print_error(error, as_json=as_json)
        return exit_code_of(error)
    except typer.TyperException as error:
        hint = "rlx --help lists the commands, rlx COMMAND --help their options"
        print_error(UsageError(error.format_message(), hint=hint), as_json=as_json)
        return ExitCode.USAGE
    if code == ExitCode.INTERRUPTED:
        print_note("interrupted")
    return code or ExitCode.OK
