"""The driver stands alone: using it loads no compiler, no backend, no runtime."""

from __future__ import annotations

import ast
import subprocess
import sys

FORBIDDEN = (
    "llvmlite", "onnx", "typer", "rich", "rlx.passes", "rlx.codegen", "rlx.backends", "rlx.runtime", "rlx.frontends",
    "rlx.cli",
)  # fmt: skip


def _loaded_after(program: str) -> set[str]:
    """Names of FORBIDDEN that a fresh process has loaded after `program`."""
    report = f"\nimport sys\nprint([n for n in {FORBIDDEN!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program + report], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_importing_the_driver_loads_no_layer_above_it() -> None:
    assert _loaded_after("import rlx.driver") == set()


def test_host_buffers_plans_arenas_and_streams_work_without_any_layer_above() -> None:
    program = """
import numpy as np
from rlx.driver import Buffer, CommandStream, DeviceArena, HOST, Interval, plan_memory
from rlx.ir.dtypes import f32
from rlx.ir.types import TensorType
plan = plan_memory([Interval("a", 0, 2, 64), Interval("b", 1, 3, 64)])
with DeviceArena(HOST, plan, debug=True) as arena, CommandStream() as stream:
    a = arena.value("a", TensorType((16,), f32))
    stream.fill(a, 2.0)
    stream.synchronize()
    assert Buffer.from_dlpack(a).copy().numpy().sum() == 32
    arena.check()
"""
    assert _loaded_after(program) == set()


def test_the_check_notices_a_layer_that_is_loaded() -> None:
    assert _loaded_after("import rlx.backends.reference") == {"rlx.backends"}


def test_asking_for_a_device_loads_its_backend_and_no_compiler() -> None:
    assert _loaded_after("from rlx.driver import Device; Device('cpu').properties") == {"rlx.backends"}


def test_importing_the_driver_starts_no_thread_and_opens_no_device() -> None:
    program = "import rlx.driver, threading, sys; print(threading.active_count(), rlx.driver.registry._backends)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "1 {}"
