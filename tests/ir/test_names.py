"""The public face of `rlx` and `rlx.ir`: every promised name is there, and nothing heavy comes with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rlx
import rlx.ir

PROMISED = [
    "GraphBuilder", "Graph", "Node", "Value", "Parameter", "TensorType", "type_of", "Dim", "DType", "dtypes",
    "Location", "Op", "register", "get", "all_ops", "verify", "parse_text", "print_graph", "fingerprint",
    "fingerprint_parameters", "interpret", "specialize", "bind_dims",
]  # fmt: skip


@pytest.mark.parametrize("name", PROMISED)
def test_rlx_ir_hands_on(name: str) -> None:
    assert getattr(rlx.ir, name) is not None


def test_importing_the_ir_fills_the_registry() -> None:
    names = rlx.ir.all_ops()
    assert {"add", "dot_general", "scan", "softmax", "attention", "lstm"} <= set(names)


def test_dir_lists_the_lazy_names_and_a_wrong_one_is_an_attribute_error() -> None:
    assert {"load", "Session", "Options", "Graph", "ir", "driver", "runtime", "Device", "Buffer"} <= set(dir(rlx))
    with pytest.raises(AttributeError, match="module 'rlx' has no attribute 'Sesion'"):
        _ = rlx.Sesion


def test_importing_rlx_imports_none_of_its_layers() -> None:
    source = str(Path(rlx.__file__).parents[1])
    program = "import sys; sys.path.insert(0, sys.argv[1]); import rlx; print(*sorted(m for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program, source], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = done.stdout.split()
    assert "rlx" in loaded
    assert not [m for m in loaded if m.startswith(("rlx.ir", "rlx.driver", "rlx.runtime", "numpy", "llvmlite"))]
