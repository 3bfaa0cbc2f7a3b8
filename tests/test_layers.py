"""The architecture, held by tests: who may import whom, what an import loads, and that it starts nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter import cli as import_linter

ROOT = Path(__file__).resolve().parent.parent

#: Loaded by nothing that a program's caller imports before it compiles.
HEAVY = {"llvmlite", "onnx", "onnxruntime", "torch", "tokenizers", "typer", "rich", "click", "google"}


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_after(statement: str) -> set[str]:
    """Names in sys.modules of a fresh interpreter after `statement`."""
    return set(json.loads(run_python(f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))")))


def loaded_of(modules: set[str], *packages: str) -> set[str]:
    return {m for m in modules if any(m == p or m.startswith(f"{p}.") for p in packages)}


def test_every_layer_imports_only_what_stands_below_it():
    assert import_linter.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize("module", ["rlx", "rlx.ir", "rlx.driver", "rlx.runtime", "rlx.frontends"])
def test_an_import_loads_no_compiler_no_file_format_and_no_terminal(module):
    assert loaded_of(modules_after(f"import {module}"), *HEAVY) == set()


def test_the_driver_needs_no_layer_above_it():
    above = ("passes", "codegen", "backends", "runtime", "frontends", "cli")
    assert loaded_of(modules_after("import rlx.driver"), *(f"rlx.{layer}" for layer in above)) == set()


def test_the_ir_needs_no_other_layer():
    others = ("driver", "passes", "codegen", "backends", "runtime", "frontends", "cli")
    assert loaded_of(modules_after("import rlx.ir"), *(f"rlx.{layer}" for layer in others)) == set()


def test_a_backend_needs_no_runtime():
    found = modules_after("import rlx.backends.cpu, rlx.backends.reference")
    assert loaded_of(found, "rlx.runtime", "rlx.frontends", "rlx.cli", "llvmlite") == set()


@pytest.mark.parametrize("module", ["rlx", "rlx.driver", "rlx.backends.cpu", "rlx.backends.reference", "rlx.frontends"])
def test_an_import_starts_no_thread_and_reads_no_environment_of_ours(module):
    code = f"""
import os, numpy, ml_dtypes
before = len(os.listdir("/proc/self/task"))  # NumPy's BLAS has threads of its own
os.environ.update(RLX_THREADS="none", RLX_CACHE="perhaps")
import {module}
print(len(os.listdir("/proc/self/task")) - before)
"""
    assert run_python(code).strip() == "0"


def test_every_public_name_is_there():
    assert "load" in run_python("import rlx\nfor n in dir(rlx): getattr(rlx, n); print(n)").split()


def test_every_driver_name_is_importable_from_the_runtime():
    run_python("import rlx.driver, rlx.runtime\nfor n in rlx.driver.__all__: assert hasattr(rlx.runtime, n), n")


def test_a_cached_program_loads_and_runs_where_no_compiler_can_be_imported(tmp_path):
    build = """
import numpy as np, rlx
from rlx.ir.dtypes import f32
b = rlx.ir.GraphBuilder("g")
x = b.input("x", rlx.ir.TensorType((7,), f32))
graph = b.build({"y": b.emit("tanh", b.emit("exp", x))})
program = rlx.Session("cpu", rlx.Options(cache_dir=CACHE)).compile(graph)
print(program.report.cache, program(x=np.zeros(7, np.float32))["y"][0])
"""
    block = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("llvmlite", "rlx.passes", "rlx.codegen", "rlx.frontends", "rlx.cli")):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
"""
    cache = f"CACHE = {str(tmp_path / 'cache')!r}\n"
    origin, first = run_python(cache + build).split()
    assert origin == "compiled"
    assert run_python(cache + block + build).split() == ["disk", first]
