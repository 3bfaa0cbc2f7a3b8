"""`rlx doctor`: what works here and what is missing, with the command that mends it.

Each check does the thing itself: it imports the package, compiles and runs a small program, writes to the cache's
directory. A finding is needed (without it RLX does not work here) or optional (something cannot be used).
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata

import numpy as np
import typer

from rlx.cli.devices import feature_texts
from rlx.cli.exit_codes import ExitCode
from rlx.cli.program import JsonOption
from rlx.cli.terminal import print_json, print_note, print_table
from rlx.driver import Device
from rlx.driver.registry import registry
from rlx.errors import RLXError
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.options import Options
from rlx.runtime import CompiledModel, Session
from rlx.version import __version__

_NEEDED = ("numpy", "ml_dtypes", "llvmlite", "typer", "rich")
#: package -> what it is for, and the command that brings it.
_OPTIONAL = {
    "pillow": ("drawing .png files", "pip install 'rlx[png]'"),
    "tokenizers": ("turning text into tokens", "pip install 'rlx[text]'"),
    "onnxruntime": ("comparing with onnxruntime", "pip install onnxruntime"),
}


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it works, what was seen, and how to mend it."""

    subject: str
    works: bool
    needed: bool
    seen: str
    mend: str = ""


def doctor(as_json: JsonOption = False) -> None:
    """Say what works here and what is missing. Ends with 1 where something needed does not work."""
    findings = list(examine())
    healthy = all(f.works for f in findings if f.needed)
    if as_json:
        print_json({"healthy": healthy, "findings": [asdict(f) for f in findings]})
    else:
        rows = [(_state(f), f.subject, f.seen, "" if f.works else f.mend) for f in findings]
        print_table(f"rlx {__version__} on {platform.platform()}", ("", "what", "seen", "to mend it"), rows)
        print_note("everything needed works" if healthy else "something needed does not work: see MISSING above")
    if not healthy:
        raise typer.Exit(ExitCode.FAILED)


def _state(finding: Finding) -> str:
    return "ok" if finding.works else "MISSING" if finding.needed else "no"


def examine() -> Iterator[Finding]:
    """All findings, needed ones first."""
    yield Finding(
        "python", sys.version_info >= (3, 11), True, platform.python_version(), "install Python 3.11 or newer"
    )
    for package in _NEEDED:
        yield _package(package, True, "", f"pip install {package}")
    for device in Device.all():
        yield _program(device)
    for problem in registry.problems():
        yield Finding("backend", False, False, problem.message, problem.hint or "")
    yield _cache()
    for package, (use, command) in _OPTIONAL.items():
        yield _package(package, False, use, command)


def _package(name: str, needed: bool, use: str, command: str) -> Finding:
    try:
        return Finding(name, True, needed, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, False, needed, f"not installed: {use}" if use else "not installed", command)


def _program(device: Device) -> Finding:
    """Compiles and runs y = x + 1 there."""
    b = GraphBuilder("doctor")
    x = b.input("x", TensorType((5,), f32))
    graph = b.build({"y": b.binary("add", x, 1.0)})
    given = np.arange(5, dtype=np.float32)
    try:
        program = Session(device, Options(cache=False)).compile(graph)
        right = not isinstance(program, CompiledModel) and bool(
            np.array_equal(program.run({"x": given})["y"], given + 1)
        )
    except RLXError as error:
        return Finding(f"device {device}", False, device.kind == "cpu", error.message, error.hint or "")
    except ImportError as error:
        return Finding(f"device {device}", False, device.kind == "cpu", str(error), "pip install --force-reinstall rlx")
    properties = device.properties
    seen = ", ".join([properties.name, *feature_texts(properties.features)])
    return Finding(
        f"device {device}",
        right,
        device.kind == "cpu",
        seen if right else "a program gives a wrong answer",
        "" if right else "report this with the output of rlx doctor --json",
    )


def _cache() -> Finding:
    """Writes to the compile cache's directory."""
    directory = Options().cache_dir
    mend = "set RLX_CACHE_DIR to a directory of yours, or RLX_CACHE=0"

    def refused(why: str) -> Finding:
        return Finding("compile cache", False, False, f"{directory}: {why}", mend)

    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            status = directory.stat()
    except OSError as error:
        return refused(error.strerror or str(error))
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        return refused("others own it or may write it")
    entries = [p.stat().st_size for p in directory.iterdir() if p.is_file()]
    return Finding("compile cache", True, False, f"{directory}: {len(entries)} files, {sum(entries):,} bytes")
