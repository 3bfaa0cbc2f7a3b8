"""The measurements behind the page, in a JSON file: one cell at a time can be measured again.

A cell of the same revision, versions and machine gains the new processes beside those it has; any other is replaced.
Cells of another machine or of other versions are dropped when the file is read, since one page is of one machine.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from cell import Cell

from rlx.backends.cpu.host import cpu_name, supported_targets

_PACKAGES = ("rlx", "onnxruntime", "openvino", "torch", "jax", "numba", "numpy", "llvmlite")
_CHANGED = "changed since"


@dataclass
class Results:
    """All that is known: cells by workload and threads; tables of starting and of memory, in Markdown."""

    path: Path | None
    cells: dict[tuple[str, int], Cell] = field(default_factory=dict)
    startup: str | None = None
    memory: str | None = None

    @staticmethod
    def read(path: Path | None) -> Results:
        """What the file holds of this machine and these versions; empty where there is no file."""
        if path is None or not path.exists():
            return Results(path)
        found = json.loads(path.read_text(encoding="utf-8"))
        here = taken()
        cells = [Cell.from_json(cell) for cell in found["cells"]]
        return Results(
            path,
            {
                (c.workload, c.threads): c
                for c in cells
                if all(c.taken[key] == here[key] for key in ("machine", "versions"))
            },
            found["startup"],
            found["memory"],
        )

    def add(self, cell: Cell) -> Cell:
        """Take a cell in, beside or instead of what is known of it; the cell as it is kept."""
        known = self.cells.get((cell.workload, cell.threads))
        same = known is not None and known.taken == cell.taken and _CHANGED not in cell.taken["revision"]
        self.cells[cell.workload, cell.threads] = cell = known.joined(cell) if known is not None and same else cell
        return cell

    def write(self) -> None:
        """Replace the file, where there is one to write."""
        if self.path is not None:
            cells = ",\n".join(json.dumps(cell.to_json()) for cell in self.cells.values())  # a line each, for diffs
            texts = json.dumps({"startup": self.startup, "memory": self.memory})
            held = f'{texts[:-1]}, "cells": [\n{cells}\n]}}\n'
            beside = self.path.with_suffix(".part")
            beside.write_text(held, encoding="utf-8")
            beside.replace(self.path)


def taken() -> dict[str, str]:
    """What times of now are of: RLX's revision, the packages' versions, the machine."""
    return {
        "revision": _revision(),
        "versions": ", ".join(_versions()),
        "machine": f"{cpu_name()}, {os.cpu_count()} processors, {supported_targets()[0]}, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}",
    }


def _revision() -> str:
    """The last commit that changed what is timed, and whether files were changed since."""
    source = Path(__file__).parents[1] / "src" / "rlx"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments, "--", "."]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("log", "-1", "--format=%h") + (f", {_CHANGED}" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository: an installed copy
        return f"unknown, perhaps {_CHANGED}"


def _versions() -> list[str]:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return found
