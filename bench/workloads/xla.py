"""JAX, held to so many threads: XLA has no option for it but the processors that the process may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def compiled(function: Callable[..., Any], threads: int) -> Callable[..., Any]:
    """The function jitted. Call it before anything else imports JAX in this process."""
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import jax

    return jax.jit(function)
